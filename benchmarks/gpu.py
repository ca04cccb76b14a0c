"""The benchmarks' questions on a CUDA device: first the ops against their specification, then training speed.

Self-contained and under eight minutes; prints one line and stops where there is no CUDA device.
"""

from __future__ import annotations

import torch
from common import file_result, interleaved, llama, ratio, training_step, zipf_ids

import vademecum as vm
from vademecum.lookup import Lookup
from vademecum.ops.mix import mix_slots


def check_ops(device: torch.device) -> dict[str, float]:
    """Largest difference of the fast mix from the specification, output and both gradients, per dtype."""
    worst = {}
    for dtype in (torch.float32, torch.bfloat16):
        results = []
        for name in vm.ops.BACKENDS:
            lookup = Lookup.of(zipf_ids(4096, 8192).view(4, 1024).to(device))
            generator = torch.Generator(device).manual_seed(0)
            gates = torch.rand(4096, 4, 6, generator=generator, device=device).to(dtype).requires_grad_()
            shape = (len(lookup.unique), 6, 4, 64)
            rows = torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()
            with vm.ops.backend(name):
                out = mix_slots(gates, rows, lookup)
            out.sum().backward()
            results.append((out, gates.grad, rows.grad))
        differences = [(a.float() - b.float()).abs().max().item() for a, b in zip(*results, strict=True)]
        limit = 1e-3 if dtype is torch.float32 else 5e-1
        if max(differences) > limit:
            raise SystemExit(f"the fast mix is wrong in {dtype}: differences {differences} exceed {limit}; not timed.")
        worst[str(dtype)] = max(differences)
    return worst


def main() -> None:
    """Check, measure and file."""
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, nothing measured.")
        return
    device = torch.device("cuda")
    checked = check_ops(device)
    arms = {
        "dense": vm.NoMemory(),
        "lave": vm.LaVE(),
        "move_4": vm.MoVE(slots=4),
        "move_8": vm.MoVE(slots=8),
        "moe_top1_of_8": vm.MoE(experts=8, top_k=1),
    }
    steps = {}
    for name, kind in arms.items():
        torch.manual_seed(0)
        model = vm.attach(llama(12, vocabulary=32768, length=1024).to(device), kind)
        ids = zipf_ids(16 * 1024, 32768).view(16, 1024).to(device)
        steps[name] = training_step(model, ids, vm.param_groups(model, lr=1e-3))
    taken = interleaved(steps, rounds=20, warm_up=3, wait=torch.cuda.synchronize)
    file_result(
        "gpu",
        {
            "largest_difference_from_specification": checked,
            "training_speed_over_dense": {name: ratio(taken, name, "dense") for name in arms},
            "peak_bytes": torch.cuda.max_memory_allocated(),
        },
    )


if __name__ == "__main__":
    main()
