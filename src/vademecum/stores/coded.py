"""Rows in fewer bits, over a store of their bytes: read-only, and nothing that is read cares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vademecum import files
from vademecum.ops import codes as ops
from vademecum.ops.codes import Format
from vademecum.stores.base import Store
from vademecum.stores.disk import CAP, Disk
from vademecum.stores.ram import Ram

#: What the names of a coded bank's tensors end in, after the bank's own name.
CODES, INDEX = ".codes", ".index"
_REFUSAL = (
    "a bank in {form} can only be read: a step of training is smaller than what its values lie apart; train the bank "
    "that it was made from, and convert that again."
)
#: Where the index says that a row was pruned.
PRUNED = -1


class Coded(Store):
    """``rows`` rows of ``[M, W]`` values in a format of :mod:`vademecum.ops.codes`.

    Attributes:
        stored: the bytes of the rows that are kept, uint8 ``[stored, row_bytes]``, in memory or in a file.
        index: int32 ``[rows]``, for each row where it is stored, -1 for a pruned one, which reads as zeros; None
            where every row is stored in its own place.
        form: the format.
    """

    def __init__(
        self,
        stored: Store,
        form: Format,
        row_shape: tuple[int, int],
        index: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take ``stored`` as it is; ``dtype`` is of the values that :meth:`gather` gives.

        Raises:
            ValueError: the bytes are not of such rows, or the index names one that is not stored.
        """
        expected = form.row_bytes(*row_shape)
        if stored.dtype != torch.uint8 or stored.row_shape != (expected,):
            raise ValueError(
                f"rows of {stored.dtype} {list(stored.row_shape)} were given for {row_shape[0]} x {row_shape[1]} "
                f"values in {form.name}; expected uint8 [{expected}]."
            )
        if index is not None and index.numel() and not PRUNED <= int(index.min()) <= int(index.max()) < stored.rows:
            raise ValueError(f"the index names rows from {int(index.min())} to {int(index.max())} of {stored.rows}.")
        self.stored, self.form, self.index = stored, form, index
        self.rows = stored.rows if index is None else len(index)
        self.row_shape, self.dtype, self.place = row_shape, dtype, stored.place
        self.refusal = _REFUSAL.format(form=form.name)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + self._index_bytes

    @property
    def resident_bytes(self) -> int:
        return self.stored.resident_bytes + self._index_bytes

    @property
    def cap(self) -> int | None:
        """Bytes of codes that may be kept in memory, where they are in a file."""
        return getattr(self.stored, "cap", None)

    @property
    def writable(self) -> bool:
        """Never: see :meth:`write`."""
        return False

    def codes(self, ids: Tensor) -> Tensor:
        """The bytes of ``ids``, uint8 ``[U, row_bytes]``, for :func:`vademecum.ops.codes.mix_codes`."""
        if self.index is None:
            return self._stored(ids)
        places = self.index[ids.to(self.index.device)].long()
        wanted, inverse = torch.unique(places, return_inverse=True)
        pruned = int(bool(len(wanted)) and int(wanted[0]) == PRUNED)
        read = self._stored(wanted[pruned:])
        if pruned:
            # Bytes of zero are a row of zeros in every format.
            read = torch.cat([read.new_zeros(1, read.shape[1]), read])
        return read[inverse]

    def gather(self, ids: Tensor) -> Tensor:
        return self._decoded(self.codes(ids))

    def write(self, ids: Tensor, values: Tensor) -> None:
        raise ValueError(self.refusal)

    def require_room(self, count: int) -> None:
        self.stored.require_room(count)

    def prefetch(self, ids: Tensor) -> None:
        if self.index is not None:
            ids = self.index[ids.to(self.index.device)].long()
        places = torch.unique(ids)
        places = places[places != PRUNED] if self.index is not None else places
        if len(places):
            self.stored.prefetch(places)

    def chunks(self) -> Iterator[Tensor]:
        if self.index is not None:
            yield from super().chunks()
            return
        # Past any cache: everything is read once.
        for piece in self.stored.chunks():
            yield self._decoded(piece)

    def close(self) -> None:
        self.stored.close()

    def _stored(self, places: Tensor) -> Tensor:
        if not len(places):
            return torch.empty(0, *self.stored.row_shape, dtype=torch.uint8)
        return self.stored.gather(places)

    def _decoded(self, coded: Tensor) -> Tensor:
        return ops.decode(coded, self.form, *self.row_shape).to(self.dtype)

    @property
    def _index_bytes(self) -> int:
        return 0 if self.index is None else self.index.nbytes


def opened(
    path: Path,
    banks: Mapping[str, Mapping[str, Any]],
    *,
    on_disk: bool = True,
    cap: int = CAP,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Coded]:
    """The coded banks in a safetensors file, by the banks' names.

    Args:
        path: a file that :func:`vademecum.converting.convert` wrote.
        banks: what ``memory.json`` says of them: ``{name: {"format", "slots", "width", "rows"}}``.
        on_disk: read rows from the file as they are asked for; otherwise all their bytes are read now.
        cap: bytes of codes that may be kept in memory, of all banks together, shared out by their size.
        dtype: of the values that are read.

    Raises:
        files.Damaged: a tensor is missing or is not what ``banks`` says.
        ValueError: an unknown format.
    """
    found: dict[str, Coded] = {}
    total = sum(_nbytes(about) for about in banks.values())
    with safe_open(str(path), "pt") as file:
        names = set(file.keys())
        for name, about in banks.items():
            if name + CODES not in names:
                raise files.Damaged(f"{path} holds no tensor {name + CODES!r}, which memory.json lists.")
            index = file.get_tensor(name + INDEX) if name + INDEX in names else None
            stored: Store
            if on_disk:
                stored = Disk(path, name + CODES, cap=cap * _nbytes(about) // max(1, total))
            else:
                stored = Ram(file.get_tensor(name + CODES))
            shape = (int(about["slots"]), int(about["width"]))
            try:
                coded = Coded(stored, ops.find(str(about["format"])), shape, index, dtype)
            except ValueError as error:
                raise files.Damaged(f"{path} is not what memory.json says of {name!r}: {error}") from error
            if coded.rows != int(about["rows"]):
                raise files.Damaged(f"{path} has {coded.rows} rows of {name!r} where memory.json says {about['rows']}.")
            found[name] = coded
    return found


def _nbytes(about: Mapping[str, Any]) -> int:
    form = ops.find(str(about["format"]))
    return int(about["rows"]) * form.row_bytes(int(about["slots"]), int(about["width"]))
