"""Lattice memory: rows stand on the points of a lattice, and a projected hidden state reads those it falls among.

    q_h in R^8 from W_q x;   y_h = sum over the 32 points z nearest to q_h of  max(0, 1 - |q_h - z|^2 / 8)^4  V[slot(z)]
    update = W_o [y_1; ...; y_H]

The lattice is 2*E8, the densest packing in eight dimensions, on a torus of periods K_i: ``prod K_i / 256`` slots. There
are no keys, so finding rows costs the same for any size of table, and rows next to each other on the lattice are read
together: the table is a smooth function of where one looks.

Paper: Goucher and Troll, arXiv:2107.03474 (LRAM). Only its abstract and summaries of it could be read: the lattice, its
kernel and what they promise were checked by computation, while the query by angles, with batch norm before it (a
root-mean-square norm here, so that no answer depends on the batch), is as it was retold. There it takes the
feed-forward's place with one head for 16 of the host's channels and rows 64 wide, so that the output map sees four
times the hidden width. Here it is added unless asked.

Its layers share one table, as the Memory Layers paper found best for product keys (arXiv:2412.09764): each looks with
a query map and reads through an output map of its own. For a table per layer attach the kind once for each. Parameters:
slots x width of the table, and per layer ``8 H d`` (or ``16 H d`` by angles) and ``H width d``. Use it for what a
token's context says, where tables are to grow by thousands of times at the same cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.lattice import QUERIES, Heads, LatticeRetrieval
from vademecum.memory.layers import Layers
from vademecum.memory.pool import Pool
from vademecum.ops.lattice import NEAREST, near_sizes, periods_for

#: The table's step against that of a table by token id (docs/log.md): many tokens share every row.
LR_SCALE = 0.1
#: Channels of the host for which the paper has one head: eight complex numbers.
CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Lattice(Kind):
    """Lattice memory at the feed-forward, one table for all its layers.

    Attributes:
        layers: the middle one where not given.
        slots: rows of the table: ``prod K_i / 256`` for eight multiples K_i of 4, the longest at most twice the
            shortest, such as every power of two from 256 on.
        heads: H, places where a token looks; None takes one for every 16 of the host's channels.
        width: m, of a row.
        query: ``"rms"``, the projection itself, normalised over all heads, or ``"angle"``, the angles of eight complex
            numbers (twice the parameters), which are spread evenly however the projection is scaled.
        spread: with ``"rms"``, standard deviation of a place at the start, in periods. 0.5 spreads places over all of
            the torus (docs/decisions/0013); less keeps what is alike closer together, and uses fewer slots.
        replace: whether it takes the feed-forward's place; added to it where not.
        bank_std: standard deviation of the rows at the start, in units of 1/sqrt(width); the paper's is 1.
        out_std: standard deviation of the output map at the start, in units of 1/sqrt(H * width). None takes 1 where it
            replaces, and where it is added 0, which leaves a pretrained host's logits untouched: rows and queries begin
            to learn with the second step.
    """

    layers: Layers = "middle"
    slots: int = 65536
    heads: int | None = None
    width: int = 64
    query: str = "rms"
    spread: float = 0.5
    replace: bool = False
    bank_std: float = 1.0
    out_std: float | None = None

    name: ClassVar[str] = "lattice"
    title: ClassVar[str] = "Lattice memory (LRAM)"
    paper: ClassVar[str] = "arXiv:2107.03474"
    addressed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std", "out_std")
        if periods_for(self.slots) is None:
            near = " or ".join(map(str, near_sizes(self.slots)))
            raise ValueError(
                f"Lattice(slots={self.slots}) was given, but a torus has prod K_i / 256 lattice points for eight "
                f"periods K_i, multiples of 4 of which the longest is at most twice the shortest; the nearest: {near}."
            )
        require(
            self.heads is None or self.heads >= 1,
            f"Lattice(heads={self.heads}) was given; expected 1 or more, or None for one in {CHANNELS} channels.",
        )
        require(self.width >= 1, f"Lattice(width={self.width}) was given; expected 1 or more, such as width=64.")
        require(
            self.query in QUERIES,
            f"Lattice(query={self.query!r}) was given; expected one of {', '.join(map(repr, QUERIES))}.",
        )
        require(
            self.spread > 0,
            f"Lattice(spread={self.spread}) was given, with which all tokens would look at one place; expected a "
            f"number above 0, such as 0.5.",
        )
        require(
            self.bank_std > 0 or self._out_std > 0,
            f"Lattice(bank_std=0, out_std={self.out_std}) was given, but rows and output map that both start at zero "
            f"get no gradient, ever; give one of them a positive value.",
        )

    @property
    def _out_std(self) -> float:
        return float(self.replace) if self.out_std is None else self.out_std

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        heads, hidden, periods = self._heads(site.shape.hidden), site.shape.hidden, periods_for(self.slots)
        assert periods is not None, "checked when the config was made"
        pool = Pool(
            self.slots,
            self.width,
            stds=(self.bank_std / math.sqrt(self.width),),
            reads=len(layers) * heads * NEAREST,
            lr_scale=LR_SCALE,  # heads lie side by side, and a head's weights sum to 1 at most
            dtype=site.dtype,
            device=site.device(layers[0]),
        )

        def part(layer: int) -> LatticeRetrieval:
            device, std = site.device(layer), self._out_std / math.sqrt(heads * self.width)
            query = QUERIES[self.query](hidden, heads, periods, spread=self.spread, dtype=site.dtype, device=device)
            out = Heads(heads * self.width, hidden, std=std, dtype=site.dtype, device=device)
            return LatticeRetrieval(query, periods, self.width, out, replace=self.replace)

        return Built({layer: part(layer) for layer in layers}, pool)

    def _heads(self, hidden: int) -> int:
        if self.heads is not None:
            return self.heads
        near = [one for one in (hidden // CHANNELS, hidden // CHANNELS + 1) if one]
        require(
            hidden % CHANNELS == 0,
            f"Lattice(heads=None) takes one head for every {CHANNELS} of the host's channels, but this host's hidden "
            f"width {hidden} is no multiple of {CHANNELS}; write heads={' or heads='.join(map(str, near))}, or use a "
            f"host of width {' or '.join(str(CHANNELS * one) for one in near)}.",
        )
        return hidden // CHANNELS

    @property
    def neutral(self) -> bool:
        return not self.replace and (self._out_std == 0 or self.bank_std == 0)

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"}) if self.replace else frozenset()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(slots=512, width=6, layers="all"),
            cls(slots=256, heads=1, width=5, query="angle", replace=True),
            cls(slots=1024, heads=3, width=4, query="angle", out_std=0.5, layers="all"),
        )
