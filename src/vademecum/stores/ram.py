"""Rows in one tensor: in main memory, out of sight of ``model.to()`` and of optimizers that step whole tables."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vademecum.stores.base import Store


class Ram(Store):
    """A tensor seen as rows; on a GPU only where a resident bank is seen through the same window."""

    def __init__(self, tensor: Tensor, place: str = "ram") -> None:
        """Take ``tensor`` ``[rows, *row_shape]`` as it is; nothing is copied."""
        self.tensor, self.place = tensor.detach(), place
        self.rows, self.row_shape, self.dtype = len(tensor), tuple(tensor.shape[1:]), tensor.dtype

    def gather(self, ids: Tensor) -> Tensor:
        return self.tensor.index_select(0, ids.to(self.tensor.device))

    def write(self, ids: Tensor, values: Tensor) -> None:
        self.tensor.index_copy_(0, ids.to(self.tensor.device), values.to(self.tensor.device, self.dtype))

    def chunks(self) -> Iterator[Tensor]:
        for piece in self.slices():
            yield self.tensor[piece].cpu()

    def fill(self, chunks: Iterator[Tensor]) -> None:
        start = 0
        for chunk in chunks:
            self.tensor[start : start + len(chunk)] = chunk
            start += len(chunk)
        if start != self.rows:
            raise ValueError(f"{start} rows were given for a table of {self.rows}.")
