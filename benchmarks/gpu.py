"""The benchmarks' questions on a CUDA device: first the ops against their specification, then training speed.

Self-contained and under eight minutes; prints one line and stops where there is no CUDA device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import file_result, interleaved, llama, ratio, training_step, zipf_ids
from torch import nn

import vademecum as vm
from vademecum.lookup import Lookup
from vademecum.ops.experts import BACKENDS, Networks
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


def check_experts(device: torch.device) -> dict[str, float]:
    """Largest difference of every expert backend from the specification, output and all gradients, in bf16."""
    experts, top_k, width, inner, tokens = 16, 4, 512, 256, 2048
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        weight = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        return (weight / shape[-2] ** 0.5).requires_grad_()

    networks = Networks(drawn(experts, width, 2 * inner), drawn(experts, inner, width), None, None, nn.SiLU(), True)
    hidden = torch.randn(tokens, width, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_()
    scores = torch.randn(tokens, experts, generator=generator, device=device).softmax(-1)
    weights, chosen = scores.topk(top_k)
    weights = weights.to(torch.bfloat16).requires_grad_()
    leaves, results = [hidden, weights, networks.up, networks.down], {}
    for name, run in BACKENDS.items():
        out = run(hidden, chosen, weights, networks)
        results[name] = (out, *torch.autograd.grad(out.float().square().mean() * tokens, leaves))
    worst = {
        name: max(
            ((a - b).float().norm() / b.float().norm()).item() for a, b in zip(made, results["naive"], strict=True)
        )
        for name, made in results.items()
        if name != "naive"
    }
    if max(worst.values()) > 3e-2:
        raise SystemExit(f"an expert backend is wrong in bf16: relative differences {worst} exceed 0.03; not timed.")
    return worst


def time_experts(device: torch.device) -> dict[str, dict[str, float]]:
    """Milliseconds of every backend, forward and backward in bf16, 16,384 tokens: what the choice on a GPU goes by."""
    found = {}
    for experts, top_k, width in ((8, 2, 1024), (64, 8, 1024), (64, 2, 1024)):
        torch.manual_seed(0)
        inner = 16 * round(8 * width / 3 / top_k / 16)
        up = torch.randn(experts, width, 2 * inner, device=device).mul_(0.02).to(torch.bfloat16).requires_grad_()
        down = torch.randn(experts, inner, width, device=device).mul_(0.02).to(torch.bfloat16).requires_grad_()
        networks = Networks(up, down, None, None, nn.SiLU(), True)
        hidden = torch.randn(16384, width, device=device, dtype=torch.bfloat16).requires_grad_()
        weights, chosen = torch.randn(16384, experts, device=device).softmax(-1).topk(top_k)
        weights = weights.to(torch.bfloat16).requires_grad_()

        def step(name: str, arguments: tuple[Any, ...] = (hidden, chosen, weights, networks)) -> Callable[[], None]:
            run = BACKENDS[name]
            return lambda: run(*arguments).sum().backward()

        steps = {name: step(name) for name in BACKENDS if name != "naive"}
        taken = interleaved(steps, rounds=10, wait=torch.cuda.synchronize)
        found[f"E{experts}_top{top_k}_d{width}"] = {n: 1e3 * statistics.median(t) for n, t in taken.items()}
    return found


def main() -> None:
    """Check, measure and file."""
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, nothing measured.")
        return
    device = torch.device("cuda")
    checked, checked_experts = check_ops(device), check_experts(device)
    arms = {
        "dense": vm.NoMemory(),
        "lave": vm.LaVE(),
        "move_4": vm.MoVE(slots=4),
        "move_8": vm.MoVE(slots=8),
        "moe_top1_of_8": vm.MoE(experts=8, top_k=1),
        "moe_top4_of_16": vm.MoE(experts=16, top_k=4),
        "move_4_moe_top4_of_16": (vm.MoVE(slots=4), vm.MoE(experts=16, top_k=4)),
    }
    steps = {}
    for name, kind in arms.items():
        torch.manual_seed(0)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        model = vm.attach(llama(12, vocabulary=32768, length=1024).to(device), *kinds)
        ids = zipf_ids(16 * 1024, 32768).view(16, 1024).to(device)
        steps[name] = training_step(model, ids, vm.param_groups(model, lr=1e-3))
    taken = interleaved(steps, rounds=20, warm_up=3, wait=torch.cuda.synchronize)
    file_result(
        "gpu",
        {
            "largest_difference_from_specification": checked,
            "experts_relative_difference_from_specification": checked_experts,
            "experts_milliseconds": time_experts(device),
            "training_speed_over_dense": {name: ratio(taken, name, "dense") for name in arms},
            "peak_bytes": torch.cuda.max_memory_allocated(),
        },
    )


if __name__ == "__main__":
    main()
