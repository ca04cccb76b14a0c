"""Arms made equal in what a token costs them, or in parameters, by the width of their host's feed-forward.

A kind that adds products gets a narrower feed-forward beside it, one that takes some away a wider one. Width is a whole
number and some kinds leave none to move, so what is left over is measured, not assumed: results state every arm's FLOPs
and parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vademecum.analysis import cost
from vademecum.compare import arms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vademecum.compare.arms import Arm
    from vademecum.compare.plan import Plan

STEP = 8
"""Widths are multiples of this, so that vector units are full and experts of a quarter of it are whole."""

COMPUTE, PARAMETERS = "compute", "parameters"
BY: Mapping[str, str] = {
    COMPUTE: "FLOPs of a forward per token, those of the baseline",
    PARAMETERS: "parameters in all, those of the largest arm",
}
"""What arms can be matched on, and whose number they get."""


def matched(plan: Plan, by: str) -> Plan:
    """``plan`` with every arm's ``ffn_width`` set so that all cost alike; the same plan gives the same widths.

    An arm on which the width has no effect keeps the host's, and no host gets narrower than :data:`STEP`.

    Raises:
        ValueError: ``by`` is not in :data:`BY`.
    """
    if by not in BY:
        raise ValueError(f"by={by!r} was given; expected one of {', '.join(BY)}.")
    count = _flops(plan) if by == COMPUTE else _parameters
    own = arms.dense_width(plan)
    every = (*plan.arms, *plan.curve)
    at_own = {arm.name: count(_built(arm, plan, own)) for arm in every}
    target = at_own[plan.baseline] if by == COMPUTE else max(at_own.values())

    def fitted(arm: Arm) -> Arm:
        further = own + 8 * STEP
        slope = (count(_built(arm, plan, further)) - at_own[arm.name]) / (further - own)
        steps = round((target - at_own[arm.name]) / slope / STEP) if slope else 0
        width = max(STEP, own + STEP * steps)
        return arm if width == own else dataclasses.replace(arm, ffn_width=width)

    return dataclasses.replace(plan, arms=tuple(map(fitted, plan.arms)), curve=tuple(map(fitted, plan.curve)))


def _built(arm: Arm, plan: Plan, width: int) -> PreTrainedModel:
    return arms.build(arm, plan, seed=plan.seeds[0], ffn_width=width)


def _parameters(model: PreTrainedModel) -> float:
    return sum(p.numel() for p in model.parameters())


def _flops(plan: Plan) -> Callable[[PreTrainedModel], float]:
    return lambda model: cost.flops_per_token(model, length=plan.recipe.length)
