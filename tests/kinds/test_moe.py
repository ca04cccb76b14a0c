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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 2, "top_k": 3}, r"experts=2, top_k=3\) was given; expected top_k from 1"),
        ({"capacity": 0.0}, r"capacity=0.0\) was given, with which every token would be dropped"),
        ({"capacity": -1.0}, r"capacity=-1.0"),
        ({"jitter": 1.5}, r"jitter=1.5"),
        ({"scores": "tanh"}, r"scores='tanh'\) was given; expected one of 'softmax', 'sigmoid'"),
        ({"renormalise": True, "top_k": 1}, r"write renormalise=False, or top_k=2"),
        ({"renormalise": 1}, r"renormalise=1\) was given; expected bool"),
        ({"second": "sampled", "top_k": 3}, r"write top_k=2"),
        ({"choice": "expert", "capacity": 1.0}, r"leave capacity out"),
        ({"choice": "expert", "balance": "bias"}, r"write balance=None"),
        ({"init": "copy", "top_k": 1}, r"write top_k=2 or more"),
        ({"init": "copy", "renormalise": False}, r"write top_k=2 or more"),
        ({"init": "copy", "second": "sampled"}, r"second='always'"),
        ({"init": "copy", "choice": "expert"}, r"write top_k=2 or more"),
        ({"balance_scope": "batch"}, r"expected one of 'micro', 'global'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_what_to_write(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.MoE(**settings)


def test_published_styles_set_what_their_papers_say_and_can_be_changed() -> None:
    assert vm.MoE.like("switch") == vm.MoE(top_k=1, capacity=1.25, jitter=0.01, z_weight=0.0)
    assert vm.kinds.parse("moe:like=deepseek,experts=16,top_k=4") == vm.MoE(
        experts=16, top_k=4, scores="sigmoid", balance="bias", z_weight=0.0
    )
    kind = vm.MoE.like("olmoe", experts=4, top_k=2)
    assert vm.kinds.from_dict(kind.to_dict()) == kind
    with pytest.raises(ValueError, match="did you mean 'mixtral'"):
        vm.MoE.like("mixtrel")


def test_everything_dropped_is_counted_and_the_residual_carries_on() -> None:
    torch.manual_seed(0)
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=4, top_k=1, capacity=1e-6, balance=None, z_weight=0.0))
    ids = tiny.ids()
    with vm.record(model.train()) as rec:
        trained = model(input_ids=ids, labels=ids).loss
    # Room for one token each: of 20 assignments at most four are kept.
    assert rec.all("moe.layers.0", "dropped").item() >= 0.8
    assert trained.isfinite()
    with vm.record(model.eval()) as rec, torch.no_grad():
        model(input_ids=ids)
    assert rec.all("moe.layers.0", "dropped").item() == 0


def test_a_dropped_token_gets_nothing_from_the_experts() -> None:
    from vademecum.lookup import Frame

    model = vm.attach(tiny.host("llama"), vm.MoE(experts=2, top_k=1, capacity=1e-6))
    part = next(part for _, _, part in vm.memories(model).parts())
    out = part(torch.randn(1, 9, 32), Frame(training=True))
    assert ((out[0].abs().sum(-1) > 0).sum()) <= 2
    assert (out[0].abs().sum(-1) == 0).sum() >= 7


def test_upcycling_a_host_without_a_dense_feed_forward_is_refused_and_changes_nothing() -> None:
    model = tiny.host("mixtral")
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=r"layer 0 of this mixtral host has a MixtralSparseMoeBlock"):
        vm.attach(model, vm.MoE(init="copy"))
    assert [name for name, _ in model.named_modules()] == before


@pytest.mark.parametrize("settings", [{}, {"scores": "sigmoid", "balance": "bias"}, {"shared_width": 8}])
def test_upcycled_experts_answer_like_the_dense_host_up_to_rounding(settings: dict) -> None:
    model = tiny.host("qwen3")
    dense = model(input_ids=tiny.ids()).logits
    vm.attach(model, vm.MoE(experts=4, top_k=3, init="copy", **settings))
    for mode in (False, True):
        with torch.no_grad():
            copied = model.train(mode)(input_ids=tiny.ids()).logits
        torch.testing.assert_close(copied, dense, rtol=1e-5, atol=2e-6)


def test_moving_an_attached_model_moves_the_resting_module_too() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE()).to(torch.bfloat16)
    vm.detach(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
