"""Bank of Values: attention's values are looked up by token id, and the value projection is gone.

Paper: arXiv:2606.02780. In the layers that have it, with a learned scalar gamma_l that starts at 1,

    v[t,h] = gamma_l E_l[id_t, h]

so a value says what the token is and not what was said before it; queries and keys still read the context. Aligned
tables start as the host's own values of bare embeddings, ``E_l[t] = W_V norm(embedding(t))``, which makes step 0 the
model whose values are ``x_0 W_V``. Parameters: rows x H*D per layer, less the value projection. The paper replaces the
last third of the layers, finds every layer, a shared table or a fixed gamma worse, and says so of two model sizes
without repeated seeds. Use it to spend less compute per token in late layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Need, Site, require, require_not_negative
from vademecum.memory.tables import Scale, TableValues


@dataclass(frozen=True, kw_only=True)
class BankOfValues(Kind):
    """Bank of Values.

    Attributes:
        aligned: start as the host's own values of bare embeddings.
        bank_std: standard deviation of the tables at the start, around that or around 0. None takes 0 where aligned,
            and the host's own starting scale where not.
    """

    aligned: bool = True
    bank_std: float | None = None

    name: ClassVar[str] = "bank_of_values"
    title: ClassVar[str] = "Bank of Values (values looked up, no value projection)"
    paper: ClassVar[str] = "arXiv:2606.02780"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std")
        require(
            self.aligned or self.bank_std != 0,
            "BankOfValues(aligned=False, bank_std=0) would start with values of zero, from which attention learns "
            "nothing; give bank_std a positive value, or write aligned=True.",
        )

    @property
    def takes(self) -> frozenset[str]:
        return frozenset({"value"})

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.VALUES})

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        require_values(site, "BankOfValues")
        shape = site.shape
        std = self.bank_std if self.bank_std is not None else 0.0 if self.aligned else site.init_std

        def part(layer: int) -> TableValues:
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
                start=site.own_values(layer) if self.aligned else None,
            )
            return TableValues(bank, Scale(None, dtype=site.dtype, device=device))

        return Built({layer: part(layer) for layer in layers})

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(aligned=False, layers=(-1,)), cls(bank_std=0.1))


def require_values(site: Site, kind: str) -> None:
    """Raise ValueError for a host whose value projection cannot be replaced alone."""
    require(
        not site.slice.refusal,
        f"{kind} takes the value projection's place, which cannot be had in this {site.shape.family} host: "
        f"{site.slice.refusal}; use vm.MoVE or vm.LaVE, which add to the latent.",
    )
