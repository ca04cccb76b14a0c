"""Pure tensor functions, each a folder: ``naive.py`` is the specification, the other files are fast paths.

A fast path is chosen by what it supports; :func:`backend` forces the specification, for tests and for counting
operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

BACKENDS = ("fast", "naive")

_chosen: ContextVar[str] = ContextVar("vademecum_ops_backend", default="fast")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within the block, every op runs by ``name``: ``"fast"`` (default) or ``"naive"`` (the specification)."""
    if name not in BACKENDS:
        raise ValueError(f"unknown op backend {name!r}; write one of {', '.join(map(repr, BACKENDS))}.")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def specified() -> bool:
    """Whether the specification was asked for. Inside a compiled graph always False: the graph is the fast path."""
    return not torch.compiler.is_compiling() and _chosen.get() == "naive"
