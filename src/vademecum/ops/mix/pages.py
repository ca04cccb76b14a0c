"""Fresh memory for results and gradients on a CPU.

A large block comes from the system page by page, each page cleared when it is first touched, and in pages of
4 KiB that costs more than the loops that fill the block. NumPy asks the system for large pages where PyTorch does not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

#: Bytes from which NumPy asks for large pages.
LARGE = 2**22
#: Bytes of a cache line, at which PyTorch's own tensors begin.
LINE = 64


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor whose values are yet to be written."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty(shape, dtype=dtype)
    block = torch.from_numpy(np.empty(size + LINE, np.uint8))
    start = -block.data_ptr() % LINE
    return block[start : start + size].view(dtype).view(shape)


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor of zeros."""
    return empty(shape, dtype).zero_()
