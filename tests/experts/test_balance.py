"""Routing and balance against their formulas."""

from __future__ import annotations

import math

import torch

import vademecum as vm
from tests import tiny
from vademecum.experts.balance import AuxiliaryLoss, BiasBalance, load_of, z_loss
from vademecum.experts.router import Router, Routes


def routes(chosen: list[list[int]], scores: torch.Tensor) -> Routes:
    picked = torch.tensor(chosen)
    return Routes(picked, scores.gather(-1, picked), scores.log(), scores)


def test_perfect_balance_costs_exactly_the_weight_for_any_k() -> None:
    for top_k in (1, 2):
        chosen = [[(n + j) % 4 for j in range(top_k)] for n in range(8)]
        even = routes(chosen, torch.full((8, 4), 0.25))
        loss = AuxiliaryLoss(0.01).loss(even, load_of(even, None), None)
        torch.testing.assert_close(loss, torch.tensor(0.01))


def test_collapse_on_one_of_four_experts_costs_four_times_the_weight() -> None:
    sharp = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
    one = routes([[0]] * 8, sharp)
    torch.testing.assert_close(AuxiliaryLoss(0.5).loss(one, load_of(one, None), None), torch.tensor(2.0))


def test_the_z_loss_is_the_mean_squared_log_partition() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    made = Routes(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1), logits, logits.softmax(-1))
    expected = (math.log(2.0) ** 2 + math.log(4.0) ** 2) / 2
    torch.testing.assert_close(z_loss(made, None), torch.tensor(expected))


def test_padding_counts_neither_in_load_nor_in_losses() -> None:
    scores = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    mask = torch.tensor([True, False, True])
    padded, real = routes([[0], [1], [0]], scores), routes([[0], [0]], scores[mask])
    assert torch.equal(load_of(padded, mask), load_of(real, None))
    torch.testing.assert_close(z_loss(padded, mask), z_loss(real, None))
    balance = AuxiliaryLoss(1.0)
    torch.testing.assert_close(
        balance.loss(padded, load_of(padded, mask), mask), balance.loss(real, load_of(real, None), None)
    )


def test_the_bias_moves_the_choice_but_never_the_weights() -> None:
    router = Router(4, 3, 1, dtype=torch.float32, device=torch.device("cpu"))
    x = torch.randn(50, 4)
    free, forced = router(x), router(x, torch.tensor([0.0, 9.0, 0.0]))
    assert (forced.chosen == 1).all()
    assert not (free.chosen == 1).all()
    torch.testing.assert_close(forced.weights[:, 0], free.scores[:, 1])


def test_weights_of_several_experts_sum_to_one_and_of_one_are_its_probability() -> None:
    x = torch.randn(20, 4)
    two = Router(4, 3, 2, dtype=torch.float32, device=torch.device("cpu"))(x)
    torch.testing.assert_close(two.weights.sum(-1), torch.ones(20))
    one = Router(4, 3, 1, dtype=torch.float32, device=torch.device("cpu"))(x)
    torch.testing.assert_close(one.weights[:, 0], one.scores.max(-1).values)


def test_routing_is_in_full_precision_under_autocast() -> None:
    router = Router(4, 3, 1, dtype=torch.float32, device=torch.device("cpu"))
    x = torch.randn(20, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = router(x)
    assert inside.scores.dtype == torch.float32
    assert torch.equal(inside.scores, router(x).scores)


def test_the_bias_rises_for_idle_experts_and_falls_for_busy_ones() -> None:
    balance = BiasBalance(3, 0.1, torch.device("cpu"))
    balance.settle("moe", type("F", (), {"loads": {"moe": torch.tensor([0.8, 0.2, 0.0])}})())
    assert balance.offsets[0] < 0 < balance.offsets[1]
    torch.testing.assert_close(balance.offsets.sum(), torch.tensor(0.0))


def test_the_bias_changes_only_in_training_and_once_per_forward_under_checkpointing() -> None:
    """A recompute in the backward must neither count the load again nor see the moved bias."""
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4, balance="bias", balance_weight=0.01))
    part = next(part for _, _, part in vm.memories(model).parts())
    model(input_ids=tiny.ids())
    assert part.balance.offsets.abs().sum() == 0
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    loss = model(input_ids=tiny.ids(), labels=tiny.ids()).loss
    moved = part.balance.offsets.clone()
    assert 0 < moved.abs().max() <= 0.02
    loss.backward()
    assert torch.equal(part.balance.offsets, moved)


def test_both_balances_even_out_a_lopsided_router() -> None:
    def spread(balance: str | None, weight: float | None) -> float:
        model = vm.attach(
            tiny.host("qwen3"), vm.MoE(experts=4, top_k=1, balance=balance, balance_weight=weight, z_weight=0.0)
        )
        with torch.no_grad():
            for _, _, part in vm.memories(model).parts():
                part.router.weight[0] = 0.2 * part.router.weight[0] + 0.3 * part.router.weight[1]
        optimizer = torch.optim.AdamW(vm.param_groups(model, lr=3e-3))
        model.train()
        for step in range(60):
            ids = tiny.ids(4, 16, seed=step)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with vm.record(model) as rec:
            model(input_ids=tiny.ids(16, 16, seed=999))
        return max(float(rec.all(key, "load").max()) for key in rec.layers())

    free = spread(None, None)
    assert spread("aux", 0.1) < free
    assert spread("bias", 0.02) < free


def test_the_biases_stay_in_full_precision_on_a_host_in_half() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4, balance="bias")).to(torch.bfloat16)
    part = next(part for _, _, part in vm.memories(model).parts())
    assert part.balance.offsets.dtype == torch.float32
