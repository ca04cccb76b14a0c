"""Safetensors files of any size: written and read row by row, so that a table need never be in memory whole.

The format (https://github.com/huggingface/safetensors): eight bytes that hold the header's length, a JSON header with
dtype, shape and place of every tensor, then their bytes without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vademecum import files
from vademecum.stores.base import CHUNK, Store

_LENGTH = 8
_LONGEST_HEADER = 100_000_000  # what readers of the format accept

#: Names of the dtypes in the header.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a file.

    Attributes:
        dtype: of its values.
        shape: its shape.
        offset: its first byte, counted from the start of the file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def entries(path: Path) -> dict[str, Entry]:
    """All tensors of a safetensors file by name; the file is not read further than its header.

    Raises:
        files.Damaged: the header cannot be read, or the file is shorter than it says.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start = _LENGTH + length
        found = {
            name: Entry(DTYPES[one["dtype"]], tuple(one["shape"]), start + one["data_offsets"][0])
            for name, one in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise files.Damaged(f"{path} is no safetensors file that can be read here ({error}).") from error
    end = max((entry.offset + entry.nbytes for entry in found.values()), default=start)
    if path.stat().st_size < end:
        raise files.Damaged(f"{path} has {path.stat().st_size} bytes where its header lists {end}.")
    return found


def find(path: Path, name: str) -> Entry:
    """Where the tensor ``name`` lies.

    Raises:
        KeyError: the file has no such tensor.
        files.Damaged: see :func:`entries`.
    """
    found = entries(path)
    if name not in found:
        raise KeyError(f"{path} holds no tensor {name!r}; it holds {', '.join(sorted(found)[:8])}.")
    return found[name]


def write(path: Path, tensors: Mapping[str, Tensor | Store]) -> None:
    """Write ``tensors`` into a safetensors file, each in pieces of about 16 MiB."""
    with open(path, "wb") as file:
        file.write(_header({name: Entry(one.dtype, tuple(one.shape), 0) for name, one in tensors.items()}))
        for name in _ordered(tensors):
            for chunk in _chunks(tensors[name]):
                file.write(_bytes(chunk))


def create(path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Make a file with one tensor of zeros; where the file system can, it takes no room until rows are written."""
    entry = Entry(dtype, shape, 0)
    with open(path, "wb") as file:
        header = _header({name: entry})
        file.write(header)
        file.truncate(len(header) + entry.nbytes)


def _ordered(tensors: Mapping[str, Any]) -> list[str]:
    """Widest dtypes first: then every tensor begins at a multiple of its own width."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _header(named: Mapping[str, Entry]) -> bytes:
    listed, at = {}, 0
    for name in _ordered(named):
        entry = named[name]
        listed[name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.nbytes],
        }
        at += entry.nbytes
    text = json.dumps(listed).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text


def _chunks(one: Tensor | Store) -> Iterator[Tensor]:
    if isinstance(one, Store):
        yield from one.chunks()
        return
    tensor = one.detach()
    if tensor.dim() == 0 or tensor.numel() == 0:
        yield tensor
        return
    rows = max(1, CHUNK // max(1, tensor[0].numel() * tensor.dtype.itemsize))
    yield from torch.split(tensor, rows)


def _bytes(chunk: Tensor) -> memoryview:
    array: Any = chunk.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
