"""Expert compute piece by piece, forward and backward fused: what is made for a piece fits the cache.

A piece is up to 512 assignments of one expert. Only the up projections' outputs are kept for the backward; tokens are
gathered again and activations computed again, in buffers that every piece uses again. An assignment's weight gets its
gradient by ``<g, a W> = <g W', a>``, so that the experts' outputs need not be kept either. Nothing of size
assignments x d ever exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vademecum.ops.experts.middle import middle_of
from vademecum.ops.experts.networks import Networks, Segments

ROWS = 512
"""Assignments in a piece (measured: 256 and 1,024 are a little slower at most shapes)."""


def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """Same result as the specification; sums over a token's experts are taken in fp32 where the dtype is narrower."""
    segments = Segments.of(chosen, len(networks))
    done: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
        hidden.contiguous(), weights, *networks.tensors(), networks.act, networks.gated, segments
    )
    return done


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weights: Tensor,
        up: Tensor,
        down: Tensor,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        act: Any,
        gated: bool,
        segments: Segments,
    ) -> Tensor:
        networks = Networks(up, down, up_bias, down_bias, act, gated)
        rows = _rows(segments, hidden.dtype)
        out = _Sums(hidden, _wide(hidden.dtype), segments.token)
        ordered = weights.reshape(-1)[segments.order].to(out.rows.dtype)
        inner = hidden.new_empty(len(segments.token), up.shape[2])
        x, update = hidden.new_empty(rows, hidden.shape[1]), hidden.new_empty(rows, hidden.shape[1])
        middle = middle_of(networks, rows)
        for expert, piece, _ in segments.pieces(rows):
            size = piece.stop - piece.start
            x_here, inner_here, update_here = x[:size], inner[piece], update[:size]
            torch.index_select(hidden, 0, segments.token[piece], out=x_here)
            torch.mm(x_here, up[expert], out=inner_here)
            if up_bias is not None:
                inner_here += up_bias[expert]
            torch.mm(middle.forward(inner_here), down[expert], out=update_here)
            if down_bias is not None:
                update_here += down_bias[expert]
            out.add(piece, update_here, ordered)
        ctx.act, ctx.gated, ctx.segments = act, gated, segments
        ctx.save_for_backward(hidden, weights, up, down, up_bias, down_bias, ordered, inner)
        return out.rows.to(hidden.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weights, up, down, up_bias, down_bias, ordered, inner = ctx.saved_tensors
        segments: Segments = ctx.segments
        networks = Networks(up, down, up_bias, down_bias, ctx.act, ctx.gated)
        wanted = zip(networks.tensors(), ctx.needs_input_grad[2:6], strict=True)
        grads = [torch.empty_like(each) if each is not None and needed else None for each, needed in wanted]
        of_up, of_down, of_up_bias, of_down_bias = grads
        of_hidden, of_ordered = _Sums(hidden, ordered.dtype, segments.token), torch.empty_like(ordered)
        rows = _rows(segments, hidden.dtype)
        buffers = [hidden.new_empty(rows, width) for width in (*[hidden.shape[1]] * 3, down.shape[1])]
        middle = middle_of(networks, rows)
        for expert, piece, first in segments.pieces(rows):
            x, g, of_x, of_a = (buffer[: piece.stop - piece.start] for buffer in buffers)
            token, inner_here, weight = segments.token[piece], inner[piece], ordered[piece].unsqueeze(1)
            torch.index_select(hidden, 0, token, out=x)
            torch.index_select(grad, 0, token, out=g)
            a = middle.forward(inner_here)
            torch.mm(g, down[expert].t(), out=of_a)
            of_ordered[piece] = torch.linalg.vecdot(of_a.to(ordered.dtype), a.to(ordered.dtype))
            if down_bias is not None:
                of_ordered[piece] += g.to(ordered.dtype) @ down_bias[expert].to(ordered.dtype)
            # From here on the gradient is that of the weighed rows.
            of_a *= weight
            g *= weight
            _accumulate(of_down, expert, a, g, first)
            _accumulate_sum(of_down_bias, expert, g, first)
            of_inner = middle.backward(inner_here, of_a)
            _accumulate(of_up, expert, x, of_inner, first)
            _accumulate_sum(of_up_bias, expert, of_inner, first)
            torch.mm(of_inner, up[expert].t(), out=of_x)
            of_hidden.add(piece, of_x)
        for expert, count in enumerate(segments.counts):
            for each in grads:
                if each is not None and not count:
                    each[expert].zero_()
        of_weights = torch.zeros(weights.numel(), dtype=ordered.dtype, device=weights.device)
        of_weights[segments.order] = of_ordered
        of_weights = of_weights.view_as(weights).to(weights.dtype)
        return of_hidden.rows.to(hidden.dtype), of_weights, *grads, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are taken in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _rows(segments: Segments, dtype: torch.dtype) -> int:
    """Most rows of a piece; in a narrow dtype an expert is one piece, since its gradient is not summed over pieces."""
    busiest = max(segments.counts, default=0)
    return max(1, min(ROWS, busiest) if dtype == _wide(dtype) else busiest)


def _accumulate(grads: Tensor | None, expert: int, left: Tensor, right: Tensor, first: bool) -> None:
    """Put ``left' right`` into an expert's matrix, or add it to what its earlier pieces put there."""
    if grads is None:
        return
    if first:
        torch.mm(left.t(), right, out=grads[expert])
    else:
        grads[expert].addmm_(left.t(), right)


def _accumulate_sum(grads: Tensor | None, expert: int, rows: Tensor, first: bool) -> None:
    """The same for an expert's bias, whose gradient is the sum of the rows."""
    if grads is None:
        return
    if first:
        torch.sum(rows, 0, out=grads[expert])
    else:
        grads[expert] += rows.sum(0)


class _Sums:
    """``[N, d]`` rows that pieces are added into; an expert's tokens are distinct, so the order never matters."""

    def __init__(self, like: Tensor, dtype: torch.dtype, index: Tensor) -> None:
        self.rows = torch.zeros(like.shape, dtype=dtype, device=like.device)
        self.index = index
        self._arrays = (self.rows.numpy(), index.numpy()) if like.device.type == "cpu" else None

    def add(self, piece: slice, rows: Tensor, weights: Tensor | None = None) -> None:
        """``sums[index[piece]] += weights[piece] * rows``."""
        rows = rows.to(self.rows.dtype)
        if self._arrays is None:
            self.rows.index_add_(0, self.index[piece], rows if weights is None else rows * weights[piece].unsqueeze(1))
            return
        from vademecum.ops.experts import kernels

        sums, index = self._arrays
        if weights is None:
            kernels.add_rows(sums, index[piece], rows.numpy())
        else:
            kernels.add_weighed_rows(sums, index[piece], rows.numpy(), weights.numpy()[piece])
