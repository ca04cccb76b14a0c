"""Routing and balance against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum.experts.balance import AuxiliaryLoss, BiasBalance, counts_of, mean_over, share_of, z_loss
from vademecum.experts.routes import Routes
from vademecum.experts.tally import Tally

CPU = torch.device("cpu")


def routes(chosen: list[list[int]], scores: torch.Tensor) -> Routes:
    picked = torch.tensor(chosen)
    return Routes(picked, scores.gather(-1, picked), scores.log(), scores)


def loss_of(balance: AuxiliaryLoss, made: Routes, mask: torch.Tensor | None = None) -> torch.Tensor:
    counts = counts_of(made.chosen, made.scores.shape[-1], mask)
    return balance.settle(counts, mean_over(made.probabilities, mask))


def router_weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(3, 2))


def step(weight: torch.nn.Parameter) -> None:
    """What any optimizer does: write the weight in place."""
    with torch.no_grad():
        weight.add_(1.0)


def test_perfect_balance_costs_exactly_the_weight_for_any_k() -> None:
    for top_k in (1, 2):
        chosen = [[(n + j) % 4 for j in range(top_k)] for n in range(8)]
        even = routes(chosen, torch.full((8, 4), 0.25))
        torch.testing.assert_close(loss_of(AuxiliaryLoss(0.01, None), even), torch.tensor(0.01))


def test_collapse_on_one_of_four_experts_costs_four_times_the_weight() -> None:
    sharp = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
    torch.testing.assert_close(loss_of(AuxiliaryLoss(0.5, None), routes([[0]] * 8, sharp)), torch.tensor(2.0))


def test_sigmoid_scores_enter_the_loss_as_shares() -> None:
    made = routes([[0], [1]], torch.tensor([[0.8, 0.8], [0.2, 0.2]]))
    torch.testing.assert_close(loss_of(AuxiliaryLoss(1.0, None), made), torch.tensor(1.0))


def test_the_z_loss_is_the_mean_squared_log_partition() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    made = Routes(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1), logits, logits.softmax(-1))
    expected = (math.log(2.0) ** 2 + math.log(4.0) ** 2) / 2
    torch.testing.assert_close(z_loss(made, None), torch.tensor(expected))


def test_padding_counts_neither_in_load_nor_in_losses() -> None:
    scores = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    mask = torch.tensor([True, False, True])
    padded, real = routes([[0], [1], [0]], scores), routes([[0], [0]], scores[mask])
    assert torch.equal(counts_of(padded.chosen, 2, mask), counts_of(real.chosen, 2, None))
    torch.testing.assert_close(z_loss(padded, mask), z_loss(real, None))
    balance = AuxiliaryLoss(1.0, None)
    torch.testing.assert_close(loss_of(balance, padded, mask), loss_of(balance, real))


def test_dropped_assignments_count_for_nobody() -> None:
    counts = counts_of(torch.tensor([[0, -1], [1, 0], [-1, -1]]), 3, None)
    assert counts.tolist() == [2.0, 1.0, 0.0]
    assert share_of(counts).sum() == 1.0
    assert share_of(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_the_global_scope_counts_all_micro_batches_of_a_step_and_then_anew() -> None:
    balance, weight = AuxiliaryLoss(1.0, Tally(3, CPU)), router_weight()
    even = torch.full((3,), 1 / 3)
    first, second = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 12.0])
    lopsided = torch.tensor([1.0, 0.0, 0.0])
    balance.begin(weight)
    assert balance.settle(first, lopsided) == 3.0
    balance.begin(weight)
    # A quarter of the step's assignments lie with expert 0: 3 experts x 1/4 x probability 1.
    torch.testing.assert_close(balance.settle(second, lopsided), torch.tensor(0.75))
    step(weight)
    balance.begin(weight)
    assert balance.settle(second, lopsided) == 0.0
    torch.testing.assert_close(balance.settle(first, even), torch.tensor(1.0))


def test_the_bias_moves_once_per_optimizer_step_by_all_its_micro_batches() -> None:
    balance, weight = BiasBalance(3, 0.1, CPU), router_weight()
    for counts in ([8.0, 2.0, 0.0], [0.0, 2.0, 0.0]):
        balance.begin(weight)
        balance.settle(torch.tensor(counts), torch.zeros(3))
        assert balance.offsets.abs().sum() == 0
    step(weight)
    balance.begin(weight)
    # 8, 4 and 0 assignments against a mean of 4.
    torch.testing.assert_close(balance.offsets, torch.tensor([-0.1, 0.0, 0.1]))
    balance.begin(weight)
    torch.testing.assert_close(balance.offsets, torch.tensor([-0.1, 0.0, 0.1]))


def test_the_bias_of_a_frozen_router_moves_with_every_forward() -> None:
    balance, weight = BiasBalance(3, 0.1, CPU), router_weight().requires_grad_(False)
    for _ in range(3):
        balance.begin(weight)
        balance.settle(torch.tensor([8.0, 4.0, 0.0]), torch.zeros(3))
    assert balance.offsets[0] == pytest.approx(-0.2)


@pytest.mark.parametrize("fused", [True, False])
def test_every_optimizer_is_noticed(fused: bool) -> None:
    weight = router_weight()
    optimizer, tally = torch.optim.AdamW([weight], fused=fused), Tally(3, CPU)
    tally.begin(weight)
    for _ in range(3):
        tally.add(torch.ones(3))
        assert tally.begin(weight).sum() == 0
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert tally.begin(weight).sum() == 3
        assert tally.counts.sum() == 0


def test_the_bias_changes_only_in_training_and_once_per_step_under_checkpointing() -> None:
    """A recompute in the backward must neither count the load again nor see the moved bias."""
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=4, balance="bias", balance_weight=0.01))
    part = next(part for _, _, part in vm.memories(model).parts())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(input_ids=tiny.ids())
    assert part.balance.tally.counts.sum() == 0
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    assert part.balance.tally.counts.sum() == 2 * tiny.ids().numel()
    assert part.balance.offsets.abs().sum() == 0
    optimizer.step()
    model(input_ids=tiny.ids(), labels=tiny.ids())
    assert 0 < part.balance.offsets.abs().max() <= 0.02
    assert part.balance.tally.counts.sum() == 2 * tiny.ids().numel()


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
