"""A saved memory, as both files of tests convert it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vademecum as vm
from tests import tiny
from tests.converting.saved import BANK, SLOTS, UNREAD


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved memory with rows that were never read and two that are equal."""
    model = vm.attach(
        tiny.host("qwen3"), vm.MoVE(slots=SLOTS), vm.MoE(experts=2, balance="bias"), bank_dtype=request.param
    )
    tiny.shake(model)
    weight = vm.memories(model).banks()[BANK].weight
    with torch.no_grad():
        weight[list(UNREAD)] = 0.0
        weight[9] = weight[8]
    return vm.save(model, tmp_path / "memory")
