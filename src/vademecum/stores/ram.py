"""Rows in main memory, out of sight of ``model.to()`` and of optimizers that step whole tables."""

from __future__ import annotations

import torch
from torch import Tensor

from vademecum.stores.base import Store


class Ram(Store):
    """A tensor on the CPU (pinned where a CUDA device is near, so that rows travel to it without another copy)."""

    place = "ram"

    def __init__(self, tensor: Tensor) -> None:
        """Take ``tensor`` ``[rows, *row_shape]`` as it is; nothing is copied."""
        self.tensor = tensor.detach()
        self.rows, self.row_shape, self.dtype = len(tensor), tuple(tensor.shape[1:]), tensor.dtype

    @classmethod
    def zeros(cls, rows: int, row_shape: tuple[int, ...], dtype: torch.dtype) -> Ram:
        """A table of zeros; untouched pages of it cost nothing yet."""
        return cls(torch.zeros(rows, *row_shape, dtype=dtype))

    def gather(self, ids: Tensor) -> Tensor:
        return self.tensor.index_select(0, ids)

    def write(self, ids: Tensor, values: Tensor) -> None:
        self.tensor.index_copy_(0, ids, values.to(self.dtype))
