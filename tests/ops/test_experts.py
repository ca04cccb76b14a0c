"""Expert compute: every backend against the specification, with all gradients, idle experts and dropped assignments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vademecum.ops.experts import BACKENDS, Networks, choose, grouped, run_experts

FAST = [name for name in BACKENDS if name != "naive"]


def case(
    tokens: int, experts: int, top_k: int, *, d: int = 8, f: int = 4, gated: bool = True, biased: bool = True,
    seed: int = 0, dtype: torch.dtype = torch.float32, dropped: float = 0.0, idle: bool = False,
):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return (0.5 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

    inner = 2 * f if gated else f
    networks = Networks(
        drawn(experts, d, inner),
        drawn(experts, f, d),
        drawn(experts, inner) if biased else None,
        drawn(experts, d) if biased else None,
        act=torch.nn.SiLU() if gated else F.gelu,
        gated=gated,
    )
    scores = torch.rand(tokens, experts, generator=generator)
    if idle and experts > top_k:
        scores[:, 0] = -1.0
    chosen = scores.topk(top_k).indices
    chosen[torch.rand(chosen.shape, generator=generator) < dropped] = -1
    hidden, weights = drawn(tokens, d), drawn(tokens, top_k)
    return hidden, chosen, weights, networks


def run(name: str, arguments) -> list[torch.Tensor]:
    hidden, chosen, weights, networks = arguments
    leaves = [hidden, weights, *(t for t in networks.tensors() if t is not None)]
    for leaf in leaves:
        leaf.grad = None
    out = BACKENDS[name](hidden, chosen, weights, networks)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def test_the_specification_is_the_equation() -> None:
    hidden, chosen, weights, networks = case(5, 3, 2, dropped=0.3)
    out = BACKENDS["naive"](hidden, chosen, weights, networks)
    for n in range(5):
        expected = torch.zeros(8)
        for k in range(2):
            if (e := int(chosen[n, k])) >= 0:
                gate, linear = (hidden[n] @ networks.up[e] + networks.up_bias[e]).chunk(2)
                one = (F.silu(gate) * linear) @ networks.down[e] + networks.down_bias[e]
                expected = expected + weights[n, k] * one
        torch.testing.assert_close(out[n], expected)


@pytest.mark.parametrize("name", FAST)
@given(
    tokens=st.integers(1, 30),
    experts=st.integers(1, 6),
    top_k=st.integers(1, 3),
    gated=st.booleans(),
    biased=st.booleans(),
    dropped=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_backend_equals_the_specification_with_all_gradients(
    name: str, tokens: int, experts: int, top_k: int, gated: bool, biased: bool, dropped: float, seed: int
) -> None:
    arguments = case(
        tokens, experts, min(top_k, experts), gated=gated, biased=biased, dropped=dropped, seed=seed, idle=True
    )
    for fast, slow in zip(run(name, arguments), run("naive", arguments), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAST)
def test_an_idle_expert_gets_a_gradient_of_zeros(name: str) -> None:
    arguments = case(12, 4, 2, idle=True)
    run(name, arguments)
    for tensor in arguments[3].tensors():
        assert tensor.grad[0].abs().sum() == 0
        assert (tensor.grad[1:].flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", FAST)
def test_bf16_is_as_close_as_bf16_allows(name: str) -> None:
    arguments = case(40, 4, 2, d=16, f=8, dtype=torch.bfloat16)
    hidden, chosen, weights, networks = arguments
    exact = BACKENDS["naive"](hidden.float(), chosen, weights.float(), networks.to(torch.float32))
    out = run(name, arguments)[0]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", ["segments", "padded"])
def test_double_precision_agrees_with_finite_differences(name: str) -> None:
    hidden, chosen, weights, networks = case(5, 3, 2, d=3, f=2, dtype=torch.float64, dropped=0.2)

    def compute(hidden, weights, up, down, up_bias, down_bias):
        made = Networks(up, down, up_bias, down_bias, act=networks.act, gated=True)
        return BACKENDS[name](hidden, chosen, weights, made)

    assert torch.autograd.gradcheck(compute, (hidden, weights, *networks.tensors()))


def test_the_segments_give_the_same_bits_every_time() -> None:
    first, second = (run("segments", case(200, 5, 2)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_tensor_that_needs_no_gradient_gets_none() -> None:
    hidden, chosen, weights, networks = case(6, 3, 2)
    networks.up.requires_grad_(False)
    run_experts(hidden, chosen, weights, networks).sum().backward()
    assert networks.up.grad is None
    assert networks.down.grad is not None


def test_the_grouped_products_name_what_they_cannot_take() -> None:
    hidden, _, _, networks = case(4, 2, 1, d=3)
    assert "16 bytes" in (grouped.supports(hidden, networks) or "")
    assert "float64" in (grouped.supports(hidden.double(), networks) or "")
    assert grouped.supports(*(lambda c: (c[0], c[3]))(case(4, 2, 1))) is None


def test_a_cpu_runs_the_segments_where_experts_are_busy_and_grouped_products_where_they_are_not() -> None:
    def pick(tokens: int, dtype: torch.dtype = torch.float32) -> str:
        hidden, chosen, _, networks = case(tokens, 4, 2, dtype=dtype)
        return choose(hidden, chosen, networks)

    assert pick(2000) == "segments"
    assert pick(8) == "grouped"
    assert pick(8, torch.float64) == "segments"
