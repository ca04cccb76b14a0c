"""One gradient for rows that many layers read.

Each layer's gradient of the rows is dense, ``[U, M, H, D]``; autograd would make one per layer and add them up.
Here all layers add into one buffer: :func:`share` stands between the rows and the layers, a layer's backward adds
to the buffer and hands no gradient on, and the backward of :func:`share`, which autograd runs after all of
them, returns it. A buffer belongs to one run of autograd: a second backward over a kept graph, or one that
asked for some gradients only, has its own and never sees another's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vademecum.lookup import Lookup
from vademecum.ops.mix import pages


class Sink:
    """The gradient buffers of one tensor of rows, by the run of autograd that fills them."""

    def __init__(self) -> None:
        self._buffers: dict[int, tuple[Tensor, Any]] = {}

    def buffer(self, rows: Tensor) -> Tensor | None:
        """The running backward's fp32 sum, zeros at first; None where it cannot be shared."""
        task = torch._C._current_graph_task_id()
        # Autograd orders streams by the gradients that it passes on; here none is passed.
        stream = torch.cuda.current_stream(rows.device) if rows.is_cuda else None
        if task not in self._buffers:
            self._buffers[task] = (zeros(rows), stream)
            torch.autograd.Variable._execution_engine.queue_callback(partial(self._forget, task))
        buffer, owner = self._buffers[task]
        return buffer if owner == stream else None

    def _forget(self, task: int) -> None:
        self._buffers.pop(task, None)

    def take(self) -> Tensor | None:
        """The running backward's sum, which is then forgotten; None if no layer added to it."""
        found = self._buffers.pop(torch._C._current_graph_task_id(), None)
        return None if found is None else found[0]


def share(rows: Tensor, lookup: Lookup) -> Tensor:
    """The same rows, whose gradient is the sum that layers reading them with ``lookup`` add up in one buffer."""
    sink = Sink()
    shared: Tensor = _Source.apply(rows, sink)  # type: ignore[no-untyped-call]
    lookup.shared.append((shared, sink))
    return shared


def sink_of(rows: Tensor, lookup: Lookup) -> Sink | None:
    """Where layers add their gradient of ``rows``, if :func:`share` made them."""
    return next((sink for shared, sink in lookup.shared if shared is rows), None)


def zeros(rows: Tensor) -> Tensor:
    """An fp32 buffer for the gradient of ``rows``."""
    if rows.device.type == "cpu":
        return pages.zeros(tuple(rows.shape), torch.float32)
    return torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)


class _Source(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sink: Sink) -> Tensor:
        ctx.sink, ctx.dtype = sink, rows.dtype
        ctx.set_materialize_grads(False)
        return rows.view_as(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        total = ctx.sink.take()
        if total is None:
            return grad, None
        if grad is not None:
            total += grad
        return total.to(ctx.dtype), None
