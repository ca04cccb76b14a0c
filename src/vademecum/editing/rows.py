"""Facts as differences over rows of a memory that the model has: at the tokens of their subjects."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vademecum.attached import ROOT, Memories
from vademecum.editing.content import Content, bytes_of
from vademecum.editing.facts import Fact
from vademecum.memory.bank import Bank
from vademecum.memory.rewrites import Rewrites


@dataclass(frozen=True, kw_only=True, eq=False)
class AsRows(Content):
    """Differences over rows of banks, which hold wherever the token stands.

    Attributes:
        banks: names of the banks, as in ``Memories.banks()``.
        were: by bank and token id, sixteen hexadecimal digits of the row over which a difference was learned.
        ids: int64 ``[E, K]`` tokens whose rows change for a fact, filled up with -1.
        differences: by bank, ``[E, K, *row_shape]``.
    """

    name: ClassVar[str] = "rows"
    spills: ClassVar[bool] = True

    banks: tuple[str, ...]
    were: Mapping[str, str]
    ids: Tensor
    differences: tuple[Tensor, ...]

    def tensors(self) -> dict[str, Tensor]:
        named = {f"differences.{place}": one for place, one in enumerate(self.differences)}
        return {"ids": self.ids, **named}

    def about(self) -> dict[str, Any]:
        return {"banks": list(self.banks), "were": dict(self.were)}

    @classmethod
    def of(cls, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        banks = tuple(about["banks"])
        differences = tuple(tensors[f"differences.{place}"] for place in range(len(banks)))
        return cls(banks=banks, were=about["were"], ids=tensors["ids"], differences=differences)

    def said(self, number: int) -> bytes:
        # What fills up is left out: it depends on the other facts.
        here = self.ids[number] >= 0
        parts = [self.ids[number][here], *(one[number][here] for one in self.differences)]
        return repr(self.banks).encode() + b"".join(map(bytes_of, parts))

    def joined(self, other: Self) -> Self:
        if self.banks != other.banks:
            raise ValueError(f"rows of {list(self.banks)} and of {list(other.banks)} do not go into one overlay.")
        moved = [key for key in self.were if other.were.get(key, self.were[key]) != self.were[key]]
        if moved:
            raise ValueError(f"the overlays were made for different rows ({moved[0]}); plan the facts together.")
        width = max(self.ids.shape[1], other.ids.shape[1])
        return dataclasses.replace(
            self,
            were={**self.were, **other.were},
            ids=torch.cat([_wide(self.ids, width, -1), _wide(other.ids, width, -1)]),
            differences=tuple(
                torch.cat([_wide(mine, width, 0), _wide(its, width, 0)])
                for mine, its in zip(self.differences, other.differences, strict=True)
            ),
        )

    def kept(self, numbers: Sequence[int]) -> Self:
        own = list(numbers)
        return dataclasses.replace(self, ids=self.ids[own], differences=tuple(one[own] for one in self.differences))

    def put(self, model: nn.Module, overlay: Any) -> None:
        """See :meth:`Content.put`; the rows must be the ones that the differences were learned over."""
        banks = banks_of(model)
        missing = [name for name in self.banks if name not in banks]
        if missing:
            raise ValueError(
                f"the overlay changes rows of {missing[0]}, and the model has {', '.join(banks) or 'no bank'}; load "
                f"the memory that it was made for."
            )
        order = list(overlay.order)
        ids = torch.unique(self.ids[order])
        ids = ids[ids >= 0]
        label = overlay.digest
        over = [Rewrites.on(banks[name]) for name in self.banks]
        for name, one in zip(self.banks, over, strict=True):
            if label in one.laid:
                raise ValueError("this edit is applied already; call undo() first.")
            self._require_same(name, ids, one.were(ids))
        try:
            for place, one in enumerate(over):
                one.put(label, ids, self.summed(place, order, ids), overlay)
        except BaseException:
            self.take(model, overlay)
            raise

    def take(self, model: nn.Module, overlay: Any) -> None:
        """See :meth:`Content.take`; the rows must be what was laid there."""
        banks, label = banks_of(model), overlay.digest
        over = [Rewrites.on(banks[name]) for name in self.banks if name in banks]
        for one in over:
            one.require_as_laid(label)
        for one in over:
            one.drop(label)

    def again(self) -> dict[str, Any]:
        return {"into": self.name}

    def summed(self, place: int, order: Sequence[int], ids: Tensor) -> Tensor:
        """``[len(ids), *row_shape]`` what the facts ``order`` lay over rows of one bank, added in that order."""
        own = self.differences[place]
        total = torch.zeros(len(ids), *own.shape[2:])
        for number in order:
            here = self.ids[number] >= 0
            total[torch.searchsorted(ids, self.ids[number][here])] += own[number][here].float()
        return total

    def _require_same(self, name: str, ids: Tensor, rows: Tensor) -> None:
        for number, row in zip(ids.tolist(), rows, strict=True):
            if self.were[key_of(name, number)] != digest_of(row):
                raise ValueError(
                    f"row {number} of {name} is not the one that the overlay was made for: the memory was trained or "
                    f"edited since, or has its rows in another number type (here {row.dtype}); load it as it was, or "
                    f"plan the facts anew."
                )


def banks_of(model: nn.Module) -> dict[str, Bank]:
    """The model's banks whose rows are values of tokens, by name.

    Tables that are read by other addresses, or at another site, hold nothing that a fact's token could be given.
    """
    root = getattr(model, ROOT, None)
    if not isinstance(root, Memories):
        return {}
    return {name: bank for name, bank in root.banks().items() if bank.by_token and bank.values}


def rewritten(model: nn.Module) -> dict[str, dict[int, list[Fact]]]:
    """By bank and row, in ascending order, the facts for which edits on ``model`` rewrote it; none where not known."""
    found: dict[str, dict[int, list[Fact]]] = {}
    for name, bank in banks_of(model).items():
        rows: dict[int, list[Fact]] = {}
        for ids, _, whose in () if bank.rewrites is None else bank.rewrites.laid.values():
            for number in ids.tolist():
                rows.setdefault(number, [])
            content = getattr(whose, "content", None)
            if isinstance(content, AsRows):
                for one in whose.order:
                    for number in content.ids[one][content.ids[one] >= 0].tolist():
                        if number in rows:
                            rows[number].append(whose.written[one].fact)
        if rows:
            found[name] = dict(sorted(rows.items()))
    return found


def key_of(bank: str, number: int) -> str:
    """A row's name."""
    return f"{bank}[{number}]"


def digest_of(row: Tensor) -> str:
    """Sixteen hexadecimal digits of a row's bits."""
    return hashlib.sha256(bytes_of(row)).hexdigest()[:16]


def _wide(tensor: Tensor, width: int, fill: int) -> Tensor:
    more = tensor.new_full((len(tensor), width - tensor.shape[1], *tensor.shape[2:]), fill)
    return torch.cat([tensor, more], 1)
