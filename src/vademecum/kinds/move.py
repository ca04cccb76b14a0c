"""Mixture of value embeddings: one bank of value vectors per token id, shared by all layers, softly mixed.

Paper: MoVE, arXiv:2601.22887. With ``g = 2 sigmoid(W_l x)`` of width H x (M+1) in layer l,

    v'[t,h] = g[t,h,0] v[t,h] + sum_m g[t,h,m] E[id_t, m, h]

over the key-value heads h (latent attention: over chunks of the compressed latent, equation 7). Parameters: the bank
has rows x M x H*D, each layer's gates d x H*(M+1). The cache keeps v', so decoding needs nothing new. Use it to
grow what a model knows without growing what it computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.gates import Gates
from vademecum.memory.mix import SharedMix


@dataclass(frozen=True, kw_only=True)
class MoVE(Kind):
    """Mixture of value embeddings.

    Attributes:
        slots: M, value vectors per token id.
        gate_width: leading channels of the hidden state that the gates read; None reads all.
        scale: factor on the memory's share of the mix.
        bank_std: standard deviation of the bank at the start; 0 leaves a pretrained host's logits untouched.
        gate_std: standard deviation of the slot gates' weights, in units of 1/sqrt(gate width). Slots with equal
            gates receive equal gradients for ever, so bank and gates must not both start at zero.
        gate_bias: fixed offset of the slot gates' logits; below 0 slots start more shut than open.
        selectivity: weight of an auxiliary loss per layer, the mean cosine between two gated rows at a token
            (:func:`vademecum.memory.mix.likeness`); 0 for none.
    """

    slots: int = 4
    gate_width: int | None = None
    scale: float = 1.0
    bank_std: float = 0.0
    gate_std: float = 1.0
    gate_bias: float = 0.0
    selectivity: float = 0.1

    name: ClassVar[str] = "move"
    title: ClassVar[str] = "Mixture of value embeddings"
    paper: ClassVar[str] = "arXiv:2601.22887"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std", "gate_std", "selectivity")
        require(
            math.isfinite(self.gate_bias),
            f"MoVE(gate_bias={self.gate_bias}) was given; expected a finite number, such as gate_bias=-1.",
        )
        require(self.slots >= 1, f"MoVE(slots={self.slots}) was given; expected 1 or more slots, such as slots=4.")
        require(
            self.slots == 1 or self.bank_std > 0 or self.gate_std > 0,
            f"MoVE(slots={self.slots}, bank_std=0, gate_std=0) would keep all slots identical for ever; "
            f"give bank_std or gate_std a positive value.",
        )

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        shape = site.shape
        width = gate_width(self.gate_width, shape.hidden, "MoVE")
        bank = Bank(
            shape.vocabulary,
            self.slots,
            shape.value_heads,
            shape.value_dim,
            std=self.bank_std,
            by_token=True,
            values=True,
            dtype=site.dtype,
            device=site.device(layers[0]),
        )

        def part(layer: int) -> SharedMix:
            gates = Gates(
                width,
                shape.value_heads,
                self.slots + 1,
                std=self.gate_std / math.sqrt(width),
                quiet=1,
                bias=self.gate_bias,
                dtype=site.dtype,
                device=site.device(layer),
            )
            weight = self.selectivity if self.slots > 1 else 0.0
            return SharedMix(gates, self.slots, shape.value_dim, self.scale, weight)

        return Built({layer: part(layer) for layer in layers}, bank)

    @property
    def neutral(self) -> bool:
        return self.bank_std == 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(slots=3),
            cls(slots=2, layers=(0, -1), gate_width=5, bank_std=0.02, scale=0.5),
            cls(slots=2, gate_bias=-1.0, selectivity=0.1),
        )


def gate_width(asked: int | None, hidden: int, kind: str) -> int:
    """Channels the gates read, checked against the host's hidden width."""
    width = hidden if asked is None else asked
    require(
        1 <= width <= hidden,
        f"{kind}(gate_width={asked}) was given, but the host's hidden state has {hidden} channels; "
        f"write a number from 1 to {hidden}, or None for all.",
    )
    return width
