"""One mixture-of-experts layer, forward and backward, against Transformers' own and against st-moe-pytorch.

``python benchmarks/moe_layer.py`` files the comparison; ``--rules`` prints which of our backends is fastest where,
which is what ``vademecum.ops.experts.choose`` goes by. Needs ``pip install 'vademecum[bench]'``.

Experts have 8/3 of the width over top-k, gated, so that the active compute of every shape is a dense feed-forward's.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence

import torch
from common import file_result, interleaved, ratio
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from vademecum.experts.balance import AuxiliaryLoss, counts_of, mean_over, z_loss
from vademecum.experts.choice import TokenChoice
from vademecum.experts.router import Router, Routing
from vademecum.ops.experts import BACKENDS, Networks, run_experts

TOKENS = 4096
CAPACITY = 1.25
SHAPES = [(experts, top_k, width) for width in (256, 512, 1024) for experts in (8, 64) for top_k in (2, 8)]


def hidden_width(width: int, top_k: int) -> int:
    """Width of one expert, a multiple of 16."""
    return 16 * round(8 * width / 3 / top_k / 16)


def networks_of(experts: int, width: int, inner: int) -> Networks:
    """Random experts."""
    up = nn.Parameter(0.02 * torch.randn(experts, width, 2 * inner))
    down = nn.Parameter(0.02 * torch.randn(experts, inner, width))
    return Networks(up, down, None, None, nn.SiLU(), True)


def transformers_experts(networks: Networks, top_k: int, implementation: str = "grouped_mm") -> MixtralExperts:
    """Transformers' experts with the same weights; grouped products are its default."""
    experts, width, _ = networks.up.shape
    config = MixtralConfig(
        hidden_size=width,
        intermediate_size=networks.down.shape[1],
        num_local_experts=experts,
        num_experts_per_tok=top_k,
    )
    config._experts_implementation = implementation
    module = MixtralExperts(config)
    with torch.no_grad():
        module.gate_up_proj.copy_(networks.up.transpose(1, 2))
        module.down_proj.copy_(networks.down.transpose(1, 2))
    return module


def both_ways(run: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: Tensor, params: Sequence[Tensor]) -> None:
    """Forward, and backward to tokens, weights and parameters."""
    x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
    run(x, weights).backward(x.detach())
    for parameter in params:
        parameter.grad = None


def routed(tokens: int, experts: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Weights and choices of a fresh router: uneven, as routers are."""
    weights, chosen = torch.randn(tokens, experts).softmax(-1).topk(top_k)
    return weights / weights.sum(-1, keepdim=True), chosen


def against_transformers(experts: int, top_k: int, width: int, *, rounds: int = 7) -> dict[str, float]:
    """Speed of ours over Transformers' default, which must give the same result."""
    torch.manual_seed(0)
    networks, x = networks_of(experts, width, hidden_width(width, top_k)), torch.randn(TOKENS, width)
    weights, chosen = routed(TOKENS, experts, top_k)
    theirs = transformers_experts(networks, top_k)
    with torch.no_grad():
        torch.testing.assert_close(run_experts(x, chosen, weights, networks), theirs(x, chosen, weights))
    ours_params, theirs_params = [networks.up, networks.down], list(theirs.parameters())
    steps = {
        "ours": lambda: both_ways(lambda x, w: run_experts(x, chosen, w, networks), x, weights, ours_params),
        "transformers": lambda: both_ways(lambda x, w: theirs(x, chosen, w), x, weights, theirs_params),
    }
    taken = interleaved(steps, rounds=rounds)
    return {**ratio(taken, "ours", "transformers"), "ours_ms": 1e3 * statistics.median(taken["ours"])}


def against_st_moe(experts: int, width: int, *, rounds: int = 7) -> dict[str, float]:
    """Speed of a whole layer of ours (router, both losses, capacity) over st-moe-pytorch's of the same widths."""
    from st_moe_pytorch import MoE

    torch.manual_seed(0)
    inner = hidden_width(width, 2)
    theirs = MoE(
        width,
        num_experts=experts,
        expert_hidden_mult=1.5 * inner / width + 1e-6,
        gating_top_n=2,
        threshold_train=0.0,
        capacity_factor_train=2 * CAPACITY,  # it counts tokens, ours counts assignments: the same room
    ).train()
    if theirs.experts.experts[0].net[-1].in_features != inner:
        raise SystemExit("st-moe-pytorch's experts are not as wide as ours; nothing is compared.")
    networks, choice = networks_of(experts, width, inner), TokenChoice(2, renormalise=True)
    router = Router(width, experts, choice, capacity=CAPACITY, dtype=torch.float32, device=torch.device("cpu"))
    balance = AuxiliaryLoss(0.01, None)

    def ours(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        routes = router(flat, Routing(training=True))
        loss = balance.settle(counts_of(routes.chosen, experts, None), mean_over(routes.probabilities, None))
        out = run_experts(flat, routes.chosen, routes.weights, networks)
        return out.sum() + loss + 0.001 * z_loss(routes, None)

    def st_moe(x: Tensor) -> Tensor:
        out = theirs(x)
        return out.outputs.sum() + out.total_aux_loss

    x = torch.randn(TOKENS // 512, 512, width)
    ours_params, theirs_params = [networks.up, networks.down, router.weight], list(theirs.parameters())
    steps = {"ours": lambda: whole(ours, x, ours_params), "st_moe": lambda: whole(st_moe, x, theirs_params)}
    return ratio(interleaved(steps, rounds=rounds), "ours", "st_moe")


def whole(run: Callable[[Tensor], Tensor], x: Tensor, params: Sequence[Tensor]) -> None:
    """Forward to a scalar and backward to everything."""
    run(x.detach().requires_grad_()).backward()
    for parameter in params:
        parameter.grad = None


def backends(experts: int, top_k: int, width: int, tokens: int, *, rounds: int = 9) -> dict[str, float]:
    """Each backend's median milliseconds."""
    networks, x = networks_of(experts, width, hidden_width(width, top_k)), torch.randn(tokens, width)
    weights, chosen = routed(tokens, experts, top_k)

    def step(name: str) -> Callable[[], None]:
        run = BACKENDS[name]
        return lambda: both_ways(lambda x, w: run(x, chosen, w, networks), x, weights, [networks.up, networks.down])

    taken = interleaved({name: step(name) for name in ("segments", "grouped", "padded")}, rounds=rounds)
    return {name: round(1e3 * statistics.median(times), 1) for name, times in taken.items()}


def rules() -> None:
    """Print which backend is fastest, by how many assignments an expert has."""
    for experts, top_k, width in ((8, 2, 256), (64, 8, 256), (64, 2, 256), (8, 2, 1024), (64, 8, 1024)):
        for tokens in (8, 64, 512, 1024, 2048, 4096):
            busy = tokens * top_k / experts
            print(f"E{experts} top{top_k} d{width}: {busy:.0f} per expert", backends(experts, top_k, width, tokens))


def measure() -> None:
    """Measure and file."""
    layer, st_moe = {}, {}
    for experts, top_k, width in SHAPES:
        name = f"E{experts}_top{top_k}_d{width}_f{hidden_width(width, top_k)}"
        layer[name] = against_transformers(experts, top_k, width)
        print(name, layer[name], flush=True)
    for experts, width in ((8, 256), (8, 512), (64, 256), (64, 512)):
        name = f"E{experts}_top2_d{width}_f{hidden_width(width, 2)}"
        st_moe[name] = against_st_moe(experts, width)
        print(name, st_moe[name], flush=True)
    medians = [each["median"] for each in layer.values()]
    file_result(
        "moe_layer",
        {
            "target": "over Transformers: at least 1 at every shape, 1.3 at the median; over st-moe-pytorch: 2",
            "tokens": TOKENS,
            "median_over_shapes": statistics.median(medians),
            "lowest_over_shapes": min(medians),
            "speed_over_transformers": layer,
            "speed_over_st_moe_pytorch": st_moe,
        },
    )


if __name__ == "__main__":
    rules() if "--rules" in sys.argv else measure()
