"""Banks of a saved memory in another format, written a piece at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vademecum import files
from vademecum.about import DESCRIPTION, TENSORS, About, Form
from vademecum.converting import places
from vademecum.converting.kept import Kept, Progress, kept, tell
from vademecum.ops import codes as ops
from vademecum.ops.codes import Format
from vademecum.stores import tables
from vademecum.stores.base import Store
from vademecum.stores.coded import CODES, INDEX, opened
from vademecum.stores.disk import Disk


@dataclass(frozen=True)
class Converted:
    """What became of one bank.

    Attributes:
        name: the bank's name.
        rows: of the bank.
        stored: rows that are kept.
        before: bytes of the rows as they were.
        after: bytes of what stands for them, the index included.
        mean_error: of the rows that are kept and not zero, the mean of ``|row - decoded| / |row|`` (Euclidean norms).
        worst_error: the largest of them.
        lost: rows that were not zero and were pruned.
    """

    name: str
    rows: int
    stored: int
    before: int
    after: int
    mean_error: float
    worst_error: float
    lost: int

    @property
    def ratio(self) -> float:
        """How many times smaller it is."""
        return self.before / max(1, self.after)


def convert(
    folder: str | Path,
    out: str | Path,
    *,
    bank: str,
    fold: bool = False,
    prune: bool = False,
    keep: Collection[int] | Tensor | None = None,
    progress: Progress | None = None,
) -> list[Converted]:
    """Write the memory in ``folder`` to ``out`` with its banks in another format, a piece at a time.

    Args:
        folder: what :func:`vademecum.save` wrote, or this function.
        out: a new or empty folder, or one of a memory, which is replaced.
        bank: ``"int8"``, ``"int4"``, ``"int3"``, ``"int2"``, ``"bf16"`` or ``"fp32"``. A compressed bank can be
            written as bf16 or fp32 again, but not compressed a second time.
        fold: store rows of equal bytes once. Changes nothing that is read.
        prune: drop rows, which then read as zeros: those that are zero (which changes nothing that is read), or with
            ``keep`` all others.
        keep: ids of the rows that stay where ``prune`` is asked for: those that a text reads. Banks that are not read
            by token id keep all rows but those that are zero.
        progress: told what is done, and of how many rows.

    Returns:
        What became of each bank.

    Raises:
        FileNotFoundError: there is no such folder.
        files.Damaged: a file is missing, truncated or changed.
        ValueError: the folder holds no memory or no bank, an unknown format, a compressed bank that would be compressed
            again, ids that the bank does not have, a row that is NaN or infinite, or an ``out`` that is ``folder``,
            holds it, or lies in it or in another folder that was written whole.
        FileExistsError: ``out`` holds something that is not a memory.
    """
    form, source, target = ops.find(bank), Path(folder), Path(out)
    if keep is not None and not prune:
        raise ValueError("ids of rows to keep were given without prune; ask for both, or for neither.")
    places.require_apart(source, target)
    places.require_replaceable(target)
    about = places.source(source)
    banks = _banks(source, about, form)
    done: list[Converted] = []

    def fill(aside: Path) -> None:
        # Once more: a folder whose replacement was cut short has been put back by now.
        places.require_replaceable(target)
        tensors: dict[str, Tensor | Store] = {
            name: Disk(source / TENSORS, name, cap=0) if entry.shape else _scalar(source, name)
            for name, entry in tables.entries(source / TENSORS).items()
            if not name.startswith(tuple(banks))
        }
        described: dict[str, Form] = {}
        written = []
        for name, table in banks.items():
            found = kept(name, table, fold, prune, None if name in about.tables else keep, progress)
            plain = form.dtype is not None and not fold and not prune
            encoded = _Encoded(name, table, form, found, plain, progress)
            written.append(encoded)
            if plain:
                tensors[name] = encoded
                continue
            tensors[name + CODES] = encoded
            if found.index is not None:
                tensors[name + INDEX] = torch.from_numpy(found.index)
            slots, width = table.row_shape
            described[name] = Form(form.name, slots, width, table.rows)
        tables.write(aside / TENSORS, tensors)
        (aside / DESCRIPTION).write_text(replace(about, banks=described).to_json(), encoding="utf-8")
        done.extend(each.report() for each in written)

    try:
        files.write_folder(target, fill)
    finally:
        for table in banks.values():
            table.close()
    return done


def _banks(source: Path, about: About, form: Format) -> dict[str, Store]:
    """The banks by name, compressed or not."""
    again = [name for name, each in about.banks.items() if ops.find(each.format).bits]
    if again and form.bits:
        raise ValueError(
            f"{again[0]} in {source} is in {about.banks[again[0]].format} already, and compressing it again would add "
            f"the errors of both; convert the folder that it was made from to {form.name}, or this one to bf16 or fp32."
        )
    # A bank has a row of slots for every id of the vocabulary, or as many rows as are said; nothing else in a memory is
    # of that shape.
    plain = [
        name
        for name, entry in tables.entries(source / TENSORS).items()
        if name.endswith(".weight") and len(entry.shape) == 3 and entry.shape[0] == about.rows_of(name)
    ]
    if not about.banks and not plain:
        kinds = ", ".join(str(kind["kind"]) for kind in about.kinds)
        raise ValueError(f"the memory in {source} ({kinds}) has no bank; give one with a table, such as move or lave.")
    coded = {name: each.to_dict() for name, each in about.banks.items()}
    return {
        **{name: Disk(source / TENSORS, name, cap=0) for name in plain},
        **opened(source / TENSORS, coded, cap=0),
    }


def _scalar(source: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(str(source / TENSORS), "pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


class _Encoded(Store):
    """What is written for one bank: read, encoded and compared a piece at a time, once."""

    place = "disk"

    def __init__(
        self, name: str, table: Store, form: Format, found: Kept, plain: bool, progress: Progress | None
    ) -> None:
        self._name, self._table, self._form, self._kept, self._progress = name, table, form, found, progress
        self.rows = len(found.rows)
        slots, width = table.row_shape
        self.row_shape: tuple[int, ...] = (slots, width) if plain else (form.row_bytes(slots, width),)
        self.dtype = form.dtype if plain and form.dtype is not None else torch.uint8
        self._sum, self._worst, self._counted = 0.0, 0.0, 0

    def gather(self, ids: Tensor) -> Tensor:
        raise NotImplementedError("rows that are being converted are read in order.")

    def write(self, ids: Tensor, values: Tensor) -> None:
        raise ValueError("rows that are being converted are only read.")

    def chunks(self) -> Iterator[Tensor]:
        start = 0
        for chunk in self._table.chunks():
            end = start + len(chunk)
            first, last = np.searchsorted(self._kept.rows, (start, end))
            rows = chunk[torch.from_numpy(self._kept.rows[first:last] - start)]
            if len(rows):
                yield self._written(rows, start)
            tell(self._progress, f"writing {self._name}", end)
            start = end

    def report(self) -> Converted:
        index = 0 if self._kept.index is None else self._kept.index.nbytes
        return Converted(
            name=self._name,
            rows=self._table.rows,
            stored=self.rows,
            before=self._table.nbytes,
            after=self.nbytes + index,
            mean_error=self._sum / max(1, self._counted),
            worst_error=self._worst,
            lost=self._kept.lost,
        )

    def _written(self, rows: Tensor, start: int) -> Tensor:
        try:
            coded = ops.encode(rows, self._form)
        except ValueError as error:
            raise ValueError(f"{self._name} cannot be converted (rows from {start} on): {error}") from error
        slots, width = self._table.row_shape
        back = ops.decode(coded, self._form, slots, width).flatten(1).double()
        exact = rows.flatten(1).double()
        size = exact.norm(dim=1)
        off = ((exact - back).norm(dim=1) / size)[size > 0]
        self._sum += float(off.sum())
        self._worst = max(self._worst, float(off.max()) if len(off) else 0.0)
        self._counted += len(off)
        return coded if self.dtype == torch.uint8 else coded.view(self.dtype).view(-1, *self.row_shape)
