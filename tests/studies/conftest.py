"""Made-up series: what a study would have seen, without training anything."""

from __future__ import annotations

import pytest

from vademecum.studies.series import Line, Series

STEPS = (10, 20, 30)


def line(arm: str, seed: int, step: int, entropy: float, bits: float) -> Line:
    """One evaluation with two layers of experts whose mean load entropy is ``entropy``."""
    inside = {
        f"moe.layers.{layer}": {"load_entropy": entropy + shift, "dead": 1.0, "dropped": 0.0}
        for layer, shift in enumerate((-0.1, 0.1))
    }
    return Line(arm, seed, step, bits, inside)


@pytest.fixture
def found() -> Series:
    """Two arms of experts over three seeds: ``aux`` is 0.4 more even and loses nothing."""
    lines = [
        line(arm, seed, step, entropy=high + 0.01 * seed, bits=2.0 - step / 100 + noise * (seed - 1))
        for arm, high, noise in (("unbalanced", 0.5, 0.01), ("aux", 0.9, -0.01))
        for seed in (0, 1, 2)
        for step in STEPS
    ]
    return Series(tuple(lines), diverged=(("bias", 1),))
