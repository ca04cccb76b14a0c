"""The learning rate over a run: warm-up, stable, linear decay."""

from __future__ import annotations


def factor(step: int, *, steps: int, warmup: float, decay: float) -> float:
    """Factor on the peak learning rate at a step, as a pure function.

    It rises linearly over the first ``round(warmup * steps)`` steps, stays at 1, and falls linearly over the last
    ``round(decay * steps)`` towards 0, which it would reach one step after the last.

    Args:
        step: 0 for the first step, ``steps - 1`` for the last.
        steps: steps of the whole run.
        warmup: share of the steps that warm up.
        decay: share of the steps that decay.

    Raises:
        ValueError: ``step`` is not one of the run's.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} was given; a run of {steps} steps has the steps 0 to {steps - 1}.")
    rise, fall = round(warmup * steps), round(decay * steps)
    up = (step + 1) / rise if step < rise else 1.0
    down = (steps - step) / fall if step >= steps - fall else 1.0
    return min(up, down)
