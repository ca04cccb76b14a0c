"""What the mix holds and allocates: nothing of size tokens x slots x width, in either direction, on any path."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vademecum.lookup import Lookup
from vademecum.ops.mix import mix_slots, shared_rows

TOKENS, IDS, SLOTS, HEADS, DIM = 4096, 64, 8, 2, 32

#: Six layers over 16,384 tokens of 128 ids with 16 slots of 64: one gathered tensor would be 64 MiB.
PEAK = """
import json, sys
from pathlib import Path
import torch
from vademecum.lookup import Lookup
from vademecum.ops.mix import mix_slots, shared_rows

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

def step():
    lookup = Lookup.of(ids)
    shared = shared_rows(rows, lookup)
    torch.autograd.backward([mix_slots(gate, shared, lookup) for gate in gates], [weight] * 6)
    rows.grad = None
    for gate in gates:
        gate.grad = None

torch.set_num_threads(1)
ids = torch.arange(16384).remainder(128).view(8, 2048)
rows = torch.randn(128, 16, 1, 64, requires_grad=True)
gates = [torch.rand(16384, 1, 16, requires_grad=True) for _ in range(6)]
weight = torch.randn(16384, 1, 64)
step()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
step()
print(json.dumps({"extra": status("VmHWM") - before, "gathered": 16384 * 16 * 64 * 4}))
"""


def case() -> tuple[Lookup, torch.Tensor, torch.Tensor]:
    lookup = Lookup.of(torch.randint(0, IDS, (4, TOKENS // 4)))
    gates = torch.rand(TOKENS, HEADS, SLOTS, requires_grad=True)
    return lookup, gates, torch.randn(len(lookup.unique), SLOTS, HEADS, DIM, requires_grad=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_six_layers_forward_and_backward_stay_far_below_one_gathered_tensor() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["extra"] < found["gathered"]  # the results and gradients of six layers alone are half of it


def test_autograd_keeps_the_gates_the_rows_themselves_and_indices() -> None:
    lookup, gates, rows = case()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    shared = shared_rows(rows, lookup)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mix_slots(gates, shared, lookup)
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept}
    assert {gates.untyped_storage().data_ptr(), rows.untyped_storage().data_ptr()} <= storages
    assert all(tensor.numel() <= TOKENS + 1 for tensor in kept if not tensor.is_floating_point())
    assert len([tensor for tensor in kept if tensor.is_floating_point()]) == 2


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("whole", [False, True])
def test_no_operator_returns_more_than_the_rows_or_one_result(whole: bool) -> None:
    lookup, gates, rows = case()
    if whole:
        lookup = Lookup.of_table(lookup.ids)
    with Largest() as largest:
        mix_slots(gates, shared_rows(rows, lookup), lookup).sum().backward()
    assert largest.elements == max(TOKENS * HEADS * DIM, rows.numel())
    assert largest.elements < TOKENS * SLOTS * HEADS * DIM / 4
