"""Token-indexed feed-forward: a row per token id multiplies inside of the feed-forward, one table per layer.

``mode="replace"`` (STEM, arXiv:2601.10639): the up-projection of a gated feed-forward is gone, and

    y = W_down( act(W_gate x) * U_l[id] )

which costs fewer operations than the host had. ``mode="multiply"`` (DeepEmbed, of RWKV-8): everything stays, and what
goes into the down-projection is multiplied by the token's row; rows of ones leave it as it was, bit for bit:

    y = W_down( act(W_gate x) * (W_up x) * E_l[id] )      or      y = W_down( act(W_up x) * E_l[id] )

Parameters: rows x f per layer, f the feed-forward's width; replace takes d x f away. The paper does best with a third
to a half of the layers. Use replace to train from scratch with less compute, multiply to add to a trained host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from vademecum.hosts import host_width
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Need, Part, Site, require, require_not_negative
from vademecum.memory.tables import TableFactor, TableUp

MODES = ("replace", "multiply")


@dataclass(frozen=True, kw_only=True)
class TokenFFN(Kind):
    """Token-indexed feed-forward.

    Attributes:
        mode: ``"replace"``, a row in the place of the up-projection's output, or ``"multiply"``, a row times what goes
            into the down-projection.
        bank_std: standard deviation of the tables at the start, around 0 (replace) or 1 (multiply). None takes the
            scale that the up-projection puts out for a normalised input, and 0, which leaves a host as it was.
    """

    mode: str = "replace"
    bank_std: float | None = None

    name: ClassVar[str] = "token_ffn"
    title: ClassVar[str] = "Token-indexed feed-forward (STEM, DeepEmbed)"
    paper: ClassVar[str] = "arXiv:2601.10639"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std")
        require(
            self.mode in MODES,
            f"TokenFFN(mode={self.mode!r}) was given; expected one of {', '.join(map(repr, MODES))}.",
        )

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"})

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.DENSE, Need.GATED} if self.mode == "replace" else {Need.DENSE})

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        return Built({layer: self._part(site, layer) for layer in layers})

    def _part(self, site: Site, layer: int) -> Part:
        multiplies = self.mode == "multiply"
        module = site.dense(layer, "TokenFFN", does="multiplies inside of")
        require(
            multiplies or site.names.gated,
            f"TokenFFN(mode='replace') leaves a gate to multiply with, but the feed-forward of this "
            f"{site.shape.family} host has none, so nothing of it would read the hidden state; write mode='multiply'.",
        )
        std = self.bank_std
        if std is None:
            std = 0.0 if multiplies else site.init_std * math.sqrt(site.shape.hidden)
        width = host_width(module, site.names)
        bank = Bank(
            site.shape.vocabulary,
            1,
            1,
            width,
            std=std,
            dtype=site.dtype,
            device=site.device(layer),
            by_token=True,
            start=(lambda ids: torch.ones(len(ids), 1, width)) if multiplies else None,
        )
        return TableFactor(bank) if multiplies else TableUp(bank)

    @property
    def neutral(self) -> bool:
        return self.mode == "multiply" and not self.bank_std

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(mode="multiply"), cls(layers=(-1,), mode="multiply", bank_std=0.1))
