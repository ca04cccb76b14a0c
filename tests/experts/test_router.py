"""Routing: who chooses, how weights are made, what capacity drops, what comes of NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from tests import tiny
from vademecum.experts.choice import ExpertChoice, TokenChoice
from vademecum.experts.router import NotFinite, Router, Routing
from vademecum.experts.routes import Routes, limit

CPU = torch.device("cpu")
TRAINING = Routing(training=True)


def router(choice=None, experts: int = 3, **settings) -> Router:
    torch.manual_seed(0)
    choice = choice or TokenChoice(1, renormalise=False)
    return Router(4, experts, choice, dtype=torch.float32, device=CPU, **settings)


def hidden(tokens: int = 20, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_weights_are_scores_or_their_shares() -> None:
    x = hidden()
    plain = router(TokenChoice(2, renormalise=False))(x)
    torch.testing.assert_close(plain.weights, plain.scores.topk(2).values)
    shares = router(TokenChoice(2, renormalise=True))(x)
    torch.testing.assert_close(shares.weights.sum(-1), torch.ones(20))
    assert torch.equal(shares.chosen, plain.chosen)


def test_sigmoid_scores_answer_for_each_expert_alone() -> None:
    x = hidden()
    made = router(TokenChoice(2, renormalise=True), scores="sigmoid")(x)
    torch.testing.assert_close(made.scores, torch.sigmoid(made.logits))
    torch.testing.assert_close(made.weights.sum(-1), torch.ones(20))
    torch.testing.assert_close(made.probabilities.sum(-1), torch.ones(20))


def test_the_bias_moves_the_choice_but_never_the_weights() -> None:
    x = hidden(50)
    free, forced = router()(x), router()(x, Routing(bias=torch.tensor([0.0, 9.0, 0.0])))
    assert (forced.chosen == 1).all()
    assert not (free.chosen == 1).all()
    torch.testing.assert_close(forced.weights[:, 0], free.scores[:, 1])


def test_routing_is_in_full_precision_under_autocast() -> None:
    x = hidden()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = router()(x)
    assert inside.scores.dtype == inside.weights.dtype == torch.float32
    assert torch.equal(inside.scores, router()(x).scores)


def test_jitter_moves_logits_in_training_alone() -> None:
    x, shaken = hidden(), router(jitter=0.3)
    assert torch.equal(shaken(x).logits, router()(x).logits)
    moved = shaken(x, TRAINING).logits
    assert not torch.equal(moved, router()(x).logits)
    assert (moved - router()(x).logits).abs().max() <= 0.3 * (x.abs() @ shaken.weight.abs().T).max() + 1e-6


def test_a_second_expert_is_sampled_by_twice_its_weight_and_only_in_training() -> None:
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(2))
    made = router(TokenChoice(2, renormalise=True, sampled=True))
    sure, sampled = made(x), made(x, TRAINING)
    assert (sure.chosen >= 0).all()
    kept = sampled.chosen[:, 1] >= 0
    expected = (2 * sure.weights[:, 1]).clamp_max(1).mean().item()
    assert kept.float().mean().item() == pytest.approx(expected, abs=0.03)
    assert torch.equal(sampled.weights[kept], sure.weights[kept])
    assert (sampled.weights[~kept, 1] == 0).all()


def test_capacity_seats_first_choices_before_second_and_earlier_tokens_before_later() -> None:
    chosen = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 2]])
    made = Routes(chosen, torch.rand(4, 2) + 0.1, torch.zeros(4, 3), torch.full((4, 3), 1 / 3))
    kept = limit(made, capacity=0.75, mask=None)  # room for ceil(0.75 * 8 / 3) = 2
    # Expert 0 is full after tokens 0 and 1; expert 1 seats token 2's first choice, then token 0's second.
    assert kept.chosen.tolist() == [[0, 1], [0, -1], [1, -1], [-1, 2]]
    assert kept.dropped.item() == pytest.approx(3 / 8)
    assert (kept.weights[kept.chosen < 0] == 0).all()
    assert torch.equal(kept.weights[kept.chosen >= 0], made.weights[kept.chosen >= 0])


@given(
    tokens=st.integers(1, 40), experts=st.integers(1, 6), top_k=st.integers(1, 3), capacity=st.floats(0.1, 3.0),
    padded=st.integers(0, 5), seed=st.integers(0, 50),
)  # fmt: skip
def test_no_expert_ever_gets_more_than_its_room(
    tokens: int, experts: int, top_k: int, capacity: float, padded: int, seed: int
) -> None:
    top_k = min(top_k, experts)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator).softmax(-1)
    weights, chosen = scores.topk(top_k)
    mask = torch.arange(tokens) >= padded if padded else None
    real = tokens if mask is None else int(mask.sum())
    kept = limit(Routes(chosen, weights, scores, scores), capacity=capacity, mask=mask)
    room = -(-(capacity * top_k * real) // experts)
    seated = kept.chosen >= 0
    assert torch.bincount(kept.chosen[seated], minlength=experts).max() <= room + 1e-6
    assert mask is None or not seated[~mask].any()
    assert kept.dropped.item() == pytest.approx(1 - seated.sum().item() / max(real * top_k, 1), abs=1e-6) or real == 0
    assert torch.equal(kept.chosen[seated], chosen[seated])


def test_capacity_holds_in_training_alone() -> None:
    made = router(capacity=0.2)
    assert (made(hidden()).chosen >= 0).all()
    assert made(hidden()).dropped is None
    assert made(hidden(), TRAINING).dropped > 0.3


def test_experts_that_choose_are_evenly_loaded_and_take_their_best() -> None:
    made = router(ExpertChoice(2, 4, CPU), experts=4)(hidden(24), TRAINING)
    counts = torch.bincount(made.chosen[made.chosen >= 0], minlength=4)
    assert counts.tolist() == [12, 12, 12, 12]
    for expert in range(4):
        taken = (made.chosen == expert).any(-1)
        assert made.scores[taken, expert].min() >= made.scores[~taken, expert].max()
    assert torch.equal(made.cut, torch.stack([made.scores[(made.chosen == e).any(-1), e].min() for e in range(4)]))


def test_outside_of_training_a_token_goes_where_it_reaches_the_threshold_whatever_its_neighbours() -> None:
    made = router(ExpertChoice(1, 4, CPU), experts=4)
    x = hidden(400)
    fresh = made(x)
    assert torch.equal(fresh.chosen[:, 0], fresh.scores.argmax(-1))
    for _ in range(3):
        made.choice.learn(made(x, TRAINING).cut)
    made.choice.thresholds.mul_(1 - 1e-5)  # a score that is a threshold to the last bit would be decided by rounding
    together, alone = made(x), torch.cat([made(one[None]).chosen.max(-1).values for one in x])
    assert torch.equal(alone, together.chosen.max(-1).values)
    # The thresholds were learned on these very tokens: every expert takes its share of them.
    assert torch.bincount(together.chosen[together.chosen >= 0], minlength=4).tolist() == [100, 100, 100, 100]
    assert (together.chosen < 0).all(-1).any()


def test_a_batch_that_is_all_padding_or_empty_is_taken_by_nobody_and_teaches_nothing() -> None:
    made = router(ExpertChoice(1, 3, CPU))
    padded = made(hidden(), Routing(training=True, mask=torch.zeros(20, dtype=torch.bool)))
    assert (padded.chosen == -1).all()
    assert (made(hidden(0), TRAINING).chosen == -1).all()
    made.choice.learn(padded.cut)
    assert made.choice.seen == 0


def test_a_forward_that_is_not_finite_leaves_the_thresholds_as_they_were() -> None:
    made = router(ExpertChoice(1, 3, CPU))
    made.choice.learn(made(hidden(), TRAINING).cut)
    before = made.choice.thresholds.clone()
    spoilt = hidden()
    spoilt[3] = float("nan")
    made.choice.learn(made(spoilt, TRAINING).cut)
    assert torch.equal(made.choice.thresholds, before)
    assert (made(hidden()).chosen >= 0).any()


def test_balance_counts_what_was_asked_for_and_not_what_there_was_room_for() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=4, top_k=1, capacity=0.5, balance="bias", layers=[0]))
    part = next(part for _, _, part in vm.memories(model).parts())
    with torch.no_grad():
        part.router.weight[1:] = part.router.weight[:1] * torch.tensor([[0.9], [0.8], [0.7]])
    with vm.record(model.train()) as rec:
        model(input_ids=tiny.ids(), labels=tiny.ids())
    asked, chosen = part.balance.tally.counts, rec.all("moe.layers.0", "experts")
    assert asked.sum() == tiny.ids().numel()
    assert (chosen >= 0).sum() < asked.sum()
    torch.testing.assert_close(rec.all("moe.layers.0", "load")[0], asked / asked.sum())
    assert asked.max() > torch.bincount(chosen[chosen >= 0], minlength=4).max()


def test_padding_is_never_chosen_by_an_expert() -> None:
    mask = torch.arange(20) >= 8
    made = router(ExpertChoice(1, 3, CPU))(hidden(), Routing(training=True, mask=mask))
    assert (made.chosen[~mask] == -1).all()
    assert (made.chosen >= 0).sum() == 12


def test_a_router_that_is_not_finite_raises_outside_of_training_and_shows_in_the_loss_within() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE.like("deepseek", experts=4, top_k=2))
    part = next(part for _, _, part in vm.memories(model).parts())
    with torch.no_grad():
        part.router.weight[1, 0] = float("nan")
    with pytest.raises(NotFinite, match=r"NaN or infinity for 20 of 20 tokens"):
        model(input_ids=tiny.ids())
    assert model.train()(input_ids=tiny.ids(), labels=tiny.ids()).loss.isnan()
