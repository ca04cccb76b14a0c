"""How far a whole comparison is: one bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from tqdm import tqdm

from vademecum.training.progress import duration

INTERVAL = 15.0


class Progress(Protocol):
    """Told of every chunk: how many steps, and what is being trained."""

    def update(self, steps: int, what: str) -> None:
        """Take ``steps`` more steps of ``what``."""

    def skip(self, steps: int) -> None:
        """``steps`` were made before and take no time now."""

    def close(self) -> None:
        """Nothing more will come."""


class _Bar:
    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        self._bar = tqdm(total=total, initial=done, unit="step", file=stream, dynamic_ncols=True, smoothing=0.05)

    def update(self, steps: int, what: str) -> None:
        self._bar.set_description_str(what, refresh=False)
        self._bar.update(steps)

    def skip(self, steps: int) -> None:
        self._bar.initial += steps
        self._bar.n += steps
        self._bar.last_print_n += steps

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        self._total, self._done, self._first, self._stream = total, done, done, stream
        self._start = self._last = time.monotonic()

    def update(self, steps: int, what: str) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last < INTERVAL and self._done < self._total:
            return
        self._last = now
        left = (now - self._start) / max(1, self._done - self._first) * (self._total - self._done)
        print(f"{self._done}/{self._total} steps  {what}  {duration(left)} left", file=self._stream, flush=True)

    def skip(self, steps: int) -> None:
        self._done += steps
        self._first += steps

    def close(self) -> None:
        pass


def progress(total: int, done: int, stream: TextIO | None = None) -> Progress:
    """What suits the stream (standard error by default)."""
    stream = stream or sys.stderr
    return _Bar(total, done, stream) if stream.isatty() else _Lines(total, done, stream)
