"""Expert compute: each token through its chosen experts, weighed and added."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vademecum.ops import specified
from vademecum.ops.experts import grouped, naive, padded, segments
from vademecum.ops.experts.networks import Networks

__all__ = ["BACKENDS", "Networks", "choose", "run_experts"]

Backend = Callable[[Tensor, Tensor, Tensor, Networks], Tensor]

BACKENDS: Mapping[str, Backend] = {
    "naive": naive.run_experts,
    "segments": segments.run_experts,
    "grouped": grouped.run_experts,
    "padded": padded.run_experts,
}
"""The ways there are; ``naive`` is the specification."""


MANY = 128
"""Assignments per expert from which one expert at a time is faster than grouped products, on a CPU (measured)."""


def choose(hidden: Tensor, chosen: Tensor, networks: Networks) -> str:
    """The name of the fastest backend for these shapes, by the rules measured in ``benchmarks/moe_layer.py``.

    On a CPU one expert at a time wins once an expert has enough tokens to fill its matrix products; below that the
    calls themselves cost more than the arithmetic, and grouped products make few. On a GPU grouped products are taken
    wherever they are supported (not measured here), and one expert at a time elsewhere.
    """
    many = hidden.device.type == "cpu" and chosen.numel() >= MANY * len(networks)
    return "grouped" if not many and grouped.supports(hidden, networks) is None else "segments"


# How many tokens an expert gets is not a shape that a compiled graph can know.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_experts(hidden: Tensor, chosen: Tensor, weights: Tensor, networks: Networks) -> Tensor:
    """``out[n] = sum_k weights[n,k] * expert_{chosen[n,k]}(hidden[n])``.

    Args:
        hidden: ``[N, d]``.
        chosen: ``[N, K]`` expert numbers in ``0 .. E-1``, distinct within a row, or -1 for none.
        weights: ``[N, K]``.
        networks: the E experts, in the dtype of ``hidden``.

    Returns:
        ``[N, d]`` in the dtype of ``hidden``.
    """
    name = "naive" if specified() else choose(hidden, chosen, networks)
    return BACKENDS[name](hidden, chosen, weights, networks)
