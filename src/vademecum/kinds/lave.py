"""Layer-wise value embeddings: a table of value vectors per layer, one gate per head. The baseline of MoVE.

Source: value embeddings of the speed-running lineage, in the gated form that MoVE (arXiv:2601.22887) compares with:
``v'[t,h] = v[t,h] + g[t,h] E_l[id_t, h]`` with ``g = 2 sigmoid(W_l x)``. Parameters: rows x H*D per layer, gates d x H.
On all L layers it stores as much as MoVE with L slots, but each layer reads only its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.kinds.move import gate_width
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Site, require_not_negative
from vademecum.memory.gates import Gates
from vademecum.memory.mix import OwnTable


@dataclass(frozen=True, kw_only=True)
class LaVE(Kind):
    """Layer-wise value embeddings.

    Attributes:
        gate_width: leading channels of the hidden state that the gates read; None reads all.
        bank_std: standard deviation of the tables at the start; 0 leaves a pretrained host's logits untouched.
        gate_std: standard deviation of the gates' weights, in units of 1/sqrt(gate width).
    """

    gate_width: int | None = None
    bank_std: float = 0.0
    gate_std: float = 0.0

    name: ClassVar[str] = "lave"
    title: ClassVar[str] = "Layer-wise value embeddings"
    paper: ClassVar[str] = "arXiv:2601.22887 (baseline)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std", "gate_std")

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        shape = site.shape
        width = gate_width(self.gate_width, shape.hidden, "LaVE")

        def part(layer: int) -> OwnTable:
            bank = Bank(
                shape.vocabulary,
                1,
                shape.value_heads,
                shape.value_dim,
                std=self.bank_std,
                by_token=True,
                values=True,
                dtype=site.dtype,
                device=site.device(layer),
            )
            gates = Gates(
                width,
                shape.value_heads,
                1,
                std=self.gate_std / math.sqrt(width),
                quiet=0,
                dtype=site.dtype,
                device=site.device(layer),
            )
            return OwnTable(bank, gates)

        return Built({layer: part(layer) for layer in layers})

    @property
    def neutral(self) -> bool:
        return self.bank_std == 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(layers=(0,), gate_width=4, bank_std=0.02, gate_std=1.0))
