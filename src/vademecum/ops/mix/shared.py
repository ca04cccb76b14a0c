"""One gradient for rows that many layers read.

Each layer's gradient of the rows is dense, ``[U, M, H, D]``; autograd would make one per layer and add them up.
Here all layers add into one buffer: :func:`shared_rows` stands between the rows and the layers, a layer's backward adds
to the buffer and hands no gradient on, and the backward of :func:`shared_rows`, which autograd runs after all of
them, returns it. A buffer belongs to one run of autograd: a second backward over a kept graph, or one that
asked for some gradients only, has its own and never sees another's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vademecum.ops.mix import pages

_ATTRIBUTE = "_vademecum_sink"


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
            engine = torch.autograd.Variable._execution_engine  # type: ignore[attr-defined]
            engine.queue_callback(lambda: self._buffers.pop(task, None))
        buffer, owner = self._buffers[task]
        return buffer if owner == stream else None

    def take(self) -> Tensor | None:
        """The running backward's sum, which is then forgotten; None if no layer added to it."""
        found = self._buffers.pop(torch._C._current_graph_task_id(), None)
        return None if found is None else found[0]


def shared_rows(rows: Tensor) -> Tensor:
    """The same rows, for layers to read with :func:`vademecum.ops.mix.mix_slots`; call it once per forward.

    Other uses of the result are differentiated as ever, and their gradient is added.
    """
    if not (rows.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return rows
    sink = Sink()
    shared: Tensor = _Source.apply(rows, sink)  # type: ignore[no-untyped-call]
    setattr(shared, _ATTRIBUTE, sink)
    return shared


def zeros(rows: Tensor) -> Tensor:
    """An fp32 buffer for the gradient of ``rows``."""
    if rows.device.type == "cpu":
        return pages.zeros(tuple(rows.shape), torch.float32)
    return torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)


def sink_of(rows: Tensor) -> Sink | None:
    """Where layers add their gradient of ``rows``, if :func:`shared_rows` made them."""
    return getattr(rows, _ATTRIBUTE, None)


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
