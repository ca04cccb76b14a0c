"""Memory Attention: a value is the attention's own key plus a normalised row of the token; no value projection.

Paper: arXiv:2609.28399. With K the key before rotation and before any norm of its own,

    V[t,h] = K[t,h] + RMSNorm(E_l[id_t, h])

per key-value head, one table per layer. The norm's weight is learned; :func:`vademecum.tabulate` works norm and weight
into the rows (``folded=True``), which then are plainly added. Parameters: rows x H*D and D per layer, less the value
projection. The paper's gains are over a host of a third of its parameters, with one seed. Use it where the content of
a value may come from the key, and its compute is wanted elsewhere.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.kinds.bank_of_values import require_values
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Need, Site, require
from vademecum.memory.tables import KeyedValues, Scale


@dataclass(frozen=True, kw_only=True)
class MemoryAttention(Kind):
    """Memory Attention.

    Attributes:
        bank_std: standard deviation of the tables at the start, above 0; None takes the host's own starting scale.
            The norm makes of it how fast a row turns, not how much it says.
        folded: rows are added as they are, the norm having been worked into them.
    """

    bank_std: float | None = None
    folded: bool = False

    name: ClassVar[str] = "memory_attention"
    title: ClassVar[str] = "Memory Attention (value = key + row)"
    paper: ClassVar[str] = "arXiv:2609.28399"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.bank_std is None or self.bank_std > 0,
            f"MemoryAttention(bank_std={self.bank_std}) was given; expected a number above 0, since rows are "
            f"normalised and a row of zeros has no direction, or None.",
        )

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"value"})

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.VALUES})

    def as_table(self) -> Self | None:
        return None if self.folded else dataclasses.replace(self, folded=True)

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        require_values(site, "MemoryAttention")
        shape = site.shape
        std = site.init_std if self.bank_std is None else self.bank_std

        def part(layer: int) -> KeyedValues:
            device = site.device(layer)
            bank = Bank(
                shape.vocabulary,
                1,
                shape.value_heads,
                shape.value_dim,
                std=std,
                dtype=site.dtype,
                device=device,
                by_token=True,
                values=True,
            )
            scale = None if self.folded else Scale(shape.value_dim, dtype=site.dtype, device=device)
            return KeyedValues(bank, scale)

        return Built({layer: part(layer) for layer in layers})

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(layers=(-1,), bank_std=0.1), cls(folded=True))
