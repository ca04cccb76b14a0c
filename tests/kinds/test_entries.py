"""Entries speak where their headword ends and nowhere else, however the text reaches the model."""

from __future__ import annotations

import copy
import json
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
