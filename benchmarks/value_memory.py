"""How fast does value memory train, and how much does its op gain over the specification?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import file_result, interleaved, ratio, training_speeds, zipf_ids

import vademecum as vm
from vademecum.lookup import Lookup
from vademecum.ops.mix import mix_slots

ARMS = {
    "dense": vm.NoMemory(),
    "lave": vm.LaVE(),
    "move_2": vm.MoVE(slots=2),
    "move_4": vm.MoVE(slots=4),
    "move_8": vm.MoVE(slots=8),
}


def op(name: str, slots: int) -> Callable[[], None]:
    """Forward and backward of the mix over six layers, 8,192 tokens, 4 heads of 64."""
    lookup = Lookup.of(zipf_ids(8192, 32768).view(8, 1024))
    rows = torch.randn(len(lookup.unique), slots, 4, 64, requires_grad=True)
    gates = [torch.rand(8192, 4, slots, requires_grad=True) for _ in range(6)]
    weight = torch.randn(8192, 4, 64)

    def run() -> None:
        with vm.ops.backend(name):
            for gate in gates:
                mix_slots(gate, rows, lookup).backward(weight)

    return run


def main() -> None:
    """Measure and file."""
    training = training_speeds(ARMS)
    ops = {}
    for slots in (2, 6, 12):
        taken = interleaved({name: op(name, slots) for name in ("fast", "naive")}, rounds=4, warm_up=1)
        ops[f"slots_{slots}"] = ratio(taken, "fast", "naive")
    file_result(
        "value_memory",
        {"target": "move at least 0.9 of dense", "training_speed_over_dense": training, "op_over_specification": ops},
    )


if __name__ == "__main__":
    main()
