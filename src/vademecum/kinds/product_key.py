"""Product-key memory: a large table of values that hidden states find by two small sets of keys.

    q_h = norm(W_h x + b_h);   I_h = the k best of  q_h1 . K_hi + q_h2 . K'_hj  over all n * n slots (i, j)
    y = sum_h sum_{s in I_h} softmax(scores)_s V_s;   with a gate  y = W2 (y * silu(W1 x))

Papers: Lample et al., arXiv:1907.05242, and Memory Layers at Scale (Memory+), arXiv:2412.09764, where layers share one
table and each has keys and queries of its own. Parameters: the table has slots x width, each layer H*D x d of queries
and H*sqrt(slots)*D of keys, and 2 x d x width of a gate. Both papers put it in the feed-forward's place; here it is
added unless asked, so that a pretrained host keeps what it has. Use it for what a token's context says, where its id
alone does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.layers import Layers
from vademecum.memory.pool import Pool
from vademecum.memory.product_keys import SCORES, ProductKeys, key_width, require_searchable
from vademecum.memory.query_norms import NORMS
from vademecum.memory.retrieval import OutputGate, RetrievedValues

#: The table's step against that of a table by token id (docs/log.md): many tokens share every row.
LR_SCALE = 0.1


@dataclass(frozen=True, kw_only=True)
class ProductKey(Kind):
    """Product-key memory at the feed-forward, one table for all its layers.

    Attributes:
        layers: the middle one where not given, which was best for one layer; three about the middle were best of all
            (arXiv:2412.09764).
        slots: rows of the table, a square; each half then has ``sqrt(slots)`` keys.
        heads: H, queries of a token.
        topk: k, slots that a head reads, at most ``sqrt(slots)``.
        key_dim: D, width of a head's query, even; None for half the hidden width.
        query_norm: ``"none"``, ``"rms"`` (queries by their root mean square, keys at unit length) or ``"batch"``, which
            uses more of the slots. Batch norm's statistics are those of the batch in training, so a token's query then
            depends on later tokens; at evaluation they are fixed, and everything is causal. Padding is left out.
        scores: ``"softmax"`` over a head's k scores, or ``"relu"`` or ``"sigmoid"`` of each, which do not compete.
        gate: whether what was read is gated by ``silu(W1 x)`` and projected by ``W2`` (Memory+).
        value_dim: width of a row; None for the hidden width, from which it may differ only behind a gate.
        replace: whether it takes the feed-forward's place; added to it where not.
        bank_std: standard deviation of the rows at the start, in units of 1/sqrt(width): 1 in both papers. 0 leaves a
            pretrained host's logits untouched; keys begin to learn once rows have moved.
    """

    layers: Layers = "middle"
    slots: int = 65536
    heads: int = 4
    topk: int = 32
    key_dim: int | None = None
    query_norm: str = "none"
    scores: str = "softmax"
    gate: bool = False
    value_dim: int | None = None
    replace: bool = False
    bank_std: float = 0.0

    name: ClassVar[str] = "product_key"
    title: ClassVar[str] = "Product-key memory"
    paper: ClassVar[str] = "arXiv:1907.05242, arXiv:2412.09764"
    addressed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std")
        require_searchable(self, "slots", self.heads, self.topk, self.key_dim)
        for name, allowed in (("query_norm", tuple(NORMS)), ("scores", tuple(SCORES))):
            require(
                getattr(self, name) in allowed,
                f"ProductKey({name}={getattr(self, name)!r}) was given; expected one of "
                f"{', '.join(map(repr, allowed))}.",
            )
        require(
            self.scores != "softmax" or self.topk > 1,
            "ProductKey(topk=1, scores='softmax') was given: a single weight is always 1, so neither keys nor queries "
            "would learn; write topk=2 or more, or scores='sigmoid'.",
        )
        require(
            self.value_dim is None or self.value_dim >= 1,
            f"ProductKey(value_dim={self.value_dim}) was given; expected 1 or more, or None for the hidden width.",
        )

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        hidden = site.shape.hidden
        width = self.value_dim or hidden
        require(
            self.gate or width == hidden,
            f"ProductKey(value_dim={width}, gate=False) was given on a host of hidden width {hidden}, to which rows "
            f"are added as they are; write value_dim={hidden}, or gate=True, which projects them.",
        )
        pool = Pool(
            self.slots,
            width,
            stds=(self.bank_std / math.sqrt(width),),
            reads=len(layers) * self.heads * self.topk,
            lr_scale=LR_SCALE / self.heads,  # a step of every row moves the sum over heads H times as far
            dtype=site.dtype,
            device=site.device(layers[0]),
        )

        def part(layer: int) -> RetrievedValues:
            device = site.device(layer)
            keys = ProductKeys(
                hidden,
                math.isqrt(self.slots),
                heads=self.heads,
                topk=self.topk,
                key_dim=key_width(self.key_dim, hidden),
                norm=self.query_norm,
                shared=False,
                dtype=site.dtype,
                device=device,
            )
            gate = OutputGate(hidden, width, site.dtype, device) if self.gate else None
            return RetrievedValues(keys, self.scores, width, gate, replace=self.replace)

        return Built({layer: part(layer) for layer in layers}, pool)

    @property
    def neutral(self) -> bool:
        return self.bank_std == 0 and not self.replace

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"}) if self.replace else frozenset()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(slots=256, heads=2, topk=3, key_dim=8, layers="all"),
            cls(slots=64, heads=1, topk=4, query_norm="rms", gate=True, value_dim=12, replace=True, bank_std=1.0),
            cls(slots=36, heads=3, topk=2, query_norm="batch", scores="sigmoid", layers="all"),
            cls(slots=49, heads=2, topk=7, scores="relu", bank_std=0.5),
        )
