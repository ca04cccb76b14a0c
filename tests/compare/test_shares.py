"""A budget of sparse parameters is split as asked, at the dense arm's active compute."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.analysis import cost
from vademecum.compare import arms, asked, entrants, shares
from vademecum.compare.arms import ARMS, Arm
from vademecum.compare.plan import PRESETS
from vademecum.compare.shares import Units
from vademecum.compare.stats import Estimate

PLAN = shares.resolve(PRESETS["hybrid-smoke"])
SPLIT = {arm.name: arm for arm in PLAN.arms if arm.share is not None}


def test_a_budget_of_twelve_experts_is_split_as_worked_out_by_hand() -> None:
    units = Units(slot=131_072, expert=135_168, active=4)
    assert [units.split(12 * units.expert, share) for share in (0, 20, 40, 100)] == [(0, 12), (2, 10), (5, 7), (12, 0)]


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**9), st.floats(1, 99))
def test_what_is_bought_is_the_budget_to_within_half_an_expert(
    slot: int, expert: int, budget: int, share: float
) -> None:
    slots, experts = Units(slot=slot, expert=expert, active=1).split(budget, share)
    assert abs(slots * slot - budget * share / 100) <= slot / 2 + 1
    assert experts == 0 or abs(slots * slot + experts * expert - budget) <= expert / 2 + 1


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**9))
def test_both_ends_are_exact(slot: int, expert: int, budget: int) -> None:
    units = Units(slot=slot, expert=expert, active=2)
    assert units.split(budget, 0)[0] == 0
    assert units.split(budget, 100)[1] == 0


def test_every_share_spends_nearly_the_same_and_comes_near_what_was_asked() -> None:
    assert list(SPLIT) == ["moe", "share-20", "share-40", "share-100"]
    budget = sum(SPLIT["moe"].sparse)
    for arm in SPLIT.values():
        assert sum(arm.sparse) == pytest.approx(budget, rel=0.06)
        assert 100 * arm.sparse[0] / sum(arm.sparse) == pytest.approx(arm.share, abs=5)


@pytest.mark.parametrize("name", SPLIT)
def test_what_an_arm_says_it_holds_is_what_its_model_holds(name: str) -> None:
    """Sparse parameters by the model's own count: all of it, less a dense mixture of the active experts alone."""
    arm = SPLIT[name]
    least = Arm(name="x", kinds=(shares.setting(arm.kinds[-1], "experts", 4),))
    held = sum(p.numel() for p in arms.build(arm, PLAN, seed=0).parameters())
    bare = sum(p.numel() for p in arms.build(least, PLAN, seed=0).parameters())
    own_gate = 0 if arm.share == 0 else PLAN.size * 32 * PLAN.size * PLAN.size  # the gate on the host's own value
    assert held - bare == sum(arm.sparse) + own_gate


@pytest.mark.parametrize("name", SPLIT)
def test_active_compute_is_the_dense_arms_at_every_share(name: str) -> None:
    dense = cost.flops_per_token(arms.build(ARMS["dense"], PLAN, seed=0), length=32)
    assert cost.flops_per_token(arms.build(SPLIT[name], PLAN, seed=0), length=32) == pytest.approx(dense, rel=0.05)


def test_a_plan_that_is_resolved_stays_as_it_is() -> None:
    assert shares.resolve(PLAN) == PLAN
    assert shares.resolve(PRESETS["smoke"]) is PRESETS["smoke"]


def test_an_arm_with_a_share_and_no_experts_is_refused() -> None:
    arm = Arm(name="odd", kinds=("move",), share=20)
    plan = dataclasses.replace(PRESETS["hybrid-smoke"], arms=(ARMS["dense"], arm), questions=(), curve=())
    with pytest.raises(ValueError, match="'odd' has a share of 20 % and the kinds move"):
        shares.resolve(plan)


def test_a_setting_is_changed_in_its_place_or_added() -> None:
    assert shares.setting("moe:experts=8,top_k=2", "experts", 3) == "moe:experts=3,top_k=2"
    assert shares.setting("move", "slots", 5) == "move:slots=5"


def test_the_true_share_stands_in_the_results() -> None:
    measured = cost.ModelCost(1, 1, 1.0, 1)
    arm = dataclasses.replace(ARMS["share-20"], sparse=(30, 70))
    entrant = entrants.Entrant(arm, measured, 1, None, 1)
    assert entrant.share == {"asked": 20, "true": 30.0, "memory": 30, "experts": 70}
    assert entrants.Entrant(ARMS["dense"], measured, 1, None, 1).share is None


def by_share(found: dict[str, Any], ends: dict[str, tuple[float, list[float]]]) -> dict[str, Any]:
    """``found`` with only dense and arms of the given true share and bits per byte."""
    row = found["rows"][0]
    rows = [row]
    for name, (_, values) in ends.items():
        mean = sum(values) / len(values)
        difference = Estimate(mean - row.bits_per_byte.mean, 0.01, len(values), tuple(values))
        rows.append(
            dataclasses.replace(
                row, arm=name, bits_per_byte=Estimate(mean, 0.01, len(values), tuple(values)), difference=difference
            )
        )
    arm = found["arms"]["dense"]
    shown = {name: {**arm, "share": {"true": true, "memory": 1, "experts": 1}} for name, (true, _) in ends.items()}
    return {**found, "rows": rows, "arms": {"dense": arm, **shown}}


U = {"a-0": (0.0, [1.5, 1.6, 1.7]), "a-20": (19.0, [1.3, 1.4, 1.5]), "a-100": (100.0, [1.4, 1.5, 1.6])}


def test_a_u_is_claimed_only_where_the_middle_is_below_both_ends(made_up: Any) -> None:
    assert asked.shape(by_share(made_up(), U), "factbook") == "The split is U-shaped: a-20 below both a-0 and a-100"
    level = {**U, "a-100": (100.0, [1.3, 1.41, 1.5])}
    said = asked.shape(by_share(made_up(), level), "factbook")
    assert said == "That the split is U-shaped is not shown, and a-100 is below a-0"


def test_no_u_is_claimed_from_missing_seeds_or_from_one(made_up: Any) -> None:
    fewer = {**U, "a-20": (19.0, [1.3, 1.4])}
    assert "not known" in str(asked.shape(by_share(made_up(), fewer), "factbook"))
    single = {name: (true, values[:1]) for name, (true, values) in U.items()}
    assert "not known" in str(asked.shape(by_share(made_up(), single), "factbook"))
    assert asked.shape(made_up(), "factbook") is None


def test_the_split_is_drawn_with_its_true_shares(made_up: Any) -> None:
    names = [drawing.name for drawing in asked.draw_all(by_share(made_up(), U), "factbook")]
    assert names == ["split-factbook"]
    assert asked.draw_all(made_up(), "factbook") == []
