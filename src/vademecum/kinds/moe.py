"""Mixture of experts in place of a dense feed-forward: all the routings of the field, one form of expert.

    y = scale * sum_{i in chosen} w_i expert_i(x) + shared(x)

Papers: Switch Transformer (arXiv:2101.03961), GShard (arXiv:2006.16668), Mixtral (arXiv:2401.04088), OLMoE
(arXiv:2409.02060), DeepSeek-V3 (arXiv:2412.19437) with balancing by a bias (arXiv:2408.15664), expert choice
(arXiv:2202.09368), upcycling (arXiv:2212.05055). Parameters: E experts, a router d x E. Use it to grow what a model
can compute without computing all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from vademecum.experts.balance import BALANCES, SCOPES
from vademecum.experts.choice import Choice, ExpertChoice, TokenChoice
from vademecum.experts.mixture import ExpertMixture
from vademecum.experts.mlp import Experts, biased
from vademecum.experts.router import SCORES, Router
from vademecum.hosts import host_width, input_output
from vademecum.memory.base import Built, Kind, Site, require, require_not_negative

STYLES: Mapping[str, Mapping[str, Any]] = {
    "switch": {"top_k": 1, "capacity": 1.25, "jitter": 0.01, "z_weight": 0.0},
    "gshard": {"top_k": 2, "second": "sampled", "capacity": 2.0, "z_weight": 0.0},
    "mixtral": {"experts": 8, "top_k": 2, "z_weight": 0.0},
    "olmoe": {"experts": 64, "top_k": 8, "renormalise": False},
    "deepseek": {"experts": 64, "top_k": 8, "scores": "sigmoid", "balance": "bias", "z_weight": 0.0},
}
"""Published routings by name: what each sets apart from the defaults. Sizes and a shared expert are the user's."""


@dataclass(frozen=True, kw_only=True)
class MoE(Kind):
    """Mixture of experts.

    The experts have the form of the host's feed-forward, without any dropout it may have inside. Dropping, chance and
    sight of other tokens happen in training alone; an answer never depends on what else is in the batch.

    Attributes:
        experts: E, how many there are.
        top_k: k, how many a token goes to (with ``choice="expert"``: on average).
        width: hidden width of one expert; None gives each 1/k of the host's, which keeps the active compute equal.
        scores: ``"softmax"`` over all experts, or ``"sigmoid"`` of each.
        renormalise: whether a token's weights are divided by their sum; None does so for k > 1. (A single weight
            divided by itself would be the constant 1, and the router would learn nothing from the task.)
        choice: ``"token"`` or ``"expert"``: who chooses.
        second: ``"always"``, or ``"sampled"``: in training the second expert is taken by chance, by its weight.
        capacity: room of an expert in training over its even share; more is dropped, and counted. None drops nothing.
        jitter: noise on the router's input in training, a share of it.
        balance: ``"aux"`` (auxiliary loss), ``"bias"`` (a bias on the choice, no loss), or None.
        balance_weight: weight of the auxiliary loss, or the bias's step; None takes 0.01 or 0.001.
        balance_scope: what the auxiliary loss counts over: ``"micro"`` (one forward) or ``"global"`` (an optimizer
            step of all processes).
        z_weight: weight of the router z-loss.
        shared_width: width of a further expert that every token goes to; 0 for none.
        scale: factor on the experts' sum; None takes the host's width over the experts' where weights sum to 1, so
            that k experts of 1/k of the width add up to what a dense feed-forward puts out, and 1 elsewhere.
        init: ``"random"``, or ``"copy"``: every expert starts as the host's feed-forward (upcycling; needs its full
            width). Outputs are then the dense host's, up to rounding, whatever the router says; in training too, as
            long as no capacity drops anything.
    """

    experts: int = 8
    top_k: int = 2
    width: int | None = None
    scores: str = "softmax"
    renormalise: bool | None = None
    choice: str = "token"
    second: str = "always"
    capacity: float | None = None
    jitter: float = 0.0
    balance: str | None = "aux"
    balance_weight: float | None = None
    balance_scope: str = "micro"
    z_weight: float = 0.001
    shared_width: int = 0
    scale: float | None = None
    init: str = "random"

    name: ClassVar[str] = "moe"
    title: ClassVar[str] = "Mixture of experts"
    paper: ClassVar[str] = "arXiv:2101.03961, arXiv:2401.04088, arXiv:2412.19437"
    addressed: ClassVar[bool] = False

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"})

    @classmethod
    def like(cls, style: str, **changes: Any) -> Self:
        """A published routing, ``"switch"``, ``"gshard"``, ``"mixtral"``, ``"olmoe"`` or ``"deepseek"``, changed."""
        if style not in STYLES:
            near = difflib.get_close_matches(style, STYLES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"MoE.like({style!r}) was given; expected one of {', '.join(STYLES)}{hint}")
        return super().of({**STYLES[style], **changes})

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        fields = dict(fields)
        style = fields.pop("like", None)
        return super().of(fields) if style is None else cls.like(str(style), **fields)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.top_k <= self.experts,
            f"MoE(experts={self.experts}, top_k={self.top_k}) was given; expected top_k from 1 to the number of "
            f"experts, such as experts=8, top_k=2.",
        )
        choices = (
            ("balance", tuple(BALANCES)),
            ("balance_scope", SCOPES),
            ("scores", tuple(SCORES)),
            ("choice", ("token", "expert")),
            ("second", ("always", "sampled")),
            ("init", ("random", "copy")),
        )
        for name, allowed in choices:
            require(
                getattr(self, name) in allowed,
                f"MoE({name}={getattr(self, name)!r}) was given; expected one of {', '.join(map(repr, allowed))}.",
            )
        require_not_negative(self, "z_weight", "balance_weight", "shared_width", "scale")
        require(
            self.width is None or self.width >= 1,
            f"MoE(width={self.width}) was given; expected 1 or more, or None for 1/top_k of the host's width.",
        )
        require(
            self.capacity is None or self.capacity > 0,
            f"MoE(capacity={self.capacity}) was given, with which every token would be dropped; expected a number "
            f"above 0 (1.0 to 2.0 is usual), or None to drop nothing.",
        )
        require(0 <= self.jitter < 1, f"MoE(jitter={self.jitter}) was given; expected 0 or more and below 1.")
        self._require_fitting_routing()

    def _require_fitting_routing(self) -> None:
        """Settings that are sound alone and not together."""
        require(
            not (self.renormalise and self.top_k == 1),
            "MoE(renormalise=True, top_k=1) was given: a single weight divided by itself is always 1, so the router "
            "would learn nothing from the task; write renormalise=False, or top_k=2 or more.",
        )
        require(
            self.second == "always" or (self.top_k == 2 and self.choice == "token"),
            f"MoE(second='sampled', top_k={self.top_k}, choice={self.choice!r}) was given; sampling is of the second "
            f"of two experts that a token chooses: write top_k=2, choice='token'.",
        )
        if self.choice == "expert":
            for name, plain in (("capacity", None), ("renormalise", None), ("balance_scope", "micro")):
                require(
                    getattr(self, name) == plain,
                    f"MoE(choice='expert', {name}={getattr(self, name)!r}) was given, but experts that choose take "
                    f"exactly their even share; leave {name} out.",
                )
            require(
                self.balance != "bias",
                "MoE(choice='expert', balance='bias') was given, but experts that choose are balanced by themselves; "
                "write balance=None.",
            )
        require(
            self.init != "copy" or (self._renormalised and self.scale in (None, 1) and self.second == "always"),
            f"MoE(init='copy', top_k={self.top_k}, renormalise={self.renormalise}, choice={self.choice!r}, "
            f"second={self.second!r}, scale={self.scale}) was given, but copies give the host's output only where a "
            f"token's weights sum to 1; "
            f"write top_k=2 or more with choice='token' and second='always', or init='random'.",
        )

    @property
    def _renormalised(self) -> bool:
        return self.choice == "token" and (self.top_k > 1 if self.renormalise is None else self.renormalise)

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        return Built({layer: self._part(site, layer) for layer in layers})

    def _part(self, site: Site, layer: int) -> ExpertMixture:
        host = site.feed_forward(layer)
        try:
            whole = host_width(host, site.names)
            down = input_output(host.get_submodule(site.names.down))
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
            "dtype": down.dtype,
            "device": down.device,
        }
        experts = Experts(self.experts, site.shape.hidden, width, **shape)  # type: ignore[arg-type]
        shared = None
        if self.shared_width:
            shared = Experts(1, site.shape.hidden, self.shared_width, **shape)  # type: ignore[arg-type]
        if self.init == "copy":
            experts.copy(host, site.names)
            if shared is not None:
                nn.init.zeros_(shared.down)  # beside copies a shared expert begins silent
        router = Router(
            site.shape.hidden,
            self.experts,
            self._choice(experts),
            scores=self.scores,
            capacity=self.capacity,
            jitter=self.jitter,
            dtype=down.dtype,
            device=down.device,
        )
        scale = self.scale
        if scale is None:
            scale = whole / width if self._renormalised else 1.0
        balance = BALANCES[self.balance](self.experts, self.balance_weight, self.balance_scope, down.device)
        return ExpertMixture(
            router, experts, shared, balance, top_k=self.top_k, z_weight=self.z_weight, scale=float(scale)
        )

    def _choice(self, experts: Experts) -> Choice:
        if self.choice == "expert":
            return ExpertChoice(self.top_k, self.experts, experts.up.device)
        return TokenChoice(self.top_k, renormalise=self._renormalised, sampled=self.second == "sampled")

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
            cls.like("deepseek", experts=6, top_k=3, shared_width=8),
            cls.like("olmoe", experts=6, top_k=3, balance_scope="global"),
            cls(experts=4, top_k=2, choice="expert", balance=None),
            cls.like("gshard", experts=4, capacity=3.0),
        )
