"""Means, intervals and verdicts over a handful of seeds.

Everything is the textbook t interval: seeds are few, so the normal quantile would promise too much. Differences are
*paired*: arms share data order and host initialisation per seed, so the difference is taken seed by seed before its
spread is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference shown"
ONE_SEED = "one seed: no claim"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. ``half`` is half the width of its interval, None where one seed gives none."""

    mean: float
    half: float | None
    n: int
    values: tuple[float, ...] = ()

    @property
    def low(self) -> float | None:
        """Lower end of the interval, or None."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval, or None."""
        return None if self.half is None else self.mean + self.half


def t_cdf_central(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's t with integer ``degrees`` >= 1, by its finite trigonometric sum (exact)."""
    if degrees < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees}: give two values or more.")
    angle = math.atan2(t, math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    even = degrees % 2 == 0
    term = 1.0 if even else math.cos(angle)
    total = term if degrees > 1 else 0.0
    for k in range(1 if even else 2, degrees - 2, 2):
        term *= cos2 * k / (k + 1)
        total += term
    if even:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * total)


def t_quantile(degrees: int, confidence: float = 0.95) -> float:
    """The t with P(|T| <= t) = ``confidence``: 12.706 for one degree of freedom, 4.303 for two, towards 1.960."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, for example 0.95.")
    low, high = 0.0, 1.0
    while t_cdf_central(high, degrees) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if t_cdf_central(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of ``values`` with its t interval; a single value has no interval."""
    if not values:
        raise ValueError("there is no value to average: give at least one seed.")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1, tuple(values))
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return Estimate(mean, t_quantile(n - 1, confidence) * math.sqrt(variance / n), n, tuple(values))


def paired(values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Estimate | None:
    """Estimate of ``values - baseline`` over the seeds both have; None where they share none."""
    shared = sorted(values.keys() & baseline.keys())
    if not shared:
        return None
    return estimate([values[s] - baseline[s] for s in shared], confidence)


def verdict(difference: Estimate | None) -> str:
    """In words what a paired difference (lower is better) supports; a direction only if its interval excludes zero."""
    if difference is None or difference.half is None:
        return ONE_SEED
    low, high = difference.mean - difference.half, difference.mean + difference.half
    if low > 0 or high < 0:
        return BETTER if high < 0 else WORSE
    return NO_DIFFERENCE


def median(values: Sequence[float]) -> float:
    """Middle value (mean of the two middle ones for an even count)."""
    if not values:
        raise ValueError("there is no value to take the median of.")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
