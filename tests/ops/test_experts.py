"""Expert compute: the sorted path against the specification, with gradients and idle experts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum import ops
from vademecum.ops.experts import run_experts


@given(tokens=st.integers(1, 30), experts=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_fast_path_equals_the_specification_with_all_gradients(tokens: int, experts: int, seed: int) -> None:
    top_k = min(2, experts)
    results = []
    for name in ops.BACKENDS:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(tokens, 4, generator=generator).requires_grad_()
        maps = torch.randn(experts, 4, 4, generator=generator).requires_grad_()
        weights = torch.rand(tokens, top_k, generator=generator).requires_grad_()
        chosen = torch.rand(tokens, experts, generator=generator).topk(top_k).indices
        with ops.backend(name):
            out = run_experts(x, chosen, weights, experts, lambda e, piece, maps=maps: torch.tanh(piece @ maps[e]))
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        results.append((out.detach(), x.grad, maps.grad, weights.grad))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_an_idle_expert_is_never_called_and_gets_no_gradient() -> None:
    maps = torch.randn(3, 4, 4, requires_grad=True)
    called = []

    def apply(expert: int, piece: torch.Tensor) -> torch.Tensor:
        called.append(expert)
        return piece @ maps[expert]

    chosen = torch.tensor([[0], [2], [0]])
    run_experts(torch.ones(3, 4), chosen, torch.ones(3, 1), 3, apply).sum().backward()
    assert called == [0, 2]
    assert maps.grad[1].abs().sum() == 0
    assert maps.grad[0].abs().sum() > 0
