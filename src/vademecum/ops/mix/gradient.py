"""The mix as autograd sees it, over whichever loops or kernels compute it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from vademecum.lookup import Lookup, Segments
from vademecum.ops.mix.shared import Sink, sink_of, zeros


class Path(Protocol):
    """A fast path: two functions over contiguous tensors; shapes and dtypes as in :mod:`vademecum.ops.mix.cpu`."""

    def forward(self, gates: Tensor, rows: Tensor, segments: Segments) -> Tensor: ...

    def backward(
        self, grad: Tensor, gates: Tensor, rows: Tensor, segments: Segments, into: Tensor | None
    ) -> Tensor: ...


def mix_slots(path: Path, gates: Tensor, rows: Tensor, lookup: Lookup) -> Tensor:
    """The mix by ``path``, differentiable in ``gates`` and ``rows``."""
    if torch.is_grad_enabled() and (gates.requires_grad or rows.requires_grad):
        sink = sink_of(rows, lookup)
        mixed: Tensor = _Mix.apply(gates, rows, path, lookup.segments, sink)  # type: ignore[no-untyped-call]
        return mixed
    return path.forward(gates.contiguous(), rows.contiguous(), lookup.segments)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, rows: Tensor, path: Path, segments: Segments, sink: Sink | None) -> Tensor:
        ctx.path, ctx.sink = path, sink
        gates, rows = gates.contiguous(), rows.contiguous()
        ctx.save_for_backward(gates, rows, *segments)
        return path.forward(gates, rows, segments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        gates, rows, *indices = ctx.saved_tensors
        into = own = None
        if ctx.needs_input_grad[1]:
            into = ctx.sink.buffer(rows) if ctx.sink is not None else None
            if into is None:
                into = own = zeros(rows)
        grad_gates = ctx.path.backward(grad.contiguous(), gates, rows, Segments(*indices), into)
        return grad_gates, None if own is None else own.to(rows.dtype), None, None, None
