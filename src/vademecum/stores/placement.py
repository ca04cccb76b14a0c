"""Where a bank lives: asked for in a word, or decided by what fits."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from vademecum.stores.disk import CAP

PLACES = ("auto", "device", "ram", "disk")
#: Share of the free memory that a bank may take; the rest is for activations, gradients and other processes.
SHARE = 0.5
_GROUP = Path("/sys/fs/cgroup")
#: A container's limit and use of memory and what makes it up, where there is one; as two generations of Linux say it.
_LIMITS = (
    (_GROUP / "memory.max", _GROUP / "memory.current", _GROUP / "memory.stat"),
    (
        _GROUP / "memory/memory.limit_in_bytes",
        _GROUP / "memory/memory.usage_in_bytes",
        _GROUP / "memory/memory.stat",
    ),
)
_UNITS = ("", "k", "m", "g", "t")
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) *(?P<unit>[kmgt]?)(?P<binary>i?)b?")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What was asked for.

    Attributes:
        place: ``"device"`` (a parameter beside the host's), ``"ram"`` (main memory, whatever device the host is on),
            ``"disk"`` (a file) or ``"auto"`` (the first of these with room).
        folder: where files of a bank on disk go; None makes a folder that goes when the model does.
        cap: bytes of a bank on disk that may be kept in memory.
    """

    place: str = "auto"
    folder: Path | None = None
    cap: int = CAP

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            near = difflib.get_close_matches(str(self.place), PLACES, n=1, cutoff=0)[0]
            raise ValueError(f"bank={self.place!r} was given; did you mean {near!r}? Write one of {', '.join(PLACES)}.")
        if self.cap < 0:
            raise ValueError(f"bank_cap={self.cap} was given; expected a number of bytes, such as 2**30 or '1GB'.")

    @classmethod
    def of(cls, place: str, folder: str | Path | None, cap: int | str | None) -> Placement:
        """From what a caller writes; ``cap`` may be ``"512MB"``, None is the default."""
        size = CAP if cap is None else parse_size(cap)
        if folder is not None and (not isinstance(folder, str | Path) or not str(folder)):
            raise ValueError(f"bank_folder={folder!r} was given; expected the path of a folder, such as 'runs/bank'.")
        path = None if folder is None else Path(folder).expanduser()
        if path is not None and path.exists() and not path.is_dir():
            raise ValueError(f"bank_folder={str(folder)!r} is a file; give the path of a folder.")
        return cls(place=place, folder=path, cap=size)

    def decide(self, nbytes: int, device: torch.device) -> str:
        """The place, ``"auto"`` resolved for a bank of ``nbytes`` beside a host on ``device``."""
        if self.place != "auto":
            return self.place
        if nbytes <= SHARE * free_bytes(device):
            return "device"
        return "ram" if device.type != "cpu" and nbytes <= SHARE * free_bytes(torch.device("cpu")) else "disk"


def parse_size(text: int | float | str) -> int:
    """Bytes from a number, or from ``"4GB"``, ``"512 MB"`` (powers of ten) or ``"1GiB"`` (powers of two).

    Raises:
        ValueError: it is neither.
    """
    found = _SIZE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if found is not None:
        return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** _UNITS.index(found["unit"]))
    if isinstance(text, int | float) and not isinstance(text, bool) and abs(text) < math.inf:
        return int(text)
    raise ValueError(f"{text!r} was given for a size; expected bytes such as 1000000000 or 1GB.")


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device now; a container's own limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used, stat in _LIMITS:
        try:
            lines = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
            # Cached pages of files count as used, and are given back for the asking.
            cached = int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))
            room = int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii")) + cached
            return min(free, max(0, room))
        except (OSError, ValueError):
            continue
    return free


def size(nbytes: int) -> str:
    """Bytes in words: ``1.50 GB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes} B"
