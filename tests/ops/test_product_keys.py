"""Product-key search: exactly the flat top-k, with all gradients, in little memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum import ops
from vademecum.ops import product_keys
from vademecum.ops.product_keys import _search, bag, search


def case(tokens: int, heads: int, count: int, half: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(tokens + 10 * count)
    query = torch.randn(tokens, heads, 2 * half, generator=generator).to(dtype).requires_grad_()
    keys = torch.randn(heads, 2, count, half, generator=generator).to(dtype).requires_grad_()
    return query, keys


def run(backend: str, query: torch.Tensor, keys: torch.Tensor, k: int) -> list[torch.Tensor]:
    query, keys = query.detach().clone().requires_grad_(), keys.detach().clone().requires_grad_()
    with ops.backend(backend):
        scores, slots = search(query, keys, k)
        weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1)).to(scores.dtype)
        (scores * weight).sum().backward()
    return [scores.detach(), slots, query.grad, keys.grad]


@given(
    tokens=st.integers(0, 9),
    heads=st.integers(1, 3),
    count=st.integers(1, 70),
    half=st.sampled_from([1, 3, 8]),
    share=st.floats(0, 1),
)
def test_the_fast_search_is_a_flat_top_k_with_both_gradients(
    tokens: int, heads: int, count: int, half: int, share: float
) -> None:
    query, keys = case(tokens, heads, count, half)
    k = 1 + round(share * (min(count * count, 40) - 1))
    fast, slow = run("fast", query, keys, k), run("naive", query, keys, k)
    torch.testing.assert_close(fast[0], slow[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(fast[1], slow[1])
    for one, other in zip(fast[2:], slow[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@given(count=st.integers(1, 12), k=st.integers(1, 144), equal=st.integers(1, 5), seed=st.integers(0, 99))
def test_with_ties_the_scores_are_those_of_a_flat_top_k_and_no_slot_comes_twice(
    count: int, k: int, equal: int, seed: int
) -> None:
    k = min(k, count * count)
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(0, equal, (2, count), generator=generator).float()
    query = torch.ones(1, 1, 2)
    keys = halves.view(1, 2, count, 1)
    flat = (halves[0][:, None] + halves[1]).flatten()
    for scores, slots in (search(query, keys, k), bag.select(halves.view(2, 1, count), k)):
        assert torch.equal(scores.flatten(), flat.topk(k).values)
        assert torch.equal(flat[slots.flatten()], scores.flatten())
        assert len(slots.unique()) == k


def test_a_search_in_blocks_is_the_whole_search(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys = case(37, 3, 20, 4)
    whole = run("fast", query, keys, 9)
    monkeypatch.setattr(product_keys, "AT_ONCE", 3 * 2 * 20 * 5)
    for one, other in zip(run("fast", query, keys, 9), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_double_precision_passes_the_numerical_check() -> None:
    query, keys = case(4, 2, 6, 3, torch.float64)
    torch.autograd.gradcheck(lambda q, c: search(q, c, 5)[0], (query, keys))


def test_bf16_is_searched_in_fp32() -> None:
    query, keys = case(9, 2, 16, 8, torch.bfloat16)
    fast, wide = run("fast", query, keys, 6), run("naive", query.float(), keys.float(), 6)
    assert [tensor.dtype for tensor in fast] == [torch.float32, torch.int64, torch.bfloat16, torch.bfloat16]
    torch.testing.assert_close(fast[0], wide[0])
    assert torch.equal(fast[1], wide[1])
    for one, other in zip(fast[2:], wide[2:], strict=True):
        torch.testing.assert_close(one.float(), other, rtol=2e-2, atol=2e-2)


def test_not_a_number_comes_through_for_its_own_query_alone() -> None:
    query, keys = (tensor.detach() for tensor in case(5, 2, 40, 4))
    whole, slots = search(query, keys, 7)
    query[3, 1, 2] = torch.nan
    scores, found = search(query, keys, 7)
    bad = torch.zeros(5, 2, dtype=torch.bool)
    bad[3, 1] = True
    assert torch.equal(scores.isnan().all(-1), bad)
    assert torch.equal(scores[~bad], whole[~bad])
    assert torch.equal(found[~bad], slots[~bad])
    assert int(found.max()) < 1600


def test_only_chosen_keys_have_a_gradient() -> None:
    query, keys = case(3, 1, 50, 4)
    scores, slots = search(query, keys, 2)
    scores.sum().backward()
    for half, chosen in enumerate((slots // 50, slots % 50)):
        touched = keys.grad[0, half].abs().sum(-1) > 0
        assert torch.equal(touched.nonzero().flatten(), chosen.unique())


def test_a_compiler_is_told_the_truth() -> None:
    query, keys = case(4, 2, 6, 3)
    torch.library.opcheck(_search, (query, keys, 3))


@pytest.mark.parametrize(
    ("query", "keys", "k", "said"),
    [
        ((2, 1, 8), (1, 2, 5, 3), 2, r"query \[2, 1, 8\] and keys \[1, 2, 5, 3\] were given"),
        ((2, 2, 6), (1, 2, 5, 3), 2, r"expected \[N, H, 2\*d\]"),
        ((2, 1, 6), (1, 2, 5, 3), 26, "k=26 was given for 5 x 5 slots; write 1 to 25"),
        ((2, 1, 6), (1, 2, 5, 3), 0, "write 1 to 25"),
    ],
)
def test_what_cannot_be_searched_is_said(query, keys, k: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        search(torch.zeros(query), torch.zeros(keys), k)
