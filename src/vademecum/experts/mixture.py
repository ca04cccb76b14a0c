"""A mixture of experts at one layer: router, experts and balance in place of the feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.experts.balance import Balance, counts_of, mean_over, share_of, z_loss
from vademecum.experts.mlp import Experts
from vademecum.experts.router import Router, Routing
from vademecum.experts.routes import Routes
from vademecum.lookup import Frame
from vademecum.memory.base import Cost, FeedForwardPart, dense_cost


class ExpertMixture(FeedForwardPart):
    """``y = scale * sum_k w_k expert_k(x) + shared(x)``; an assignment that was dropped adds nothing."""

    exclusive = True
    can_be_silent = False

    def __init__(
        self,
        router: Router,
        experts: Experts,
        shared: Experts | None,
        balance: Balance,
        *,
        top_k: int,
        z_weight: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared, self.balance = router, experts, shared, balance
        self.top_k, self.z_weight, self.scale = top_k, z_weight, scale

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        routing = Routing(training=frame.training, mask=frame.mask, bias=frame.state.get(self.key))
        routes = self.router(flat, routing)
        if frame.training or frame.recording:
            self.watch(routes, frame)
        if torch.is_autocast_enabled(flat.device.type):
            flat = flat.to(torch.get_autocast_dtype(flat.device.type))
        out: Tensor = self.experts(flat, routes)
        if self.scale != 1.0:
            out = self.scale * out
        if self.shared is not None:
            out = out + self.shared(flat, everyone(flat))
        return out.view(*hidden.shape)

    def watch(self, routes: Routes, frame: Frame) -> None:
        """Write what balancing counts by, the z-loss and statistics into the frame."""
        # An overfull expert is overfull by what it was asked for, not by what it had room for.
        counts = counts_of(routes.asked, self.experts.experts, frame.mask)
        probability = mean_over(routes.probabilities, frame.mask)
        if frame.training:
            cut = {} if routes.cut is None else {"cut": routes.cut}
            frame.tallies[self.key] = {"counts": counts, "probability": probability, **cut}
            if self.z_weight:
                frame.losses[f"{self.key}.z"] = self.z_weight * z_loss(routes, frame.mask)
        if frame.recording:
            frame.report(
                self.key,
                per_token={"experts": routes.chosen, "weights": routes.weights},
                once={
                    "load": share_of(counts),
                    "entropy": mean_over(entropy_of(routes.probabilities), frame.mask),
                    "probability": probability,
                    "dropped": counts.new_zeros(()) if routes.dropped is None else routes.dropped,
                },
            )

    def begin(self) -> None:
        self.balance.begin(self.router.weight)

    def snapshot(self) -> Tensor | None:
        bias = self.balance.bias()
        return None if bias is None else bias.clone()

    def settle(self, frame: Frame) -> None:
        tally = frame.tallies.get(self.key)
        if tally is None:
            return  # the layer did not run: a host may leave layers out
        loss = self.balance.settle(tally["counts"], tally["probability"])
        if loss is not None:
            frame.losses[f"{self.key}.balance"] = loss
        if "cut" in tally:
            self.router.choice.learn(tally["cut"])

    def cost(self) -> Cost:
        whole = dense_cost(self.experts)
        one, size = self.experts.params_of_one(), whole.bytes_per_token // max(whole.params, 1)
        active = one * self.top_k
        matrices = (self.experts.up[0].numel() + self.experts.down[0].numel()) * self.top_k
        chosen = Cost(
            params=one * self.experts.experts,
            active_params=active,
            flops_per_token=2 * matrices,
            bytes_per_token=active * size,
        )
        if self.shared is not None:
            chosen += dense_cost(self.shared, flops=2 * (self.shared.up.numel() + self.shared.down.numel()))
        return chosen + self.router.cost()

    def extra_repr(self) -> str:
        return f"z_weight={self.z_weight:g}, scale={self.scale:g}"


def entropy_of(probabilities: Tensor) -> Tensor:
    """Entropy in nats of each row of ``[N, E]``: ``[N]``, from 0 (sure) to ln E (undecided)."""
    return -(probabilities * probabilities.clamp_min(1e-20).log()).sum(-1)


def everyone(flat: Tensor) -> Routes:
    """Routes that send every token ``[N, d]`` to the only expert, with weight 1."""
    tokens = flat.shape[0]
    ones = flat.new_ones(tokens, 1)
    return Routes(torch.zeros(tokens, 1, dtype=torch.long, device=flat.device), ones, ones, ones)
