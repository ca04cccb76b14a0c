"""Optimizer groups by role."""

from __future__ import annotations

import pytest

import vademecum as vm
from tests import tiny


def test_every_trainable_parameter_is_in_exactly_one_group_of_its_role() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(), vm.MoE(), vm.LaVE())
    groups = vm.param_groups(model, lr=1e-3, weight_decay=0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert {group["role"] for group in groups} == {"host", "router", "expert", "bank"}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert model.get_parameter(name) is parameter
            table = parameter is model.get_input_embeddings().weight
            decays = group["role"] in ("host", "expert") and parameter.dim() >= 2 and not table
            assert group["weight_decay"] == (0.1 if decays else 0.0), name


def test_a_frozen_host_has_no_group() -> None:
    model = tiny.host("qwen3")
    model.requires_grad_(False)
    vm.attach(model, vm.MoVE())
    assert {group["role"] for group in vm.param_groups(model, lr=1e-3)} == {"router", "bank"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        vm.param_groups(model, lr=1e-3)


def test_the_hosts_own_table_can_have_the_banks_ratio_unless_the_head_shares_it() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    table = model.get_input_embeddings().weight
    rates = {id(p): g["lr"] for g in vm.param_groups(model, lr=1.0, embedding_ratio=20.0) for p in g["params"]}
    assert rates[id(table)] == 20.0
    assert rates[id(model.lm_head.weight)] == 1.0
    tied = vm.attach(tiny.host("gpt2"), vm.MoVE())
    rates = {id(p): g["lr"] for g in vm.param_groups(tied, lr=1.0, embedding_ratio=20.0) for p in g["params"]}
    assert rates[id(tied.lm_head.weight)] == 1.0
