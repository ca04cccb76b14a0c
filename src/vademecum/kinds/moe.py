"""Mixture of experts in place of a dense feed-forward: token choice, top-k, dropless.

Papers: Switch Transformer (arXiv:2101.03961) for one active expert, Mixtral (arXiv:2401.04088) for several,
DeepSeekMoE (arXiv:2401.06066) for narrow ones and a shared one, and arXiv:2408.15664 for balancing by a bias.

    y = scale * sum_{i in top-k} w_i expert_i(x) + shared(x)

``w`` sums to 1 over several active experts. The scale is the host's width over the active experts' width share, so
that k experts of 1/k of the width add up to what a dense feed-forward of the whole width would put out. Parameters:
E experts, a router d x E. Use it to grow what a model can compute without computing all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vademecum.experts.balance import BALANCES, Balance, load_of, z_loss
from vademecum.experts.mlp import Experts, biased, host_width, input_output
from vademecum.experts.router import Router, Routes
from vademecum.lookup import Frame
from vademecum.memory.base import Built, Cost, FeedForwardPart, Kind, Site, dense_cost, require, require_not_negative


class ExpertMixture(FeedForwardPart):
    """Router, experts and balance of one layer, in place of its feed-forward."""

    exclusive = True

    def __init__(
        self, router: Router, experts: Experts, shared: Experts | None, balance: Balance, z_weight: float, scale: float
    ) -> None:
        super().__init__()
        self.router, self.experts, self.balance = router, experts, balance
        self.shared = shared
        self.z_weight, self.scale = z_weight, scale

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        routes = self.router(flat, frame.state.get(self.key))
        if frame.training or frame.recording:
            self.watch(routes, frame)
        if torch.is_autocast_enabled(flat.device.type):
            flat = flat.to(torch.get_autocast_dtype(flat.device.type))
        out: Tensor = self.scale * self.experts(flat, routes)
        if self.shared is not None:
            out = out + self.shared(flat, everyone(flat))
        return out.view(*hidden.shape)

    def watch(self, routes: Routes, frame: Frame) -> None:
        """Write load, auxiliary losses and statistics into the frame."""
        load = load_of(routes, frame.mask)
        frame.loads[self.key] = load.detach()
        if frame.training:
            balance = self.balance.loss(routes, load, frame.mask)
            if balance is not None:
                frame.losses[f"{self.key}.balance"] = balance
            if self.z_weight:
                frame.losses[f"{self.key}.z"] = self.z_weight * z_loss(routes, frame.mask)
        if frame.recording:
            entropy = -(routes.scores * routes.scores.clamp_min(1e-20).log()).sum(-1).mean()
            frame.report(
                self.key,
                per_token={"experts": routes.chosen, "weights": routes.weights},
                once={"load": load, "entropy": entropy},
            )

    def snapshot(self) -> Tensor | None:
        bias = self.balance.bias()
        return None if bias is None else bias.clone()

    def settle(self, frame: Frame) -> None:
        self.balance.settle(self.key, frame)

    def cost(self) -> Cost:
        whole = dense_cost(self.experts)
        one, size = self.experts.params_of_one(), whole.bytes_per_token // max(whole.params, 1)
        active = one * self.router.top_k
        matrices = (self.experts.up[0].numel() + self.experts.down[0].numel()) * self.router.top_k
        chosen = Cost(
            params=whole.params, active_params=active, flops_per_token=2 * matrices, bytes_per_token=active * size
        )
        if self.shared is not None:
            chosen += dense_cost(self.shared, flops=2 * (self.shared.up.numel() + self.shared.down.numel()))
        return chosen + self.router.cost()

    def extra_repr(self) -> str:
        return f"z_weight={self.z_weight:g}, scale={self.scale:g}"


def everyone(flat: Tensor) -> Routes:
    """Routes that send every token ``[N, d]`` to the only expert, with weight 1."""
    tokens = flat.shape[0]
    ones = flat.new_ones(tokens, 1)
    return Routes(torch.zeros(tokens, 1, dtype=torch.long, device=flat.device), ones, ones, ones)


@dataclass(frozen=True, kw_only=True)
class MoE(Kind):
    """Mixture of experts.

    The experts have the form of the host's feed-forward, without any dropout it may have inside.

    Attributes:
        experts: E, how many there are.
        top_k: k, how many a token goes to.
        width: hidden width of one expert; None gives each 1/k of the host's, which keeps the active compute equal.
        balance: ``"aux"`` (auxiliary loss), ``"bias"`` (a bias on the choice, no loss), or None.
        balance_weight: weight of the auxiliary loss, or the bias's step; None takes 0.01 or 0.001.
        z_weight: weight of the router z-loss.
        shared_width: width of a further expert that every token goes to; 0 for none.
        init: ``"random"``, or ``"copy"``: every expert starts as the host's feed-forward (needs its full width).
    """

    experts: int = 8
    top_k: int = 2
    width: int | None = None
    balance: str | None = "aux"
    balance_weight: float | None = None
    z_weight: float = 0.001
    shared_width: int = 0
    init: str = "random"

    name: ClassVar[str] = "moe"
    title: ClassVar[str] = "Mixture of experts"
    paper: ClassVar[str] = "arXiv:2101.03961, arXiv:2401.04088"
    addressed: ClassVar[bool] = False
    replaces_feed_forward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.top_k <= self.experts,
            f"MoE(experts={self.experts}, top_k={self.top_k}) was given; expected top_k from 1 to the number of "
            f"experts, such as experts=8, top_k=2.",
        )
        require(
            self.balance in BALANCES,
            f"MoE(balance={self.balance!r}) was given; expected one of {', '.join(map(repr, BALANCES))}.",
        )
        require(
            self.init in ("random", "copy"),
            f"MoE(init={self.init!r}) was given; expected 'random' or 'copy'.",
        )
        require(
            self.init != "copy" or self.top_k > 1,
            "MoE(init='copy', top_k=1) was given, but a single active expert is weighed by its probability, which "
            "would shrink what the host's feed-forward puts out; write top_k=2 or more, or init='random'.",
        )
        require_not_negative(self, "z_weight", "balance_weight", "shared_width")
        require(
            self.width is None or self.width >= 1,
            f"MoE(width={self.width}) was given; expected 1 or more, or None for 1/top_k of the host's width.",
        )

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        return Built({layer: self._part(site, layer) for layer in layers})

    def _part(self, site: Site, layer: int) -> ExpertMixture:
        host = site.feed_forward(layer)
        try:
            whole = host_width(host, site.names)
            down = host.get_submodule(site.names.down)
        except AttributeError as error:
            raise ValueError(
                f"MoE takes the place of a dense feed-forward, but layer {layer} of this {site.shape.family} host has "
                f"a {type(host).__name__}, which is no such thing; leave that layer out with layers=[...]."
            ) from error
        width = self._width(whole)
        shape = {
            "gated": site.names.gated,
            "biased": biased(host, site.names),
            "activation": site.activation(),
            "std": site.init_std,
            "dtype": input_output(down).dtype,
            "device": input_output(down).device,
        }
        experts = Experts(self.experts, site.shape.hidden, width, **shape)  # type: ignore[arg-type]
        if self.init == "copy":
            experts.copy(host, site.names)
        shared = None
        if self.shared_width:
            shared = Experts(1, site.shape.hidden, self.shared_width, **shape)  # type: ignore[arg-type]
        router = Router(site.shape.hidden, self.experts, self.top_k, dtype=experts.up.dtype, device=experts.up.device)
        # A single active expert keeps its probability as weight (Switch); several sum to 1 and are scaled to the host.
        scale = whole / width if self.top_k > 1 else 1.0
        balance = BALANCES[self.balance](self.experts, self.balance_weight, experts.up.device)
        return ExpertMixture(router, experts, shared, balance, self.z_weight, scale)

    def _width(self, whole: int) -> int:
        if self.init == "copy":
            require(
                self.width in (None, whole),
                f"MoE(init='copy', width={self.width}) was given, but copies have the host's whole width {whole}; "
                f"leave width out.",
            )
            return whole
        return self.width or max(1, whole // self.top_k)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(experts=4, top_k=2),
            cls(experts=3, top_k=1, balance="bias", layers=(-1,)),
            cls(experts=2, top_k=2, init="copy", balance=None, z_weight=0.0, shared_width=8),
        )
