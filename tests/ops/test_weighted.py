"""Weighted sums of rows and dot products with rows: equation, every path, gradients, types, memory, compiled graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum import ops
from vademecum.ops.weighted import _dotted, _summed, bag, cpu, dots, scattered, weighted_sum
from vademecum.ops.weighted.neurons import neurons


def case(tokens: int, places: int, rows: int, width: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    at = torch.randint(0, rows, (tokens, places), generator=generator)
    weights = torch.randn(tokens, places, generator=generator).to(dtype).requires_grad_()
    x = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    return table, at, weights, x


def test_the_specifications_are_the_equations() -> None:
    rows, places, weights, x = case(4, 3, 5, 6)
    with ops.backend("naive"):
        total, products = weighted_sum(rows, places, weights), dots(rows, places, x)
    for n in range(4):
        torch.testing.assert_close(total[n], sum(weights[n, k] * rows[places[n, k]] for k in range(3)))
        for k in range(3):
            torch.testing.assert_close(products[n, k], rows[places[n, k]] @ x[n])


def run(op, backend: str, *given: torch.Tensor) -> list[torch.Tensor]:
    """Result and both gradients."""
    rows, places, other = given
    rows, other = rows.detach().clone().requires_grad_(), other.detach().clone().requires_grad_()
    with ops.backend(backend):
        out = op(rows, places, other)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        (out * weight).sum().backward()
    return [out.detach(), rows.grad, other.grad]


@given(
    tokens=st.integers(0, 12),
    places=st.integers(0, 11),
    rows=st.integers(1, 9),
    width=st.sampled_from([1, 3, 8, 17, 64]),
)
def test_the_loops_equal_the_specification_with_both_gradients(tokens: int, places: int, rows: int, width: int) -> None:
    table, at, weights, x = case(tokens, places, rows, width)
    for op, other in ((weighted_sum, weights), (dots, x)):
        for fast, slow in zip(run(op, "fast", table, at, other), run(op, "naive", table, at, other), strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@given(tokens=st.integers(0, 12), places=st.integers(0, 11), rows=st.integers(1, 9), width=st.sampled_from([1, 5, 16]))
def test_the_bags_equal_the_loops(tokens: int, places: int, rows: int, width: int) -> None:
    table, at, weights, x = (tensor.detach() for tensor in case(tokens, places, rows, width))
    torch.testing.assert_close(bag.summed(table, at, weights), cpu.summed(table, at, weights), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bag.dotted(table, at, x), cpu.dotted(table, at, x), rtol=1e-5, atol=1e-5)
    fast = cpu.scattered(at, weights, x, rows)
    torch.testing.assert_close(bag.scattered(at, weights, x, rows), fast, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", [weighted_sum, dots])
def test_double_precision_passes_the_numerical_check(op) -> None:
    rows, places, weights, x = case(5, 4, 6, 3, torch.float64)
    torch.autograd.gradcheck(lambda r, o: op(r, places, o), (rows, weights if op is weighted_sum else x))


@pytest.mark.parametrize("types", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("op", [weighted_sum, dots])
def test_bf16_is_as_close_as_bf16_allows(op, types) -> None:
    rows, places, weights, x = case(20, 7, 30, 33)
    other = (weights if op is weighted_sum else x).detach().to(types[1])
    rows = rows.detach().to(types[0])
    fast = run(op, "fast", rows, places, other)
    exact = run(op, "naive", rows.float(), places, other.float())
    assert [tensor.dtype for tensor in fast] == [types[1], types[0], types[1]]
    for one, wide in zip(fast, exact, strict=True):
        torch.testing.assert_close(one.float(), wide, rtol=3e-2, atol=6e-2)


def test_many_threads_give_the_bits_of_one() -> None:
    rows, places, weights, x = (tensor.detach() for tensor in case(400, 33, 3000, 128))
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append((weighted_sum(rows, places, weights), dots(rows, places, x),
                            scattered(places, weights, x, len(rows))))  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_a_row_that_nobody_reads_has_the_gradient_zero() -> None:
    rows, places, weights, _ = case(3, 2, 50, 4)
    weighted_sum(rows, places, weights).sum().backward()
    read = torch.zeros(50, dtype=torch.bool)
    read[places.unique()] = True
    assert torch.equal(rows.grad.abs().sum(1) > 0, read)


def test_not_a_number_comes_through() -> None:
    rows, places, weights, x = (tensor.detach() for tensor in case(3, 5, 4, 8))
    rows[places[1, 2], 3] = torch.nan
    readers = (places == places[1, 2]).any(1)
    assert torch.equal(weighted_sum(rows, places, weights).isnan().any(1), readers)
    assert torch.equal(dots(rows, places, x).isnan().any(1), readers)


@pytest.mark.parametrize(("op", "which"), [(_summed, 0), (_dotted, 1)])
def test_a_compiler_is_told_the_truth(op, which: int) -> None:
    rows, places, *others = case(4, 3, 5, 6)
    torch.library.opcheck(op, (rows, places, others[which]))


def test_places_and_shapes_that_cannot_be_are_said() -> None:
    rows, places, weights, x = case(4, 3, 5, 6)
    with pytest.raises(IndexError, match="places 5 to 9 were given, but there are rows 0 to 4"):
        weighted_sum(rows, torch.tensor([[5, 9]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"weights \[4, 2\] were given"):
        weighted_sum(rows, places, weights[:, :2])
    with pytest.raises(ValueError, match=r"expected rows \[U, D\]"):
        dots(rows, places, x[:, :5])
    with pytest.raises(ValueError, match=r"torch.int32"):
        dots(rows, places.int(), x)


@given(
    tokens=st.integers(0, 9), places=st.integers(0, 7), rows=st.integers(1, 6), width=st.sampled_from([1, 5, 16]),
    types=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_neurons_equal_the_specification_with_all_gradients(
    tokens: int, places: int, rows: int, width: int, types: torch.dtype
) -> None:
    table, at, weights, x = case(tokens, places, 2 * rows, width, types)
    results = []
    for backend in ("fast", "naive"):
        leaves = [one.detach().clone().requires_grad_() for one in (table.view(rows, 2, width), weights, x)]
        with ops.backend(backend):
            out = neurons(leaves[0], at // 2, leaves[2], leaves[1], torch.nn.functional.gelu)
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
            (out * weight).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
