"""Lattice addressing: constants against brute force, slots one to one, every path the same with its gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vademecum import ops
from vademecum.ops.lattice import folded, naive, near, near_sizes, offsets, periods_for, point, slot, slots_of

EIGHTS = (8,) * 8
numbers = st.floats(-40, 40, width=32)
places = st.lists(st.lists(numbers, min_size=8, max_size=8), min_size=0, max_size=6)
tori = st.lists(st.sampled_from([8, 12, 16, 20]), min_size=8, max_size=8).map(tuple)


def by_slot(slots: Tensor, weights: Tensor, count: int) -> Tensor:
    """``[N, count]`` the weight of every slot."""
    return torch.zeros(len(slots), count, dtype=weights.dtype).scatter_add_(1, slots, weights)


def cornered(count: int, seed: int = 0) -> Tensor:
    """Places ``[count, 8]`` in the folded polytope: its corners, the edges between them, and inside; float64."""
    corners = torch.from_numpy(offsets.corners())
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(len(corners), (count, 4), generator=generator)
    shares = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    shares[: count // 3, 2:] = 0
    mixed = (corners[ends] * (shares / shares.sum(1, keepdim=True)).unsqueeze(-1)).sum(1)
    return torch.cat([corners, mixed])


def all_within_reach(q: list[float]) -> dict[tuple[int, ...], float]:
    """Every lattice point closer than sqrt 8 to one place and its kernel weight, by trying all whole numbers."""
    found: dict[tuple[int, ...], float] = {}

    def extend(begun: tuple[int, ...], far: float) -> None:
        if far >= 8:
            return
        if len(begun) == 8:
            if sum(begun) % 4 == 0:
                found[begun] = (1 - far / 8) ** 4
            return
        x = q[len(begun)]
        step = 2 if begun else 1
        first = math.ceil(x - 8**0.5)
        if begun and (first - begun[0]) % 2:
            first += 1
        for z in range(first, math.floor(x + 8**0.5) + 1, step):
            extend((*begun, z), far + (z - x) ** 2)

    extend((), 0.0)
    return found


@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_heaviest_of_all_points_that_there_are(backend: str, seed: int) -> None:
    q = 6 * torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    periods = (64,) * 8
    with ops.backend(backend):
        slots, weights = near(q, periods)
    points = all_within_reach(q[0].tolist())
    assert 45 <= len(points) <= 120
    assert 0.851 <= sum(points.values()) <= 1
    best = sorted(points.items(), key=lambda one: -one[1])[:32]
    expected = {int(slot(torch.tensor(z), periods)): w for z, w in best}
    assert dict(zip(slots[0].tolist(), weights[0].tolist(), strict=True)) == pytest.approx(expected, abs=1e-12)


def test_the_77_vectors_are_what_the_derivation_finds() -> None:
    table = offsets.offsets()
    lengths = (table**2).sum(1).tolist()
    assert [lengths.count(n) for n in (0, 8, 16)] == [1, 66, 10]
    found = offsets.derive(places=800_000)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, table.tolist()))


def test_short_vectors_are_the_lattices_own_and_their_counts_are_those_of_e8() -> None:
    vectors = offsets.short_vectors()
    lengths = (vectors**2).sum(1).tolist()
    assert [lengths.count(n) for n in (0, 8, 16)] == [1, 240, 2160]
    assert {tuple(v) for v in offsets.offsets().tolist()} <= {tuple(v) for v in vectors.tolist()}


def test_among_the_77_are_the_32_nearest_of_every_folded_place_ties_and_holes_included() -> None:
    q = cornered(6000)
    table, shell = (torch.from_numpy(one).double() for one in (offsets.offsets(), offsets.short_vectors()))
    for part in q.split(500):
        few, all_ = (
            (part.unsqueeze(1) - one).square().sum(-1).topk(32, largest=False).values for one in (table, shell)
        )
        torch.testing.assert_close(few, all_, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_a_lattice_point_is_read_alone_and_a_deep_hole_as_sixteen(backend: str) -> None:
    points = point(torch.arange(0, 65536, 777), EIGHTS).double()
    hole = points + torch.tensor([2.0] + [0.0] * 7)
    with ops.backend(backend):
        slots, weights = near(points, EIGHTS)
        deep = near(hole, EIGHTS)[1].sort(-1, descending=True).values
    top = weights.max(-1)
    assert torch.equal(top.values, torch.ones(len(points), dtype=torch.float64))
    assert torch.equal(slots.gather(1, top.indices[:, None])[:, 0], torch.arange(0, 65536, 777))
    assert torch.equal(weights.sum(-1), top.values)
    assert torch.equal(deep[:, :16], torch.full_like(deep[:, :16], 1 / 16))
    assert not deep[:, 16:].any()


def test_the_weights_sum_to_what_is_said() -> None:
    q = cornered(3000)
    shell = torch.from_numpy(offsets.short_vectors())
    whole = torch.cat([naive.kernel((part.unsqueeze(1) - shell).square().sum(-1)).sum(-1) for part in q.split(500)])
    few = near(q, EIGHTS)[1].sum(-1)
    assert float(whole.min()) >= 0.851
    assert float(whole.max()) <= 1 + 1e-12
    assert float(few.min()) >= 3 / 4 - 1e-12
    usual = near(8 * torch.rand(5000, 8, dtype=torch.float64), EIGHTS)[1].sum(-1)
    assert 0.85 < float(few.mean()) < 1
    assert 0.92 < float(usual.mean()) < 0.96


def test_all_65536_points_of_a_torus_have_slots_of_their_own() -> None:
    slots = torch.arange(slots_of(EIGHTS))
    points = point(slots, EIGHTS)
    assert len(slots) == 65536
    assert torch.equal(slot(points, EIGHTS), slots)
    assert len(torch.unique(points, dim=0)) == len(slots)
    assert bool(((points - points[:, :1]) % 2 == 0).all())
    assert bool((points.sum(1) % 4 == 0).all())


def test_points_counted_one_by_one_fill_a_small_torus() -> None:
    periods = (8, 4, 4, 4, 4, 4, 4, 4)
    every = torch.tensor(list(itertools.product(*(range(k) for k in periods))))
    ours = every[((every - every[:, :1]) % 2 == 0).all(1) & (every.sum(1) % 4 == 0)]
    assert sorted(slot(ours, periods).tolist()) == list(range(slots_of(periods)))


@given(
    periods=st.lists(st.integers(1, 9).map(lambda k: 4 * k), min_size=8, max_size=8).map(tuple),
    share=st.floats(0, 1, exclude_max=True),
    turns=st.lists(st.integers(-3, 3), min_size=8, max_size=8),
)
def test_a_slot_is_one_point_wherever_the_torus_is_entered(
    periods: tuple[int, ...], share: float, turns: list[int]
) -> None:
    here = torch.tensor([int(share * slots_of(periods))])
    z = point(here, periods)
    assert bool(((z >= 0) & (z < torch.tensor(periods))).all())
    assert int(z.sum()) % 4 == 0
    assert torch.equal(slot(z + torch.tensor(turns) * torch.tensor(periods), periods), here)


@given(q=places, periods=tori)
def test_every_path_equals_the_specification_with_the_gradient(q: list[list[float]], periods: tuple[int, ...]) -> None:
    values = torch.tensor(q, dtype=torch.float64).view(-1, 8)
    # Places of fine grain, so that no two points compete for the last place with equal distances.
    values = values + 0.01 * torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], dtype=torch.float64).sqrt()
    found = []
    for backend in ops.BACKENDS:
        here = values.clone().requires_grad_()
        with ops.backend(backend):
            slots, weights = near(here, periods)
        order = slots.argsort(-1)
        weight = torch.sin(slots.double())
        (weights * weight).sum().backward()
        found.append((slots.gather(-1, order), weights.detach().gather(-1, order), here.grad))
    slots, weights, codes = folded.near(values, periods)
    order = slots.argsort(-1)
    slope = folded.gradient(torch.sin(slots.double()), values, codes, periods)
    found.append((slots.gather(-1, order), weights.gather(-1, order), slope))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        torch.testing.assert_close(other[1:], found[0][1:], rtol=1e-10, atol=1e-12)


@given(q=places, periods=tori)
def test_in_fp32_with_ties_the_weights_are_the_specifications_and_each_is_its_points(
    q: list[list[float]], periods: tuple[int, ...]
) -> None:
    values = (2 * torch.tensor(q).view(-1, 8)).round() / 2
    slots, weights = near(values, periods)
    with ops.backend("naive"):
        expected = near(values, periods)[1]
    torch.testing.assert_close(weights.sort(-1).values, expected.sort(-1).values, rtol=1e-5, atol=1e-6)
    away = (values.double().unsqueeze(1) - point(slots, periods) + 0.0) / torch.tensor(periods)
    far = ((away - away.round()) * torch.tensor(periods)).square().sum(-1)
    torch.testing.assert_close(naive.kernel(far).float(), weights, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == 32 for row in slots.tolist())


@given(q=places, turns=st.lists(st.integers(-4, 4), min_size=8, max_size=8), periods=tori)
def test_whole_periods_make_no_difference(q: list[list[float]], turns: list[int], periods: tuple[int, ...]) -> None:
    values = torch.tensor(q, dtype=torch.float64).view(-1, 8) + 0.0123
    moved = values + torch.tensor(turns) * torch.tensor(periods)
    one, other = near(values, periods)[1], near(moved, periods)[1]
    torch.testing.assert_close(one.sort(-1).values, other.sort(-1).values, rtol=0, atol=1e-10)


def test_slots_go_round_the_torus_with_the_place() -> None:
    q = 5 * torch.randn(40, 8, dtype=torch.float64)
    moved = q + torch.tensor([8, -8, 16, 0, 0, -24, 8, 8])
    one, other = (by_slot(*near(each, EIGHTS), 65536) for each in (q, moved))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("periods", [EIGHTS, (16, 8, 12, 8, 8, 20, 8, 8)])
def test_the_gradient_is_that_of_finite_differences(periods: tuple[int, ...]) -> None:
    q = (4 * torch.randn(6, 8, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: near(q, periods)[1].sort(-1).values, (q,))


def test_where_a_period_is_four_a_slot_may_come_twice_and_weights_still_belong_to_slots() -> None:
    q, fours = 3 * torch.randn(30, 8, dtype=torch.float64), (4,) * 8
    with ops.backend("naive"):
        expected = by_slot(*near(q, fours), 256)
    torch.testing.assert_close(by_slot(*near(q, fours), 256), expected, rtol=0, atol=1e-12)


def test_large_counts_are_shared_out_and_give_the_same() -> None:
    q = 5 * torch.randn(1500, 8)
    alone = near(q, EIGHTS)
    torch.set_num_threads(3)
    together = near(q, EIGHTS)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_found_in_fp32_and_its_gradient_comes_back_in_its_own_type(dtype: torch.dtype) -> None:
    q = (4 * torch.randn(9, 8)).to(dtype).requires_grad_()
    slots, weights = near(q, EIGHTS)
    assert weights.dtype == torch.float32
    assert torch.equal(slots, near(q.float(), EIGHTS)[0])
    weights.square().sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == dtype
    assert q.grad.any()


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_nothing_and_rows_that_are_not_side_by_side_are_taken(backend: str) -> None:
    with ops.backend(backend):
        slots, weights = near(torch.zeros(0, 8), EIGHTS)
        assert slots.shape == weights.shape == (0, 32)
        wide = 3 * torch.randn(8, 5)
        assert torch.equal(near(wide.t(), EIGHTS)[1], near(wide.t().contiguous(), EIGHTS)[1])


@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_comes_through_and_harms_no_other(backend: str, bad: float) -> None:
    q = 3 * torch.randn(3, 8)
    alone = near(q, EIGHTS)[1].sort(-1).values
    q[1, 4] = bad
    with ops.backend(backend):
        slots, weights = near(q, EIGHTS)
    assert weights[1].isnan().all()
    torch.testing.assert_close(weights[::2].sort(-1).values, alone[::2])
    assert 0 <= int(slots.min()) <= int(slots.max()) < 65536


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_places_far_out_stay_on_the_torus(backend: str) -> None:
    q = torch.tensor([[1e30] * 8, [-3e7, 5.0, 2.0**21, 0, 1e9, -1e12, 7, 1]])
    with ops.backend(backend):
        slots, weights = near(q, (12, 8, 8, 8, 8, 8, 16, 8))
    assert 0 <= int(slots.min()) <= int(slots.max()) < slots_of((12, 8, 8, 8, 8, 8, 16, 8))
    assert (weights.sum(-1) > 0.74).all()


def test_periods_for_sizes() -> None:
    assert periods_for(256) == (4,) * 8
    assert periods_for(65536) == EIGHTS
    assert periods_for(2**20) == (16,) * 4 + (8,) * 4
    assert periods_for(16**8 // 256) == (16,) * 8
    assert periods_for(0) is periods_for(255) is periods_for(257) is periods_for(256 * 3) is None
    assert near_sizes(10) == [256]
    assert near_sizes(-5) == [256]
    assert near_sizes(1000) == [512, 1024]
    assert near_sizes(1_000_000) == [995328, 1048576]
    assert near_sizes(2**50 + 1) == [2**50, 2**51]


@given(st.integers(1, 40_000))
def test_a_size_has_its_periods_or_two_near_ones_that_have(hundreds: int) -> None:
    slots = 100 * hundreds
    periods = periods_for(slots)
    if periods is None:
        sizes = near_sizes(slots)
        assert all(periods_for(size) for size in sizes)
        assert sizes[-1] > slots
        assert len(sizes) == 1 or sizes[0] < slots
    else:
        assert slots_of(periods) == slots
        assert max(periods) <= 2 * min(periods)
        assert all(k % 4 == 0 for k in periods)


def test_bad_input_is_named() -> None:
    for q in (torch.zeros(3, 7), torch.zeros(8), torch.zeros(2, 8, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"expected \[N, 8\] of a floating-point type"):
            near(q, EIGHTS)
    with pytest.raises(ValueError, match=r"multiples of 4, such as \(8, 12, 4"):
        near(torch.zeros(1, 8), (7, 13, 1, 8, 8, 8, 8, 8))
    with pytest.raises(ValueError, match="expected 8 multiples of 4"):
        near(torch.zeros(1, 8), (8, 8))


def test_a_compiled_graph_stays_whole() -> None:
    def run(q: Tensor) -> Tensor:
        slots, weights = near(q * 2, EIGHTS)
        return weights * (slots % 7)

    q = (2 * torch.randn(5, 8)).requires_grad_()
    out = torch.compile(run, fullgraph=True, backend="aot_eager")(q)
    out.sum().backward()
    grad, q.grad = q.grad, None
    run(q).sum().backward()
    torch.testing.assert_close(out, run(q))
    torch.testing.assert_close(grad, q.grad)
