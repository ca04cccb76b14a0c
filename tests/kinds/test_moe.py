"""Mixture of experts: what is peculiar to it."""

from __future__ import annotations

import pytest
import torch

import vademecum as vm
from tests import tiny

DENSE_HOSTS = [name for name in tiny.HOSTS if name not in tiny.SPARSE]


@pytest.mark.parametrize("name", DENSE_HOSTS)
def test_copied_experts_answer_like_the_dense_host_whatever_the_router_says(name: str) -> None:
    model = tiny.host(name)
    if name in ("gpt2", "gpt_neox"):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    dense = model(input_ids=tiny.ids()).logits
    vm.attach(model, vm.MoE(experts=3, top_k=2, init="copy"))
    torch.testing.assert_close(model(input_ids=tiny.ids()).logits, dense, rtol=1e-4, atol=1e-5)


def test_one_expert_of_full_width_is_the_equation_by_hand() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=3, top_k=2, width=5))
    part = next(part for _, _, part in vm.memories(model).parts())
    x = torch.randn(1, 4, 32)
    from vademecum.lookup import Frame

    out = part(x, Frame())
    scores = (x[0] @ part.router.weight.T).softmax(-1)
    for n in range(4):
        best = scores[n].topk(2).indices.tolist()
        weights = scores[n][best] / scores[n][best].sum()
        total = torch.zeros(32)
        for weight, e in zip(weights, best, strict=True):
            gate, up = (x[0, n] @ part.experts.up[e]).chunk(2)
            total += weight * ((torch.nn.functional.silu(gate) * up) @ part.experts.down[e])
        torch.testing.assert_close(out[0, n], 48 / 5 * total, rtol=1e-4, atol=1e-5)


def test_narrow_experts_keep_the_active_compute_of_the_host() -> None:
    model = tiny.host("llama")
    dense = sum(p.numel() for p in model.model.layers[0].mlp.parameters())
    vm.attach(model, vm.MoE(experts=4, top_k=2))
    part = next(part for _, _, part in vm.memories(model).parts())
    assert part.experts.params_of_one() * 2 == dense
    assert part.cost().active_params == dense + part.router.weight.numel()


def test_a_shared_expert_serves_every_token() -> None:
    torch.manual_seed(0)
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=2, top_k=1, shared_width=6))
    part = next(part for _, _, part in vm.memories(model).parts())
    x, frame = torch.randn(1, 5, 32), __import__("vademecum.lookup", fromlist=["Frame"]).Frame()
    both = part(x, frame)
    with torch.no_grad():
        part.shared.down.zero_()
    alone = part(x, frame)
    assert ((both - alone).abs().sum(-1) > 0).all()


def test_the_replaced_feed_forward_neither_trains_nor_counts_but_comes_back() -> None:
    model = tiny.host("llama")
    names = set(dict(model.named_parameters()))
    mlp = model.model.layers[0].mlp
    vm.attach(model, vm.MoE())
    assert not any("gate_proj" in name for name, _ in model.named_parameters())
    vm.detach(model)
    assert model.model.layers[0].mlp is mlp
    assert set(dict(model.named_parameters())) == names


def test_moving_an_attached_model_moves_the_resting_module_too() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE()).to(torch.bfloat16)
    vm.detach(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
