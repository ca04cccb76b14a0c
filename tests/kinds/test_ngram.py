"""Hashed n-grams: the equation, addresses that are the same however a text arrives, collisions, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from tests import tiny
from vademecum.memory import spelling
from vademecum.memory.hashing import Hashes, primes_from

SMALL = {"layers": "all", "heads": 2, "width": 16}


def attached(name: str = "qwen3", **settings: Any) -> Any:
    model = vm.attach(tiny.host(name), vm.NGram(**SMALL | settings))
    tiny.shake(model)
    return model


def hashes(rows: int = 101, orders: int = 3, heads: int = 2, seed: str = "0:0", ids: int = 61) -> Hashes:
    found = []
    for prime in primes_from(rows):
        found.append(prime)
        if len(found) == (orders - 1) * heads:
            break
    return Hashes(found, torch.arange(ids), orders=orders, seed=seed, device=torch.device("cpu"))


def logits(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


@pytest.mark.parametrize("signed_root", [False, True])
def test_the_papers_equation(signed_root: bool) -> None:
    model, ids = attached(signed_root=signed_root), tiny.ids()
    part = next(part for _, layer, part in vm.memories(model).parts() if layer == 1)
    seen = []
    part.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        model(input_ids=ids)
        (hidden, out), width = seen[0], hidden_width(model)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * part.norms[name].weight

        e = part.bank.weight[part.hashes(ids, ids.shape[1])].flatten(2)
        s = (norm(e @ part.projections.key.t(), "key") * norm(hidden, "query")).sum(-1, keepdim=True) / width**0.5
        gate = torch.sigmoid(s.sign() * s.abs().clamp_min(1e-6).sqrt() if signed_root else s)
        u = gate * (e @ part.projections.value.t())
        kernel = part.convolution.weight.t().flip(-1)[:, None]  # a convolution of torch's reads the oldest first
        steps = F.pad(norm(u, "steps").transpose(1, 2), (9, 0))
        conv = F.conv1d(steps, kernel, groups=width, dilation=3).transpose(1, 2)
    torch.testing.assert_close(out, u + F.silu(conv), rtol=1e-4, atol=1e-5)


def hidden_width(model: Any) -> int:
    return vm.memories(model).shape.hidden


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_it_is_added_to_the_whole_residual_stream_before_the_layer(name: str) -> None:
    """A layer whose own input is moved by the same amount answers the same."""
    bare, model, ids = tiny.host(name), attached(name, layers=[1]), tiny.ids()
    part = next(part for _, _, part in vm.memories(model).parts())
    said = []
    part.register_forward_hook(lambda _, given, out: said.append(out))
    expected = logits(model, ids)
    layer = vm.hosts.find(bare).layers[1]
    layer.register_forward_pre_hook(lambda _, given: (given[0] + said[0], *given[1:]))
    torch.testing.assert_close(logits(bare, ids), expected)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(0, 5), st.integers(1, 4))
def test_addresses_depend_on_the_last_tokens_alone(text: list[int], before: int, orders: int) -> None:
    """However much of a text was known before, and whatever stands further back than an n-gram reaches."""
    made, ids = hashes(orders=orders + 1), torch.tensor([text])
    whole = made(ids, len(text))
    assert whole.shape == (1, len(text), 2 * orders)
    assert int(whole.min()) >= 0
    assert int(whole.max()) < made.rows
    for place in range(len(text)):
        known = ids[:, max(0, place - orders) : place + 1]
        assert torch.equal(made(known, 1)[0, 0], whole[0, place])
    padded = torch.cat([torch.full((1, before), -1), ids], 1)
    assert torch.equal(made(padded, len(text)), whole)


def test_heads_lie_behind_one_another_and_layers_have_primes_of_their_own() -> None:
    model = attached(rows=70)
    parts = [part.hashes for _, _, part in vm.memories(model).parts()]
    primes = [int(one) for part in parts for one in part.primes]
    assert len(set(primes)) == len(primes) == 2 * 4
    assert all(one >= 70 for one in primes)
    for part in parts:
        rows = part(tiny.ids(8, 40), 40)
        assert bool((rows >= part.offsets).all())
        assert bool((rows < part.offsets + part.primes).all())
    assert not torch.equal(*(part(tiny.ids(), 10) - part.offsets for part in parts))


def test_addresses_are_the_same_for_ever() -> None:
    """Rows that were trained are found again by every later version, whatever draws random numbers then."""
    assert hashes()(torch.tensor([[5, 9, 60]]), 3).tolist() == [
        [[11, 197, 219, 354], [3, 130, 253, 313], [99, 125, 307, 333]]
    ]


def test_ids_that_are_one_read_one_row() -> None:
    alike = spelling.pack([one // 2 for one in range(61)])
    model = attached(compress=alike, layers=[0])
    part = next(part for _, _, part in vm.memories(model).parts())
    assert torch.equal(part.hashes(torch.tensor([[4, 6, 8]]), 3), part.hashes(torch.tensor([[5, 7, 9]]), 3))
    assert not torch.equal(part.hashes(torch.tensor([[4, 6, 8]]), 3), part.hashes(torch.tensor([[4, 6, 10]]), 3))


class Spelled:
    """A tokenizer of a few words."""

    words = ("<s>", "The", " the", "thé", "  THE ", "a", " ", "\n", "\ufffd", "\ufffd", "ﬁ", "fi", "")
    all_special_ids = (0,)

    def __len__(self) -> int:
        return len(self.words)

    def decode(self, ids: list[int]) -> str:
        return self.words[ids[0]]


def test_a_table_from_a_tokenizer_puts_together_what_is_spelled_alike() -> None:
    found = spelling.alike(Spelled())
    assert found == [0, 1, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6, 7]
    kind = vm.NGram.for_tokenizer(Spelled(), layers=[0], heads=2)
    assert kind.heads == 2
    assert vm.kinds.from_dict(kind.to_dict()) == kind
    model = vm.attach(tiny.host("qwen3"), kind)
    ids = next(part for _, _, part in vm.memories(model).parts()).hashes.ids
    assert ids[:13].tolist() == found
    assert ids[13:].tolist() == [*range(8, 8 + 61 - 13), 8 + 61 - 13], "ids that no tokenizer has, and no token"


@given(st.lists(st.integers(0, 30), max_size=60))
def test_packing_comes_back(numbers: list[int]) -> None:
    seen: dict[int, int] = {}
    table = [seen.setdefault(one, len(seen)) for one in numbers]
    assert spelling.unpack(spelling.pack(table)).tolist() == table


@given(st.text(max_size=20))
def test_plain_spelling_is_plain(text: str) -> None:
    once = spelling.plain(text)
    assert "  " not in once
    assert not once.startswith(" ") or once == " "


@pytest.mark.parametrize("beams", [1, 3])
def test_history_is_kept_across_cached_decoding_and_beams(beams: int) -> None:
    model, ids = attached(), tiny.ids(batch=3, length=12)
    settings = {"max_new_tokens": 12, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        model.generate(input_ids=ids, use_cache=True, **settings),
        model.generate(input_ids=ids, use_cache=False, **settings),
    )


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 5))
def test_a_text_in_pieces_equals_the_text_whole(pieces: list[int], seed: int) -> None:
    model, ids = attached(), tiny.ids(2, sum(pieces), seed)
    whole, cache, start, out = logits(model, ids), None, 0, []
    for piece in pieces:
        with torch.no_grad():
            now = model(input_ids=ids[:, start : start + piece], past_key_values=cache, use_cache=True)
        cache, start = now.past_key_values, start + piece
        out.append(now.logits)
    torch.testing.assert_close(torch.cat(out, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_cache_that_is_reordered_cut_back_or_copied_takes_its_history_along() -> None:
    model, ids = attached(), tiny.ids(3, 14)
    whole = logits(model, ids)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :12], use_cache=True).past_key_values
    order, other = torch.tensor([2, 0, 1]), copy.deepcopy(cache)
    other.reorder_cache(order)
    step = logits(model, ids[order, 12:13], past_key_values=other)
    torch.testing.assert_close(step[:, 0], whole[order, 12], rtol=1e-4, atol=1e-4)
    other = copy.deepcopy(cache)
    other.batch_select_indices(torch.tensor([1]))
    step = logits(model, ids[1:2, 12:], past_key_values=other)
    torch.testing.assert_close(step, whole[1:2, 12:], rtol=1e-4, atol=1e-4)
    cache.crop(-3)
    assert cache.get_seq_length() == 9
    again = logits(model, ids[:, 9:], past_key_values=cache)
    torch.testing.assert_close(again, whole[:, 9:], rtol=1e-4, atol=1e-4)


def test_a_cache_that_the_layer_did_not_see_is_refused_and_without_a_convolution_ids_are_enough() -> None:
    ids, bare = tiny.ids(1, 6), tiny.host("qwen3")
    with torch.no_grad():
        cache = bare(input_ids=ids[:, :5], use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match=r"ngram.layers.0, which reads 9 steps of its own.*has kept nothing"):
        logits(attached(), ids[:, 5:], past_key_values=copy.deepcopy(cache), memory_ids=ids)
    logits(attached(kernel=0), ids[:, 5:], past_key_values=cache, memory_ids=ids)


def test_a_cache_that_was_cut_back_too_far_is_refused() -> None:
    model, ids = attached(), torch.randint(1, 61, (1, 90))
    model.config.max_position_embeddings = 128
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    cache.crop(-70)
    with pytest.raises(RuntimeError, match=r"the last 73 of 90 for 1 texts"):
        logits(model, ids[:, 20:21], past_key_values=cache)


def test_collisions_are_counted_as_they_are() -> None:
    made, text = hashes(rows=7, ids=61), torch.arange(60)
    found = made.collisions([text, torch.tensor([3, 4]), torch.tensor([5])])
    assert (found[2].distinct, found[3].distinct) == (59, 58)
    for order, one in found.items():
        rows = made(text[None], 60)[0].view(60, 2, 2)[order - 1 :, order - 2]
        for head, share in enumerate(one.by_head):
            own = rows[:, head].tolist()
            assert share == pytest.approx(sum(own.count(row) > 1 for row in own) / len(own))
        both = [tuple(row) for row in rows.tolist()]
        assert one.all_heads == pytest.approx(sum(both.count(row) > 1 for row in both) / len(both))
        assert one.all_heads <= min(one.by_head)
    assert made.collisions([torch.tensor([5])])[2].distinct == 0


def test_more_rows_collide_less_and_about_as_chance_has_it() -> None:
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 997, (400,), generator=draw) for _ in range(5)]
    shares = []
    for rows in (1009, 10_007, 100_003):
        one = hashes(rows=rows, ids=997).collisions(texts)[3]
        for share in one.by_head:
            assert share == pytest.approx(1 - (1 - 1 / rows) ** (one.distinct - 1), abs=0.05)
        shares.append(one.by_head[0])
        assert one.all_heads < 0.01 or rows == 1009
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 60}, r"rows=60\) was given, but the host has 61 token ids.*such as 61 or 305"),
        ({"width": 15, "heads": 2}, r"expected a multiple of 4, such as 12 or 16"),
        ({"orders": 1}, "expected 2 or more"),
        ({"heads": 0}, "expected 1 or more"),
        ({"kernel": -1}, "expected 0 or more"),
        ({"compress": "no such text"}, "damaged or was not made by vm.NGram.for_tokenizer"),
        ({"compress": spelling.pack(list(range(62)))}, "a tokenizer of 62 ids, but the host has 61"),
        ({"layers": [2]}, "names layer 2, but the host has layers 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_unchanged(settings: dict[str, Any], message: str) -> None:
    model = tiny.host("qwen3")
    with pytest.raises(ValueError, match=message):
        vm.attach(model, vm.NGram(**settings))
    assert not hasattr(model, "vademecum")


def test_a_prefetch_by_token_leaves_hashed_tables_alone(tmp_path: Any) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.NGram(**SMALL), bank="disk", bank_folder=tmp_path)
    banks = list(vm.memories(model).banks().values())
    assert banks
    vm.prefetch(model, tiny.ids())
    # Their addresses are no token ids: nothing is read ahead by them.
    assert all(bank.store.bytes_read == 0 for bank in banks)


def test_a_silent_memory_decodes_with_a_cache_and_leaves_the_host_as_it_was() -> None:
    ids = tiny.ids(1, 9)
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    bare = tiny.host("qwen3").generate(input_ids=ids, **settings)
    model = tiny.host("qwen3")
    vm.attach(model, vm.NGram(layers="all", heads=2, width=16))
    tiny.shake(model)
    with vm.knocked_out(model):
        assert torch.equal(model.generate(input_ids=ids, **settings), bare)


@pytest.mark.parametrize("wrong", [61, -1])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    ids = tiny.ids()
    ids[0, 2] = wrong
    with pytest.raises(ValueError, match=str(wrong)):
        attached()(inputs_embeds=torch.zeros(*ids.shape, hidden_width(attached())), memory_ids=ids)
