"""The benchmarks' questions on a CUDA device: first the ops against their specification, then training speed.

Self-contained and under eight minutes; prints one line and stops where there is no CUDA device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import file_result, interleaved, llama, ratio, training_step, zipf_ids
from torch import nn

import vademecum as vm
from vademecum.lookup import Lookup
from vademecum.ops.experts import BACKENDS, Networks
from vademecum.ops.mix import mix_slots, shared_rows

#: Shapes of the mix as (tokens, slots, heads, width of a head); ids as in text, over a vocabulary of 32,768.
MIXES = ((8192, 8, 4, 64), (65536, 8, 8, 128), (65536, 24, 4, 64), (65536, 8, 8, 64))


def mixing(device: torch.device, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Any, ...]:
    """Lookup, gates, rows and a gradient of the result."""
    tokens, slots, heads, width = shape
    lookup = Lookup.of(zipf_ids(tokens, 32768).view(8, -1).to(device))
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    gates, rows = drawn(tokens, heads, slots), drawn(len(lookup.unique), slots, heads, width)
    return lookup, gates.requires_grad_(), rows.requires_grad_(), drawn(tokens, heads, width)


def check_mix(device: torch.device) -> dict[str, float]:
    """Largest relative difference of the fast mix from the specification in fp64, output and both gradients."""
    worst = {}
    shapes = ((8192, 8, 4, 64), (4096, 5, 3, 48), (4096, 24, 1, 130), (2048, 1, 2, 8))
    for dtype in (torch.float32, torch.bfloat16):
        differences = []
        for shape in shapes:
            lookup, gates, rows, weight = mixing(device, shape, dtype)
            out = mix_slots(gates, shared_rows(rows, lookup), lookup)
            made = (out, *torch.autograd.grad(out, [gates, rows], weight))
            out = mix_slots(gates, shared_rows(rows, lookup), lookup)
            again = (out, *torch.autograd.grad(out, [gates, rows], weight))
            if not all(torch.equal(a, b) for a, b in zip(made, again, strict=True)):
                raise SystemExit(f"the fast mix differs from run to run at {shape} in {dtype}; not timed.")
            wide = [each.detach().double().requires_grad_() for each in (gates, rows)]
            with vm.ops.backend("naive"):
                out = mix_slots(*wide, lookup)
            exact = (out, *torch.autograd.grad(out, wide, weight.double()))
            differences += [((a - b).norm() / b.norm()).item() for a, b in zip(made, exact, strict=True)]
        limit = 1e-5 if dtype is torch.float32 else 1e-2
        if not max(differences) < limit:
            raise SystemExit(f"the fast mix is wrong in {dtype}: differences {differences} exceed {limit}; not timed.")
        worst[str(dtype)] = max(differences)
    return worst


def replayed(run: Callable[[], Any], *, rounds: int = 30) -> float:
    """Median milliseconds of ``run`` as a captured graph: what the device takes, without the gaps between launches."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that the device reads and writes while it copies 2 GiB."""
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * replayed(lambda: target.copy_(source)))


def time_mix(device: torch.device) -> dict[str, Any]:
    """Milliseconds of the mix, and which share of the bandwidth bound that is.

    The bound is the time to move every input and every output once at the bandwidth of a copy: for the forward the
    unique rows, the gates and the result; for the backward also the gradient of each, that of the rows in fp32, which
    is the buffer that all layers add to (so it is read as well).
    """
    from vademecum.ops.mix import triton

    bandwidth = copy_bandwidth(device)
    found: dict[str, Any] = {"copy_bytes_per_second": bandwidth}
    for shape in MIXES:
        for dtype in (torch.float32, torch.bfloat16):
            lookup, gates, rows, weight = mixing(device, shape, dtype)
            gates, rows, segments = gates.detach(), rows.detach(), lookup.segments
            into = torch.zeros(rows.shape, device=device)
            read = gates.nbytes + rows.nbytes
            moved = {"forward": read + weight.nbytes, "backward": 2 * gates.nbytes + rows.nbytes + weight.nbytes}
            moved["backward"] += 2 * into.nbytes
            steps: dict[str, Callable[[], Any]] = {
                "forward": partial(triton.forward, gates, rows, segments),
                "backward": partial(triton.backward, weight, gates, rows, segments, into),
            }
            taken = {name: replayed(step) for name, step in steps.items()}
            both = sum(moved.values()) / bandwidth / (1e-3 * sum(taken.values()))
            name = "N{}_M{}_H{}_D{}_".format(*shape) + str(dtype).removeprefix("torch.")
            found[name] = {
                "unique": len(lookup.unique),
                "milliseconds": taken,
                "share_of_bound": {n: moved[n] / bandwidth / (1e-3 * taken[n]) for n in taken} | {"both": both},
            }
            print(name, found[name], flush=True)
    return found


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


def check_places(device: torch.device) -> dict[str, bool]:
    """Whether a bank in RAM and on disk learns the bits of one on the device, beside a frozen host."""
    found = {}
    for place in ("device", "ram", "disk"):
        torch.manual_seed(0)
        model = vm.attach(llama(4).to(device).requires_grad_(False), vm.MoVE(slots=4), bank=place).train()
        rows, others = vm.RowOptimizer(model, lr=1e-3), torch.optim.AdamW(vm.param_groups(model, lr=1e-3))
        for step in range(4):
            ids = zipf_ids(1024, 4096, seed=step).view(4, 256).to(device)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            others.step()
            rows.step()
            others.zero_grad()
            rows.zero_grad()
        (bank,) = vm.memories(model).banks().values()
        found[place] = torch.cat([chunk.cpu() for chunk in bank.table().chunks()])
    return {place: torch.equal(table, found["device"]) for place, table in found.items()}


def main() -> None:
    """Check, measure and file."""
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, nothing measured.")
        return
    device = torch.device("cuda")
    checked, mixed = check_mix(device), time_mix(device)
    checked_experts, places = check_experts(device), check_places(device)
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
        steps[name] = training_step(model, ids, bf16=True)
    taken = interleaved(steps, rounds=20, warm_up=3, wait=torch.cuda.synchronize)
    file_result(
        "gpu",
        {
            "largest_difference_from_specification": checked,
            "experts_relative_difference_from_specification": checked_experts,
            "mix": mixed,
            "place_learns_the_bits_of_the_device": places,
            "experts_milliseconds": time_experts(device),
            "training_speed_over_dense": {name: ratio(taken, name, "dense") for name in arms},
            "peak_bytes": torch.cuda.max_memory_allocated(),
        },
    )


if __name__ == "__main__":
    main()
