"""Ctrl-C that waits: what is half put on or half taken off is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def finished() -> Iterator[None]:
    """Within the block an interrupt (SIGINT) waits, and is raised when the block is left, however it is left.

    For short blocks that change a model in several steps: cut off in between they would leave something that is
    neither. Only Python's main thread is ever interrupted; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def wait(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        if before is not None:  # None was set by other code than Python's, and cannot be set by it
            signal.signal(signal.SIGINT, before)
            if came:
                signal.raise_signal(signal.SIGINT)
