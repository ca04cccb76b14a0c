"""Parameter-efficient expert retrieval: a million experts of one neuron each, a few of which a token runs.

    f(x) = sum_h sum_{i in I_h} g_hi act(u_i . x) v_i,   I_h = the k best slots of head h by product keys

Paper: PEER, arXiv:2407.04153 (with k = 1 and weights of 1 it is a feed-forward of H
neurons assembled for the token). A row of the table is the pair (u_i, v_i): no bias, one neuron.
Parameters: the table has 2 x experts x d, each layer H*D x d of queries and 2*sqrt(experts)*D/2 of keys, which heads
share. The paper replaces the middle layer's feed-forward, with batch norm on queries; here it is added unless asked.
Use it where a mixture of experts is wanted with the finest grain there is.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn
from transformers.activations import ACT2FN

from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.layers import Layers
from vademecum.memory.pool import Pool
from vademecum.memory.product_keys import SCORES, ProductKeys, key_width, require_searchable
from vademecum.memory.query_norms import NORMS
from vademecum.memory.retrieval import RetrievedNeurons

#: Step of a table of neurons relative to other banks: u meets all channels of x at once, as a dense matrix does, so its
#: step is the host's own, and ``vademecum.roles`` gives banks 60 times that.
LR_SCALE = 1 / 60


@dataclass(frozen=True, kw_only=True)
class PEER(Kind):
    """Experts of one neuron, found by product keys; one table for all its layers.

    Attributes:
        layers: the middle one where not given, as in the paper.
        experts: rows of the table, a square; each half then has ``sqrt(experts)`` keys.
        heads: H, queries of a token.
        topk: k, experts that a head runs, at most ``sqrt(experts)``.
        key_dim: D, width of a head's query, even; None for half the hidden width.
        query_norm: ``"none"``, ``"rms"`` or ``"batch"`` (the paper's), as for :class:`vademecum.ProductKey`: with
            batch norm training is not strictly causal, evaluation is.
        scores: ``"softmax"`` over a head's k scores, or ``"sigmoid"`` or ``"relu"`` of each.
        shared_keys: whether heads share keys, as in the paper, or each has its own.
        activation: by its name in Transformers; None for the host's.
        replace: whether it takes the feed-forward's place; added to it where not.
        bank_std: standard deviation of the v at the start, in units of 1/sqrt(d); that of the u is 1 such unit. 0
            leaves a pretrained host's logits untouched.
    """

    layers: Layers = "middle"
    experts: int = 65536
    heads: int = 8
    topk: int = 16
    key_dim: int | None = None
    query_norm: str = "none"
    scores: str = "softmax"
    shared_keys: bool = True
    activation: str | None = None
    replace: bool = False
    bank_std: float = 0.0

    name: ClassVar[str] = "peer"
    title: ClassVar[str] = "Experts of one neuron, by product keys"
    paper: ClassVar[str] = "arXiv:2407.04153"
    addressed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std")
        require_searchable(self, "experts", self.heads, self.topk, self.key_dim)
        for name, allowed in (("query_norm", tuple(NORMS)), ("scores", tuple(SCORES))):
            require(
                getattr(self, name) in allowed,
                f"PEER({name}={getattr(self, name)!r}) was given; expected one of {', '.join(map(repr, allowed))}.",
            )
        require(
            self.scores != "softmax" or self.topk > 1,
            "PEER(topk=1, scores='softmax') was given: a single weight is always 1, so neither keys nor queries would "
            "learn; write topk=2 or more, or scores='sigmoid'.",
        )
        if self.activation is not None and self.activation not in ACT2FN:
            near = difflib.get_close_matches(self.activation, ACT2FN, n=1, cutoff=0)[0]
            raise ValueError(f"PEER(activation={self.activation!r}) was given; did you mean {near!r}?")

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        hidden = site.shape.hidden
        unit = 1 / math.sqrt(hidden)
        pool = Pool(
            self.experts,
            hidden,
            stds=(unit, self.bank_std * unit),
            reads=len(layers) * self.heads * self.topk,
            lr_scale=LR_SCALE,
            dtype=site.dtype,
            device=site.device(layers[0]),
        )

        def part(layer: int) -> RetrievedNeurons:
            keys = ProductKeys(
                hidden,
                math.isqrt(self.experts),
                heads=self.heads,
                topk=self.topk,
                key_dim=key_width(self.key_dim, hidden),
                norm=self.query_norm,
                shared=self.shared_keys,
                dtype=site.dtype,
                device=site.device(layer),
            )
            return RetrievedNeurons(keys, self.scores, hidden, self._act(site), replace=self.replace)

        return Built({layer: part(layer) for layer in layers}, pool)

    def _act(self, site: Site) -> nn.Module:
        name = self.activation or site.activation()
        act: nn.Module = ACT2FN[name]
        require(
            not any(True for _ in act.parameters()),
            f"PEER(activation={self.activation!r}) takes {name!r}{'' if self.activation else ' of the host'}, which "
            "has parameters of its own; write activation='silu' or 'gelu'.",
        )
        return act

    @property
    def neutral(self) -> bool:
        return self.bank_std == 0 and not self.replace

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"feed_forward"}) if self.replace else frozenset()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        # With an activation that is nowhere quite flat, so that every neuron that is run has a gradient.
        return (
            cls(experts=256, heads=2, topk=3, key_dim=8, activation="silu", layers="all"),
            cls(experts=64, heads=3, topk=2, query_norm="batch", shared_keys=False, replace=True, bank_std=1.0),
            cls(experts=36, heads=4, topk=1, query_norm="rms", scores="sigmoid", activation="gelu"),
        )
