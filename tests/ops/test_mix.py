"""The mix op: specification against a plain loop, fast path against the specification."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum import ops
from vademecum.lookup import Lookup
from vademecum.ops.mix import bag, cpu, gradient, mix_slots, naive

PATHS = {
    "naive": lambda gates, rows, lookup: naive.mix_slots(gates, rows, lookup.inverse),
    "cpu": lambda gates, rows, lookup: gradient.mix_slots(cpu, gates, rows, lookup),
    "bag": lambda gates, rows, lookup: bag.mix_slots(gates, rows, lookup.bags(rows.shape[1], rows.shape[2])),
}


def case(ids: torch.Tensor, slots: int, heads: int, dim: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    lookup = Lookup.of(ids)
    gates = torch.rand(ids.numel(), heads, slots, generator=generator).to(dtype).requires_grad_()
    rows = torch.randn(len(lookup.unique), slots, heads, dim, generator=generator).to(dtype).requires_grad_()
    return lookup, gates, rows


def test_the_specification_is_the_equation() -> None:
    lookup, gates, rows = case(torch.tensor([[3, 1, 3], [0, 1, 1]]), slots=2, heads=2, dim=3)
    with ops.backend("naive"):
        out = mix_slots(gates, rows, lookup)
    for n in range(6):
        for h in range(2):
            expected = sum(gates[n, h, m] * rows[lookup.inverse[n], m, h] for m in range(2))
            torch.testing.assert_close(out[n, h], expected)


@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    slots=st.integers(1, 5),
    heads=st.integers(1, 4),
    dim=st.sampled_from([1, 3, 8, 17]),
)
def test_every_path_equals_the_specification_with_both_gradients(
    ids: list[int], slots: int, heads: int, dim: int
) -> None:
    results = []
    for path in PATHS.values():
        lookup, gates, rows = case(torch.tensor([ids]), slots, heads, dim)
        out = path(gates, rows, lookup)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * weight).sum().backward()
        results.append((out.detach(), gates.grad, rows.grad))
    specification, *others = results
    for other in others:
        for fast, slow in zip(other, specification, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_the_loops_take_what_a_cpu_trains_and_leave_the_rest_to_the_bag() -> None:
    gates, rows = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1)
    assert cpu.supports(gates, rows) is None
    assert cpu.supports(gates, rows.bfloat16()) is None
    assert "float64" in (cpu.supports(gates, rows.double()) or "")
    assert "meta" in (cpu.supports(gates.to("meta"), rows.to("meta")) or "")


def test_the_fast_path_in_bf16_is_as_close_as_bf16_allows() -> None:
    ids = torch.randint(0, 20, (2, 30))
    lookup, gates, rows = case(ids, 4, 2, 16, torch.bfloat16)
    out = mix_slots(gates, rows, lookup)
    with ops.backend("naive"):
        exact = mix_slots(gates.float(), rows.float(), lookup)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)


def test_the_fast_path_gives_the_same_bits_every_time() -> None:
    grads = []
    for _ in range(3):
        lookup, gates, rows = case(torch.arange(200).remainder(7).view(2, 100), 3, 2, 8)
        mix_slots(gates, rows, lookup).square().sum().backward()
        grads.append(rows.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[1], grads[2])


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="write one of 'fast', 'naive'"), ops.backend("cuda"):
        pass


def test_a_lookup_names_each_id_once_and_finds_every_token_again() -> None:
    ids = torch.tensor([[5, 2, 5], [9, 2, 0]])
    lookup = Lookup.of(ids)
    assert lookup.unique.tolist() == [0, 2, 5, 9]
    assert torch.equal(lookup.unique[lookup.inverse].view_as(ids), ids)
    assert lookup.bags(3, 2) is lookup.bags(3, 2)


def test_what_is_not_finite_comes_through() -> None:
    lookup, gates, rows = case(torch.tensor([[1, 2, 1]]), slots=2, heads=1, dim=4)
    with torch.no_grad():
        rows[0, 0, 0, 1] = float("nan")
        rows[1, 0, 0, 2] = float("inf")
    out = mix_slots(gates, rows, lookup)
    assert out[0, 0, 1].isnan()
    assert out[1, 0, 2].isinf()
    assert out[0, 0, 0].isfinite()


@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    slots=st.integers(1, 6),
    heads=st.integers(1, 3),
    dim=st.sampled_from([2, 17]),
)
def test_the_result_is_the_same_bits_however_many_threads_there_are(
    ids: list[int], slots: int, heads: int, dim: int
) -> None:
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "SMALL", 0)
        for threads in (1, 2, 5):
            patch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            lookup, gates, rows = case(torch.tensor([ids]), slots, heads, dim)
            out = mix_slots(gates, rows, lookup)
            out.backward(torch.ones_like(out))
            results.append((out.detach(), gates.grad, rows.grad))
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)


def test_gates_in_bf16_over_rows_in_fp32_lose_nothing_but_the_last_rounding() -> None:
    lookup, gates, rows = case(torch.randint(0, 6, (2, 40)), slots=5, heads=2, dim=64)
    narrow = gates.detach().bfloat16().requires_grad_()
    weight = torch.randn(80, 2, 64).bfloat16()
    mix_slots(narrow, rows, lookup).backward(weight)
    wide, exact = narrow.detach().float().requires_grad_(), rows.detach().clone().requires_grad_()
    with ops.backend("naive"):
        out = mix_slots(wide, exact, lookup)
    out.backward(weight.float())
    torch.testing.assert_close(mix_slots(narrow, rows, lookup).float(), out, rtol=2**-8, atol=1e-6)
    assert narrow.grad.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.grad.float(), wide.grad, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(rows.grad, exact.grad, rtol=1e-5, atol=1e-5)


def test_helpers_that_never_get_to_run_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(ThreadPoolExecutor):
        def submit(self, *args: object, **kwargs: object) -> Future[object]:  # type: ignore[override]
            return Future()

    monkeypatch.setattr(cpu, "SMALL", 0)
    monkeypatch.setattr(cpu, "_pool", lambda *_: Late(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    lookup, gates, rows = case(torch.arange(40).remainder(7).view(2, 20), 3, 2, 8)
    out = mix_slots(gates, rows, lookup)
    out.sum().backward()
    with ops.backend("naive"):
        torch.testing.assert_close(out, mix_slots(gates, rows, lookup))


def test_what_goes_wrong_in_a_helper_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("in a loop")

    with pytest.raises(KeyError, match="in a loop"):
        cpu._share_out(2, [0, 1, 2, 3], fail)


def test_no_tokens_give_no_results() -> None:
    lookup = Lookup.of_table(torch.empty(1, 0, dtype=torch.long))
    gates, rows = torch.empty(0, 2, 3, requires_grad=True), torch.randn(4, 3, 2, 8, requires_grad=True)
    out = mix_slots(gates, rows, lookup)
    assert out.shape == (0, 2, 8)
    out.sum().backward()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_one_token_decodes_without_loops_to_the_same_value() -> None:
    lookup, gates, rows = case(torch.tensor([[7]]), slots=5, heads=3, dim=16)
    with torch.no_grad():
        alone = mix_slots(gates, rows, lookup)
    torch.testing.assert_close(alone, mix_slots(gates, rows, lookup).detach())
