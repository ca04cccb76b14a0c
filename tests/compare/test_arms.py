"""Arms are data, and matched on what they say they are matched on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import vademecum as vm
from vademecum import state
from vademecum.analysis import cost
from vademecum.compare import arms
from vademecum.compare.arms import ARMS, Arm
from vademecum.compare.plan import PRESETS

PLAN = PRESETS["smoke"]


def test_an_arm_is_parsed_from_its_kinds() -> None:
    arm = Arm.parse("move:slots=4+moe:experts=8,top_k=2")
    assert arm.kinds == ("move:slots=4", "moe:experts=8,top_k=2")
    assert arms.kinds_of(arm.kinds) == [vm.MoVE(slots=4), vm.MoE(experts=8, top_k=2)]


def test_an_arm_is_found_by_its_name() -> None:
    assert Arm.parse(" lave ") is ARMS["lave"]


@pytest.mark.parametrize("text", ["mvoe", "move:slots=0", "move:size=2", "move+", ""])
def test_what_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Arm.parse(text)


def test_every_named_arm_survives_json_and_parses() -> None:
    for arm in ARMS.values():
        assert Arm.from_dict(arm.to_dict()) == arm
        assert len(arms.kinds_of(arm.kinds)) == len(arm.kinds)


@pytest.mark.parametrize("name", ["lave", "move", "moe", "move+moe"])
def test_host_weights_are_equal_in_all_arms_of_a_seed(name: str) -> None:
    dense = state.host_state_dict(arms.build(ARMS["dense"], PLAN, seed=3))
    other = state.host_state_dict(arms.build(ARMS[name], PLAN, seed=3))
    assert dense.keys() == other.keys()
    assert all(torch.equal(dense[key], other[key]) for key in dense)


def test_a_wider_host_shares_every_weight_whose_shape_allows_it() -> None:
    dense = state.host_state_dict(arms.build(ARMS["dense"], PLAN, seed=3))
    wide = state.host_state_dict(arms.build(ARMS["dense-wide"], PLAN, seed=3, ffn_width=512))
    same = [key for key in dense if dense[key].shape == wide[key].shape]
    assert all(torch.equal(dense[key], wide[key]) for key in same)
    assert {key for key in dense if key not in same} == {key for key in dense if ".mlp." in key}


def test_seeds_differ_and_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    first = torch.rand(3)
    torch.manual_seed(1)
    a = arms.build(ARMS["move"], PLAN, seed=0)
    assert torch.equal(torch.rand(3), first)
    b = arms.build(ARMS["move"], PLAN, seed=1)
    assert not torch.equal(a.get_input_embeddings().weight, b.get_input_embeddings().weight)


@pytest.mark.parametrize("name", ["lave", "lave-half", "move", "moe", "move+moe", "lave+moe"])
def test_active_flops_are_within_a_few_percent_of_dense(name: str) -> None:
    plan = dataclasses.replace(PLAN, size=3)
    dense = cost.flops_per_token(arms.build(ARMS["dense"], plan, seed=0), length=32)
    assert cost.flops_per_token(arms.build(ARMS[name], plan, seed=0), length=32) == pytest.approx(dense, rel=0.04)


def test_dense_wide_has_the_total_parameters_of_the_memory_arm() -> None:
    width = arms.host_width(ARMS["dense-wide"], PLAN)
    assert width is not None
    wide = sum(p.numel() for p in arms.build(ARMS["dense-wide"], PLAN, seed=0, ffn_width=width).parameters())
    move = sum(p.numel() for p in arms.build(ARMS["move"], PLAN, seed=0).parameters())
    assert wide == pytest.approx(move, rel=0.03)
    assert arms.host_width(ARMS["move"], PLAN) is None


def test_a_host_with_experts_of_its_own_is_widened_from_what_a_tokens_experts_are_together() -> None:
    plan = dataclasses.replace(PLAN, host="deepseek_v3_moe")
    assert arms.dense_width(plan) == 192
    width = arms.host_width(ARMS["dense-wide"], plan)
    assert width is not None
    wide = sum(p.numel() for p in arms.build(ARMS["dense-wide"], plan, seed=0, ffn_width=width).parameters())
    move = sum(p.numel() for p in arms.build(ARMS["move"], plan, seed=0).parameters())
    assert wide == pytest.approx(move, rel=0.15), "one step of 32 is a quarter of a memory on experts this narrow"
