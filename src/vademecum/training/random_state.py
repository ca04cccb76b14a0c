"""A run's own random numbers, so that runs which take turns in one process do not disturb each other."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RandomState:
    """States of Python's, NumPy's and torch's generators that belong to one run.

    They are put in place for the length of :meth:`active`, and the caller's are put back afterwards.
    """

    def __init__(self, seed: int) -> None:
        outside = capture()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self._state = capture()
        self._active = False
        restore(outside)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this run's generators inside the ``with`` block."""
        if self._active:
            yield
            return
        outside = capture()
        restore(self._state)
        self._active = True
        try:
            yield
        finally:
            self._state = capture()
            self._active = False
            restore(outside)

    def to_dict(self) -> dict[str, Any]:
        """The states as plain data for JSON, exact."""
        return capture() if self._active else self._state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the states that :meth:`to_dict` gave."""
        self._state = dict(state)
        if self._active:
            restore(self._state)


def capture() -> dict[str, Any]:
    """The process's generator states as plain data."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [name, _text(np.asarray(keys, dtype="<u4").tobytes()), int(position), int(has_gauss), float(cached)],
        "torch": _text(torch.get_rng_state().numpy().tobytes()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = [_text(one.numpy().tobytes()) for one in torch.cuda.get_rng_state_all()]
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Put generator states from :func:`capture` in place."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.frombuffer(_bytes(keys), dtype="<u4"), position, has_gauss, cached))
    torch.set_rng_state(_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_tensor(one) for one in state["cuda"]])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(_bytes(text)), dtype=torch.uint8)
