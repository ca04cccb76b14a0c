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
            decays = group["role"] in ("host", "expert") and parameter.dim() >= 2
            assert group["weight_decay"] == (0.1 if decays else 0.0), name


def test_a_frozen_host_has_no_group() -> None:
    model = tiny.host("qwen3")
    model.requires_grad_(False)
    vm.attach(model, vm.MoVE())
    assert {group["role"] for group in vm.param_groups(model, lr=1e-3)} == {"router", "bank"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        vm.param_groups(model, lr=1e-3)
