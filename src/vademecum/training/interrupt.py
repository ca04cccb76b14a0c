"""Ctrl-C and SIGTERM as a request: the step in work is finished and saved before the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved itself: the message says how to go on."""


@dataclass
class Request:
    """Whether a stop was asked for."""

    made: bool = False


@contextmanager
def stop_request() -> Iterator[Request]:
    """Turn the first Ctrl-C or SIGTERM inside the block into ``request.made``; a second one acts as usual.

    Only Python's main thread can receive signals; elsewhere the request is never made.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.made = True
        for caught, handler in before.items():
            signal.signal(caught, handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
