"""What a memory is worth to a trained model: the same model, evaluated with the memory silenced."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vademecum.surgery import knocked_out


def knockout(model: nn.Module, evaluate: Callable[[], float]) -> float:
    """``evaluate()`` while value memories add nothing; the host's own value passes unchanged, experts stay.

    It says how much the model came to lean on its memory, not what it would be without one: a model trained without a
    memory has learned to do without.
    """
    with knocked_out(model):
        return evaluate()
