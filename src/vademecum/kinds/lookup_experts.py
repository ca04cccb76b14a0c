"""Mixture of Lookup Experts: experts that eat the token's embedding, so that all they can say is a table.

Paper: MoLE, arXiv:2503.15798. In training N feed-forward networks read the embedding e of the token alone, and the
hidden state x only chooses between what they say:

    y = FFN(x) + sum_n s_n FFN_n(e),      s = softmax(W x)

All experts are active, so nothing has to be balanced, and what they learn is shared between tokens. Afterwards
``vm.tabulate(model)`` computes every FFN_n for every id of the vocabulary (``tabulated=True``): N rows of width d per
token, looked up from RAM or disk, with no expert left to compute. Embeddings are normalised to a mean square of 1
before they enter, which the paper's equation does not say: their own scale differs from host to host by far.
Parameters: N networks and d x N per layer; tabulated, rows x N x d. Use it where memory is plentiful at inference and
training should stay that of a small dense model.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from vademecum.experts.lookup import EmbeddingExperts, TabulatedExperts, TokenMixture
from vademecum.experts.mlp import Experts
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.gates import SoftmaxGates


@dataclass(frozen=True, kw_only=True)
class LookupExperts(Kind):
    """Mixture of Lookup Experts.

    Attributes:
        experts: N.
        width: an expert's hidden width; None takes four times the host's hidden width.
        replace: take the feed-forward's place instead of adding to it.
        out_std: standard deviation of the experts' last maps at the start; 0 leaves a host's logits untouched.
        router_std: standard deviation of the router's weights, in units of 1/sqrt(d).
        tabulated: experts are rows of a table; what :func:`vademecum.tabulate` makes of trained ones.
    """

    experts: int = 4
    width: int | None = None
    replace: bool = False
    out_std: float = 0.0
    router_std: float = 1.0
    tabulated: bool = False

    name: ClassVar[str] = "lookup_experts"
    title: ClassVar[str] = "Mixture of Lookup Experts"
    paper: ClassVar[str] = "arXiv:2503.15798"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "out_std", "router_std")
        require(self.experts >= 1, f"LookupExperts(experts={self.experts}) was given; expected 1 or more.")
        require(
            self.width is None or self.width >= 1,
            f"LookupExperts(width={self.width}) was given; expected 1 or more, or None for four times the host's.",
        )

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"} if self.replace else ())

    def as_table(self) -> Self | None:
        return None if self.tabulated else dataclasses.replace(self, tabulated=True)

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        return Built({layer: self._part(site, layer) for layer in layers})

    def _part(self, site: Site, layer: int) -> TokenMixture:
        device, hidden = site.device(layer), site.shape.hidden
        std = self.router_std / math.sqrt(hidden)
        router = SoftmaxGates(hidden, self.experts, std=std, dtype=site.dtype, device=device)
        if self.tabulated:
            bank = Bank(
                site.shape.vocabulary,
                self.experts,
                1,
                hidden,
                std=self.out_std,
                dtype=site.dtype,
                device=device,
                by_token=True,
            )
            return TabulatedExperts(router, bank, replaces=self.replace)
        experts = Experts(
            self.experts,
            hidden,
            self.width or 4 * hidden,
            gated=site.names.gated,
            biased=False,
            activation=site.activation(),
            std=site.init_std,
            dtype=site.dtype,
            device=device,
        )
        nn.init.normal_(experts.down, std=self.out_std) if self.out_std else nn.init.zeros_(experts.down)
        return EmbeddingExperts(router, experts, site.embedding, replaces=self.replace)

    @property
    def neutral(self) -> bool:
        return not (self.out_std or self.replace)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(experts=3, width=8),
            cls(experts=2, width=8, replace=True, out_std=0.02, layers=(-1,)),
            cls(experts=2, tabulated=True),
        )
