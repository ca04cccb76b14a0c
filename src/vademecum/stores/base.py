"""A table of rows that is read and written by row numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

#: Bytes that whole tables are filled and copied by, so that a table of any size needs no more memory than this.
CHUNK = 16 * 2**20


class Store(ABC):
    """``rows`` rows of one shape and dtype, each read or written by its number.

    Attributes:
        rows: how many there are.
        row_shape: shape of one row, such as ``(slots, width)``.
        dtype: of the values that :meth:`gather` gives.
        place: where they live, in a word: ``"ram"``, ``"disk"``.
        refusal: why :meth:`write` refuses, and what to do; empty where it does not.
    """

    rows: int
    row_shape: tuple[int, ...]
    dtype: torch.dtype
    place: str
    refusal: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """``[rows, *row_shape]``."""
        return (self.rows, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as :meth:`gather` gives it."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows where they live."""
        return self.rows * self.row_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of main memory that it holds now."""
        return self.nbytes

    @abstractmethod
    def gather(self, ids: Tensor) -> Tensor:
        """Rows ``[U, *row_shape]`` of ``ids`` ``[U]``, distinct and ascending int64 on the CPU; a copy, on the CPU."""

    @abstractmethod
    def write(self, ids: Tensor, values: Tensor) -> None:
        """Put ``values`` ``[U, *row_shape]`` at the rows ``ids``, distinct and ascending.

        Raises:
            ValueError: it can only be read.
        """

    def require_room(self, count: int) -> None:
        """Raise ValueError where ``count`` rows are more than may be in memory at once."""
        return

    def prefetch(self, ids: Tensor) -> None:
        """Say that ``ids`` will be asked for soon; may read them in the background, changes no result."""
        return

    def slices(self) -> Iterator[slice]:
        """The rows in pieces of about :data:`CHUNK` bytes."""
        step = max(1, CHUNK // max(1, self.row_bytes))
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, in pieces of about :data:`CHUNK` bytes."""
        for piece in self.slices():
            yield self.gather(torch.arange(piece.start, piece.stop))

    def fill(self, chunks: Iterator[Tensor]) -> None:
        """Overwrite the rows in order with what ``chunks`` gives."""
        start = 0
        for chunk in chunks:
            self.write(torch.arange(start, start + len(chunk)), chunk)
            start += len(chunk)
        if start != self.rows:
            raise ValueError(f"{start} rows were given for a table of {self.rows}.")

    def close(self) -> None:
        """Let go of files and threads."""
        return

    def discard(self) -> None:
        """Let go of them, and of the rows."""
        self.close()
