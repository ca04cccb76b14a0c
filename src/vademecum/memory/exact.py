"""Numbers that a module learned, kept as they are when its model is moved to another type."""

from __future__ import annotations

from typing import Any, Self

from torch import nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow the model to another device, and never to another type.

    ``model.to(torch.bfloat16)`` would round running statistics and counts, and a type that is put back afterwards
    does not bring the numbers back.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
