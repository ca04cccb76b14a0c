"""Banks put where they were asked for, all of a model's at once, since they share the room there is."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from vademecum.memory.bank import TENSOR, Bank
from vademecum.stores.placement import Placement, size

_log = logging.getLogger(__name__)

#: What keeps a folder of files alive as long as the banks in it.
Scratch = tempfile.TemporaryDirectory[str]


def place(banks: Mapping[str, Bank], placement: Placement) -> tuple[Scratch, ...]:
    """Place ``banks`` (by the names their rows are saved by) and give their rows a start.

    Returns:
        The folder of their files, if ``placement`` names none; the files go with it.

    Raises:
        OSError: there is no room.
    """
    where = decide(banks, placement)
    own = where == "disk" and placement.folder is None
    scratch = tempfile.TemporaryDirectory(prefix="vademecum-bank-") if own else None
    folder = placement.folder or Path(scratch.name if scratch else "")
    for name, bank in banks.items():
        bank.place(where, file_of(name, folder), share(bank, banks, placement.cap))
    return () if scratch is None else (scratch,)


def decide(banks: Mapping[str, Bank], placement: Placement) -> str:
    """The one place of all ``banks``; they stay together."""
    device = next((bank.device for bank in banks.values()), torch.device("cpu"))
    return placement.decide(sum(bank.nbytes for bank in banks.values()), device)


def share(bank: Bank, banks: Mapping[str, Bank], cap: int) -> int:
    """A bank's part of the memory that all of them may keep rows in: by its size."""
    return cap * bank.nbytes // max(1, sum(other.nbytes for other in banks.values()))


def file_of(name: str, folder: Path) -> Path:
    """The file of the bank whose rows are saved by ``name``."""
    return folder / f"{name.removesuffix(f'.{TENSOR}')}.safetensors"


def tell(banks: Mapping[str, Bank]) -> None:
    """Log the real sizes."""
    for line in sizes(banks):
        _log.info(line)


def sizes(banks: Mapping[str, Bank]) -> list[str]:
    """A sentence on each bank: rows, bytes, where they are, and how many of them may be in memory."""
    lines = []
    for name, bank in banks.items():
        cap = getattr(bank.store, "cap", None)
        bound = "" if cap is None else f", at most {size(min(cap, bank.nbytes))} of it in memory"
        path = getattr(bank.store, "path", None)
        lines.append(
            f"{name}: {bank.rows:,} rows, {size(bank.nbytes)} on {bank.where}"
            f"{'' if path is None else f' ({path})'}{bound}"
        )
    return lines
