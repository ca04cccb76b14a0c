"""Entries speak where their headword ends and nowhere else, however the text reaches the model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vademecum as vm
from tests import tiny
from vademecum.memory.entries import EntryGates

HEADWORDS = (((7, 8), (9,)), ((7, 8), (5, 7, 8)), ((11,),))


def attached(name: str = "qwen3", headwords: Any = HEADWORDS, **settings: Any) -> Any:
    model = vm.attach(tiny.host(name), vm.Entries(headwords=headwords, **settings))
    tiny.shake(model)
    return model


def values(model: Any, ids: Tensor, layer: int = 0, **given: Any) -> Tensor:
    """What the layer's value site puts out."""
    found = []
    site = model.model.layers[layer].self_attn.v_proj
    handle = site.register_forward_hook(lambda _, __, out: found.append(out))
    with torch.no_grad():
        model(input_ids=ids, **given)
    handle.remove()
    return found[0]


def changed(model: Any, ids: Tensor, **given: Any) -> list[list[int]]:
    """The places where the first layer's values are other bits than without the memory."""
    with vm.knocked_out(model):
        before = values(model, ids, **copy.deepcopy(given))  # a cache is filled by the forward
    return (values(model, ids, **copy.deepcopy(given)) != before).any(-1).nonzero().tolist()


def test_values_change_at_headwords_ends_and_nowhere_else_bit_for_bit() -> None:
    ids = torch.tensor([[1, 7, 8, 3, 9, 8], [8, 7, 7, 8, 2, 11]])
    assert changed(attached(), ids) == [[0, 2], [0, 4], [1, 3], [1, 5]]


def test_a_text_without_a_headword_has_the_hosts_very_logits() -> None:
    model, ids = attached(), torch.tensor([[1, 8, 7, 3, 2, 4]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, tiny.host("qwen3")(input_ids=ids).logits)


def test_the_equation_with_entries_that_share_a_headword_and_the_longest_that_wins() -> None:
    model = attached()
    (_, _, site), *_ = vm.memories(model).sites()
    part = site.memory["entries"]
    seen = []
    handle = part.register_forward_hook(lambda _, given, out: seen.append((given[0], given[1], out)))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 7, 8, 1, 7, 8]]))
    handle.remove()
    value, hidden, out = (one[0] for one in seen[0])
    said = out.flatten(1) - value.flatten(1)
    gates = 2 * torch.sigmoid(hidden @ part.gate.weight.t() + part.gate.bias[:, 0])
    rows = part.rows.weight
    torch.testing.assert_close(said[2], gates[2, 1] * rows[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said[5], gates[5, 0] * rows[0] + gates[5, 1] * rows[1], rtol=1e-4, atol=1e-5)
    assert not said[[0, 1, 3, 4]].any()


def spoken(text: list[int], headwords: Any, reach: str) -> list[set[int]]:
    """By token, the entries that speak there."""
    found: list[set[int]] = []
    for end in range(1, len(text) + 1):
        here = [(len(one), entry) for entry, own in enumerate(headwords) for one in own if ends(text[:end], one)]
        longest = max((size for size, _ in here), default=0)
        before = found[-1] if found and reach == "after" else set()
        found.append(before | {entry for size, entry in here if size == longest})
    return found


def ends(text: list[int], spelling: tuple[int, ...]) -> bool:
    return tuple(text[-len(spelling) :]) == spelling


@pytest.mark.parametrize("reach", ["end", "after"])
@pytest.mark.parametrize("rows", ["per layer", "shared"])
def test_output_and_all_gradients_are_those_of_the_equation(rows: str, reach: str) -> None:
    """The host alone, with the equation written out token by token behind its value projections."""
    ids = torch.tensor([[5, 7, 8, 1, 7, 8, 11, 2], [1, 9, 7, 8, 11, 11, 3, 4]])
    model = vm.attach(
        tiny.host("qwen3").double(), vm.Entries(headwords=HEADWORDS, reach=reach, rows=rows, conditions=2)
    )
    tiny.shake(model)
    bare = tiny.host("qwen3").double()
    names = [name for name in vm.memories(model).named() if name.startswith("entries.")]
    leaves = {
        f"{name}.{inner}": one.detach().clone().requires_grad_()
        for name in names
        for inner, one in vm.memories(model).named()[name].named_parameters()
    }
    assert ("entries.shared.rows.weight" in leaves) == (rows == "shared")
    assert ("entries.layers.0.rows.weight" in leaves) == (rows == "per layer")

    def added(layer: int) -> Any:
        weight, bias = (leaves[f"entries.layers.{layer}.gate.{name}"] for name in ("weight", "bias"))
        table = leaves["entries.shared.rows.weight" if rows == "shared" else f"entries.layers.{layer}.rows.weight"]

        def hook(_: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            said = []
            for row, text in enumerate(ids.tolist()):
                for place, entries in enumerate(spoken(text, HEADWORDS, reach)):
                    total, seen = torch.zeros_like(out[row, place]), given[0][row, place]
                    for entry in entries:
                        first, second = weight[entry].view(2, -1)
                        gate = (
                            4
                            * torch.sigmoid(first @ seen + bias[entry, 0])
                            * torch.sigmoid(second @ seen + bias[entry, 1])
                        )
                        total = total + gate * table[entry]
                    said.append(total)
            return out + torch.stack(said).view_as(out)

        return hook

    for number, layer in enumerate(bare.model.layers):
        layer.self_attn.v_proj.register_forward_hook(added(number))
    found, expected = (one(input_ids=ids, labels=ids) for one in (model, bare))
    torch.testing.assert_close(found.logits, expected.logits)
    found.loss.backward()
    expected.loss.backward()
    for name in names:
        for inner, own in vm.memories(model).named()[name].named_parameters():
            gradient = leaves[f"{name}.{inner}"].grad
            assert gradient.abs().sum() > 0
            torch.testing.assert_close(own.grad, gradient, msg=f"{name}.{inner}")
    theirs = dict(bare.named_parameters())
    for name, parameter in model.named_parameters():
        if "memory" not in name and not name.startswith("vademecum."):
            torch.testing.assert_close(parameter.grad, theirs[name.replace(".host.", ".")].grad, msg=name)


def test_rows_that_layers_share_are_there_once_and_counted_once() -> None:
    own, shared = attached(), attached(rows="shared")
    shape, layers = vm.memories(own).shape, vm.memories(own).shape.layers
    width, gate = shape.value_heads * shape.value_dim, shape.hidden + 1
    costs = [vm.memories(one).cost() for one in (own, shared)]
    assert [cost.params for cost in costs] == [3 * layers * (width + gate), 3 * (width + layers * gate)]
    assert [cost.active_params for cost in costs] == [layers * (width + gate), width + layers * gate]
    assert [cost.bytes_per_token for cost in costs] == [4 * cost.active_params for cost in costs]
    groups = {group["role"]: group["names"] for group in vm.param_groups(shared, lr=0.1)}
    assert groups["bank"] == ["vademecum.shared.entries.rows.weight"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shared_rows_are_saved_loaded_and_moved_to_another_number_type(dtype: torch.dtype, tmp_path: Path) -> None:
    model, ids = attached(rows="shared"), torch.tensor([[5, 7, 8, 1, 9, 11]])
    vm.save(model, tmp_path / "memory")
    found = vm.load(tiny.host("qwen3"), tmp_path / "memory")
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        assert torch.equal(found(input_ids=ids).logits, whole)
        found.to(dtype)
        assert vm.memories(found).shared["entries"].rows.weight.dtype == dtype
        other = vm.load(tiny.host("qwen3").to(dtype), tmp_path / "memory")
        said = other(input_ids=ids).logits
        assert torch.equal(said, found(input_ids=ids).logits)
        assert said.dtype == dtype
    torch.testing.assert_close(said.float(), whole, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="with other settings than are attached"):
        vm.load(attached(), tmp_path / "memory")


def test_entries_that_were_saved_before_rows_could_be_shared_have_rows_per_layer() -> None:
    saved = vm.Entries(headwords=HEADWORDS).to_dict()
    assert saved.pop("rows") == "per layer"
    assert vm.kinds.from_dict(saved) == vm.Entries(headwords=HEADWORDS)
    with pytest.raises(ValueError, match=r"rows='layer'.*'per layer' or 'shared'"):
        vm.Entries(rows="layer")


def test_an_entry_speaks_where_all_of_its_conditions_hold() -> None:
    gates = EntryGates(3, 4, conditions=2, dtype=torch.float64, device=torch.device("cpu"))
    with torch.no_grad():
        gates.weight.normal_()
        gates.bias.normal_()
    hidden, entries = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    for place, entry in enumerate(entries):
        each = 2 * torch.sigmoid(gates.weight[entry].view(2, 4) @ hidden[place, :4] + gates.bias[entry])
        torch.testing.assert_close(gates(hidden, entries)[place], each[0] * each[1])


def test_entries_may_speak_from_a_headwords_end_on_across_forwards_and_in_their_own_text_alone() -> None:
    model = attached(reach="after")
    ids = torch.tensor([[1, 7, 8, 3, 2, 8], [8, 7, 7, 2, 2, 1], [2, 2, 2, 2, 2, 11]])
    assert changed(model, ids) == [[0, 2], [0, 3], [0, 4], [0, 5], [2, 5]]
    with torch.no_grad():
        cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    assert changed(model, ids[:, 4:], past_key_values=cache) == [[0, 0], [0, 1], [2, 1]]
    again = torch.tensor([[11, 2, 11, 11, 1]])  # the same entry does not speak twice
    once = values(model, again)
    other = attached(reach="after", headwords=(*HEADWORDS[:2], ((11,), (2, 11))))
    torch.testing.assert_close(values(other, again), once)


def test_texts_that_are_packed_into_one_row_are_refused_where_entries_speak_to_its_end() -> None:
    model, ids = attached(reach="after"), torch.tensor([[1, 7, 8, 3, 2, 5]])
    for packed in ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 1]):
        with pytest.raises(
            ValueError, match=r"position_ids go back at token 3 of row 0.*give each text a row of its own"
        ):
            model(input_ids=ids, position_ids=torch.tensor([packed]))
    block = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).tril().bool()[None, None]
    with pytest.raises(ValueError, match="position_ids go back at token 3"):
        model(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), attention_mask=block)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids, position_ids=torch.arange(6)[None]).logits, whole)
    attached()(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_texts_whose_positions_begin_after_the_padding_are_not_packed(cache: str, attention: str) -> None:
    model = attached(reach="after").eval()
    model.set_attn_implementation(attention)
    texts = torch.tensor([[0, 0, 0, 1, 7, 8], [1, 7, 8, 3, 2, 5]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    with torch.no_grad():
        model(input_ids=texts, attention_mask=mask, position_ids=positions)
        right = torch.tensor([[0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
        model(input_ids=texts.roll(3, 1), attention_mask=mask.flip(1), position_ids=right)
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "cache_implementation": cache}
    together = model.generate(input_ids=texts, attention_mask=mask, **settings)
    alone = model.generate(input_ids=texts[:1, 3:], attention_mask=mask[:1, 3:], **settings)
    assert torch.equal(together[:1, 3:], alone)
    model.generate(input_ids=texts, attention_mask=mask, num_beams=2, **settings)


def test_in_decoding_only_what_is_new_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from vademecum.ops import ngrams

    model, asked, match = attached(reach="after"), [], ngrams.match
    monkeypatch.setattr(ngrams, "match", lambda ids, trie, tokens: asked.append(tokens) or match(ids, trie, tokens))
    ids = torch.tensor([[1, 7, 8, 3, 11, 2]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        cache = model(input_ids=ids[:, :2], use_cache=True).past_key_values
        asked.clear()
        steps = []
        for place in range(2, 6):
            other = copy.deepcopy(cache)
            steps.append(model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits)
        assert asked == [1, 1, 1, 1]
        # Another text in between: what was found before is of no use, and is found anew.
        model(input_ids=torch.tensor([[9, 9, 9]]))
        asked.clear()
        again = model(input_ids=ids[:, 5:], past_key_values=other, use_cache=True).logits
        assert asked == [6]
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, 2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, steps[-1])


def test_padding_is_no_part_of_a_headword() -> None:
    ids, mask = torch.tensor([[7, 8, 3]]), torch.tensor([[0, 1, 1]])
    assert changed(attached(), ids, attention_mask=mask) == []


def test_a_headword_may_end_in_a_later_forward_than_it_began() -> None:
    model = attached()
    first = torch.tensor([[1, 7], [2, 5]])
    with torch.no_grad():
        cache = model(input_ids=first, use_cache=True).past_key_values
    again = copy.deepcopy(cache)
    assert changed(model, torch.tensor([[8], [8]]), past_key_values=copy.deepcopy(cache)) == [[0, 0]]
    again.reorder_cache(torch.tensor([1, 0]))
    assert changed(model, torch.tensor([[8], [8]]), past_key_values=again) == [[1, 0]]


def test_a_cache_goes_on_after_a_pickle_and_still_moves_what_it_remembers() -> None:
    import pickle

    model = attached()
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[1, 7], [2, 5]]), use_cache=True).past_key_values
    again = pickle.loads(pickle.dumps(cache))
    again.reorder_cache(torch.tensor([1, 0]))
    assert changed(model, torch.tensor([[8], [8]]), past_key_values=again) == [[1, 0]]


def test_a_cache_that_was_cut_back_forgets_what_was_cut() -> None:
    model = attached()
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[1, 7, 3]]), use_cache=True).past_key_values
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :2, :], layer.values[..., :2, :]
    assert changed(model, torch.tensor([[8]]), past_key_values=cache) == [[0, 0]]


def test_a_cache_that_the_bare_model_filled_is_refused_unless_the_ids_are_given() -> None:
    model, bare = attached(), tiny.host("qwen3")
    ids, new = torch.tensor([[1, 7]]), torch.tensor([[8]])
    with torch.no_grad():
        cache = bare(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match=r"the cache stands for 2 tokens of 1 texts.*memory_ids="):
        values(model, new, past_key_values=copy.deepcopy(cache))
    whole = torch.cat([ids, new], 1)
    given = {"memory_ids": whole, "use_cache": True}
    with torch.no_grad():
        out = model(input_ids=new, past_key_values=cache, **given).past_key_values
        assert out.get_seq_length() == 3
    assert changed(model, torch.tensor([[8]]), past_key_values=out) == []


def test_embeddings_with_all_ids_so_far() -> None:
    model, ids = attached(), torch.tensor([[1, 7, 8]])
    with torch.no_grad():
        cache = model(input_ids=ids[:, :2], use_cache=True).past_key_values
        embedded = model.get_input_embeddings()(ids[:, 2:])
        one = model(inputs_embeds=embedded, memory_ids=ids, past_key_values=cache).logits
        whole = model(input_ids=ids).logits[:, 2:]
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("headwords", "message"),
    [
        ((), "headwords="),
        (((),), "headwords="),
        ((((),),), "headwords="),
        (((-1,),), "headwords="),
        ((((3,), (3,)),), "a spelling twice"),
        ("France", "headwords="),
    ],
)
def test_headwords_that_are_none_are_refused(headwords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.Entries(headwords=headwords)


def test_a_headword_of_another_vocabulary_is_refused_and_the_model_unchanged() -> None:
    model = tiny.host("qwen3")
    with pytest.raises(ValueError, match="token id 61, but the host has ids 0 to 60"):
        vm.attach(model, vm.Entries(headwords=(((61,),),)))
    assert not hasattr(model, "vademecum")


def test_a_reach_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reach='before'.*'end' or 'after'"):
        vm.Entries(reach="before")


def test_headwords_survive_json() -> None:
    kind = vm.Entries(headwords=HEADWORDS, gate_width=3)
    assert vm.kinds.from_dict(json.loads(json.dumps(kind.to_dict()))) == kind
