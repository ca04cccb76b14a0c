"""Expert compute one expert at a time, forward and backward fused: what is made for one expert fits the cache.

Only the up projections' outputs are kept for the backward; tokens are gathered again and activations computed again.
An assignment's weight gets its gradient by ``<g, a W> = <g W', a>``, so that the experts' outputs need not be kept
either. Every expert's weight gradient is written once, in place. Nothing of size assignments x d ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vademecum.ops.experts.networks import Networks, Segments

Grads = list[Tensor | None]


def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """Same result as the specification; sums over a token's experts are taken in fp32 where the dtype is narrower."""
    segments = Segments.of(chosen, len(networks))
    done: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
        hidden, weights, *networks.tensors(), networks.act, networks.gated, segments
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
        out = torch.zeros(hidden.shape, dtype=_wide(hidden.dtype), device=hidden.device)
        ordered = weights.reshape(-1)[segments.order].to(out.dtype)
        inners = []
        for expert, token, weight in _each(segments, ordered):
            inner = hidden.index_select(0, token) @ up[expert]
            if up_bias is not None:
                inner += up_bias[expert]
            update = networks.middle(inner) @ down[expert]
            if down_bias is not None:
                update += down_bias[expert]
            _add_weighed_rows(out, token, update, weight)
            inners.append(inner)
        ctx.act, ctx.gated, ctx.segments = act, gated, segments
        ctx.save_for_backward(hidden, weights, up, down, up_bias, down_bias, ordered, *inners)
        return out.to(hidden.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weights, up, down, up_bias, down_bias, ordered, *inners = ctx.saved_tensors
        segments: Segments = ctx.segments
        networks = Networks(up, down, up_bias, down_bias, ctx.act, ctx.gated)
        grad_hidden = torch.zeros(hidden.shape, dtype=ordered.dtype, device=hidden.device)
        wanted = zip(networks.tensors(), ctx.needs_input_grad[2:6], strict=True)
        grads: Grads = [torch.empty_like(each) if each is not None and needed else None for each, needed in wanted]
        of_weights = []
        for (expert, token, weight), inner in zip(_each(segments, ordered), inners, strict=True):
            x, g = hidden.index_select(0, token), grad.index_select(0, token)
            of_x, of_weight = _backward_of_one(networks, expert, x, inner, g, weight, grads)
            _add_rows(grad_hidden, token, of_x)
            of_weights.append(of_weight)
        for expert, count in enumerate(segments.counts):
            for each in grads:
                if each is not None and not count:
                    each[expert].zero_()
        grad_weights = torch.zeros(weights.numel(), dtype=ordered.dtype, device=weights.device)
        if of_weights:
            grad_weights[segments.order] = torch.cat(of_weights)
        grad_weights = grad_weights.view_as(weights).to(weights.dtype)
        return grad_hidden.to(hidden.dtype), grad_weights, *grads, None, None, None


def _each(segments: Segments, ordered: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """``(expert, its tokens [n], their weights [n])`` of every expert that has any."""
    parts = zip(torch.split(segments.token, segments.counts), torch.split(ordered, segments.counts), strict=True)
    return ((expert, token, weight) for expert, (token, weight) in enumerate(parts) if len(token))


def _backward_of_one(
    networks: Networks, expert: int, x: Tensor, inner: Tensor, g: Tensor, weight: Tensor, grads: Grads
) -> tuple[Tensor, Tensor]:
    """Gradients of one expert's tokens ``[n, d]`` and of their weights ``[n]``; its parameters' are put into ``grads``.

    ``g`` ``[n, d]`` is the gradient of the output rows, before the weights.
    """
    up, down, up_bias, down_bias = grads
    a, middle_backward = networks.middle_with_backward(inner)
    of_a = g @ networks.down[expert].t()
    of_weight = torch.linalg.vecdot(of_a.to(weight.dtype), a.to(weight.dtype))
    if networks.down_bias is not None:
        of_weight += g.to(weight.dtype) @ networks.down_bias[expert].to(weight.dtype)
    scale = weight.to(g.dtype).unsqueeze(1)
    of_a, g = of_a * scale, g * scale
    if down_bias is not None:
        torch.sum(g, 0, out=down_bias[expert])
    if down is not None:
        torch.mm(a.t(), g, out=down[expert])
    of_inner = middle_backward(of_a)
    if up_bias is not None:
        torch.sum(of_inner, 0, out=up_bias[expert])
    if up is not None:
        torch.mm(x.t(), of_inner, out=up[expert])
    return of_inner @ networks.up[expert].t(), of_weight


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are taken in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _add_weighed_rows(out: Tensor, index: Tensor, rows: Tensor, weights: Tensor) -> None:
    """``out[index[i]] += weights[i] * rows[i]``; an expert's tokens are distinct, so the order never matters."""
    if out.device.type == "cpu":
        from vademecum.ops.experts import kernels

        kernels.add_weighed_rows(out.numpy(), index.numpy(), rows.to(out.dtype).numpy(), weights.numpy())
    else:
        out.index_add_(0, index, rows.to(out.dtype) * weights.unsqueeze(1))


def _add_rows(out: Tensor, index: Tensor, rows: Tensor) -> None:
    """``out[index[i]] += rows[i]``."""
    if out.device.type == "cpu":
        from vademecum.ops.experts import kernels

        kernels.add_rows(out.numpy(), index.numpy(), rows.to(out.dtype).numpy())
    else:
        out.index_add_(0, index, rows.to(out.dtype))
