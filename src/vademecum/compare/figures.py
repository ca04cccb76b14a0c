"""Pictures of the results: from ``results.json`` and a source to a drawing, or None where there is nothing to draw.

Titles say what is seen, from the numbers; captions say how to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vademecum.compare import inside, stats, tables
from vademecum.compare.drawing import Results, looks, rows_on
from vademecum.compare.names import slug
from vademecum.pages import style
from vademecum.pages.drawing import Drawing, Floats


def draw_all(results: Results, data: str) -> list[Drawing]:
    """Every figure that ``results`` hold something for on the source ``data``, in reading order."""
    with style.styled():
        return [drawing for draw in FIGURES if (drawing := draw(results, data)) is not None]


def difference(results: Results, data: str) -> Drawing | None:
    """Forest plot: every arm's paired difference to the baseline, its interval and each seed's own difference."""
    baseline = results["plan"]["baseline"]
    shown = [row for row in rows_on(results, data) if row.difference is not None]
    if not shown:
        return None
    shown.sort(key=lambda row: row.difference.mean if row.difference else 0.0)
    look = looks(results)
    figure, (axis,) = style.canvas(height=0.9 + 0.42 * len(shown))
    for y, row in enumerate(shown):
        assert row.difference is not None
        mark = look[row.arm]
        if row.difference.half is not None:
            axis.plot(
                [row.difference.low, row.difference.high], [y, y], color=mark.color, lw=2.2, solid_capstyle="round"
            )
        axis.plot(row.difference.values, [y + 0.24] * row.difference.n, "|", color=mark.color, ms=6, alpha=0.75)
        axis.plot([row.difference.mean], [y], mark.marker, color=mark.color, ms=7)
    axis.axvline(0, color=style.INK, lw=1)
    axis.set_yticks(range(len(shown)), [row.arm for row in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"held-out bits per byte, less {baseline}'s (left is better)")
    better = [row.arm for row in shown if row.verdict == stats.BETTER]
    title = (
        f"Below {baseline} by more than the interval: {', '.join(better)}"
        if better
        else f"No arm is shown to be below {baseline}"
    )
    return Drawing(
        f"difference-{slug(data)}",
        title,
        "Dot: mean over seeds of the difference to the baseline at the same seed. Bar: its 95 % interval. Small "
        "ticks: the seeds. "
        "Only a bar that does not touch the line at 0 supports a claim.",
        figure,
    )


def _matrix(curve: Mapping[str, Sequence[Mapping[str, float]]], axis: str, grid: Floats) -> Floats:
    """Curves [seeds, grid] of bits per byte, interpolated along ``axis``."""
    return np.array(
        [np.interp(grid, [p[axis] for p in points], [p["bpb"] for p in points]) for points in curve.values() if points]
    )


def _curves(results: Results, data: str, axis: str, label: str, unit: float) -> Figure | None:
    baseline = results["plan"]["baseline"]
    curves = {
        arm: c for arm, c in results["curves"].get(data, {}).items() if all(len(points) > 1 for points in c.values())
    }
    if baseline not in curves:
        return None
    look = looks(results)
    figure, (left, right) = style.canvas(columns=2, width=9.2, height=3.7)
    # A scaling curve's arms have a figure of their own; here they would be a thicket.
    core = [arm for arm in curves if arm in {a["name"] for a in results["plan"]["arms"]}]
    for arm in core:
        first = max(points[0][axis] for points in curves[arm].values())
        last = min(points[-1][axis] for points in curves[arm].values())
        grid = np.linspace(first, last, 120)
        mine = _matrix(curves[arm], axis, grid)
        mark = look[arm]
        left.plot(grid / unit, mine.mean(0), color=mark.color, ls=mark.line, label=arm)
        left.fill_between(grid / unit, mine.min(0), mine.max(0), color=mark.color, alpha=0.16, lw=0)
        shared = [seed for seed in curves[arm] if seed in curves[baseline]]
        base_last = min(curves[baseline][seed][-1][axis] for seed in shared) if shared else 0.0
        if arm == baseline or not shared:
            continue
        grid = grid[grid <= base_last]
        if not len(grid):
            continue  # the arm's first evaluation came after the baseline had finished
        delta = _matrix({s: curves[arm][s] for s in shared}, axis, grid) - _matrix(
            {s: curves[baseline][s] for s in shared}, axis, grid
        )
        right.plot(grid / unit, delta.mean(0), color=mark.color, ls=mark.line, label=arm)
        right.fill_between(grid / unit, delta.min(0), delta.max(0), color=mark.color, alpha=0.16, lw=0)
    last_values = np.concatenate([[p["bpb"] for p in points] for arm in core for points in curves[arm].values()])
    low, high = float(last_values.min()), float(np.quantile(last_values, 0.8))
    left.set_ylim(low - 0.04 * (high - low), high)
    left.set_ylabel("held-out bits per byte")
    right.axhline(0, color=style.MUTED, lw=1.4)
    right.set_ylabel(f"less {baseline}'s")
    tail = [abs(v) for line in right.lines for v in np.asarray(line.get_ydata(), dtype=float)[-40:]]
    reach = 1.25 * max([*tail, 1e-3])
    right.set_ylim(-reach, reach)
    for axis_ in (left, right):
        axis_.set_xlabel(label)
        axis_.set_xlim(left=0)
    left.legend()
    return figure


def loss_tokens(results: Results, data: str) -> Drawing | None:
    """Held-out loss against tokens, and the gap to the baseline."""
    drawn = _curves(results, data, "tokens", "training tokens, millions", 1e6)
    if drawn is None:
        return None
    return Drawing(
        f"loss-tokens-{slug(data)}",
        "At equal tokens: held-out loss, and the gap to the baseline",
        "Left: bits per byte of held-out text during training, mean over seeds; band: lowest to highest seed. "
        "Right: the same curves "
        "less the baseline's at the same seed, which takes out what the seeds have in common. Below 0 is better.",
        drawn,
    )


def loss_seconds(results: Results, data: str) -> Drawing | None:
    """Held-out loss against training time."""
    drawn = _curves(results, data, "seconds", "training time, seconds", 1.0)
    if drawn is None:
        return None
    return Drawing(
        f"loss-seconds-{slug(data)}",
        "At equal time: the same curves against the clock",
        "As above, against training seconds on this machine (evaluation and checkpoints are not counted). An arm "
        "that is better per "
        "token and worse here pays for its gain in time.",
        drawn,
    )


def memory_size(results: Results, data: str) -> Drawing | None:
    """Quality against the number of slots."""
    slots = {name: arm["slots"] for name, arm in results["arms"].items() if arm.get("slots")}
    shown = sorted(
        (row for row in rows_on(results, data) if row.arm in slots and row.difference), key=lambda r: slots[r.arm]
    )
    if len(shown) < 2:
        return None
    figure, (left, right) = style.canvas(columns=2, width=9.2, height=3.4)
    x = [slots[row.arm] for row in shown]
    color = looks(results)[shown[0].arm].color
    mean = [row.difference.mean for row in shown if row.difference]
    half = [row.difference.half or 0.0 for row in shown if row.difference]
    left.errorbar(x, mean, yerr=half, color=color, marker="o", capsize=3)
    left.axhline(0, color=style.MUTED, lw=1.4)
    left.set_ylabel(f"bits per byte, less {results['plan']['baseline']}'s")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [str(v) for v in x])
        axis.minorticks_off()
        axis.set_xlabel("slots per token id")
    effective = [_mean_of(results["slots"].get(data, {}).get(row.arm, {}), "effective") for row in shown]
    right.plot(x, x, color=style.GRID, lw=1.4)
    right.plot(x, effective, color=color, marker="o")
    right.annotate(
        "all slots different",
        (x[-1], x[-1]),
        textcoords="offset points",
        xytext=(-6, -2),
        ha="right",
        color=style.MUTED,
    )
    right.set_ylabel("effective slots")
    return Drawing(
        f"memory-size-{slug(data)}",
        "Quality against memory size, and how many slots are effective",
        "Left: difference to the baseline with its paired 95 % interval. The table's learning rate is divided by "
        "the number of slots, "
        "so a larger table does not also take larger steps. Right: how many of the slots are effective (1: all "
        "add the same vector). "
        "Bars are about the baseline: which of two sizes is better they do not say.",
        figure,
    )


def _mean_of(by_seed: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str) -> float:
    values = [layer[key] for layers in by_seed.values() for layer in layers.values() if layer[key] is not None]
    return float(np.mean(values)) if values else float("nan")


def knockout(results: Results, data: str) -> Drawing | None:
    """The trained arm with and without its memory."""
    shown = [row for row in rows_on(results, data) if row.knockout is not None and row.knockout_difference is not None]
    base = next((row for row in rows_on(results, data) if row.arm == results["plan"]["baseline"]), None)
    if not shown:
        return None
    look = looks(results)
    figure, (axis,) = style.canvas(height=1.0 + 0.42 * len(shown))
    for y, row in enumerate(shown):
        assert row.knockout is not None
        with_, without = row.bits_per_byte.mean, row.knockout.mean
        axis.plot([with_, without], [y, y], color=look[row.arm].color, lw=2.2, alpha=0.5)
        axis.plot([with_], [y], look[row.arm].marker, color=look[row.arm].color, ms=7)
        axis.plot([without], [y], look[row.arm].marker, color=look[row.arm].color, ms=7, mfc=style.PAPER)
        axis.annotate(
            tables.interval(row.knockout_difference, 2, signed=True),
            (max(with_, without), y),
            textcoords="offset points",
            xytext=(9, -3.5),
            color=style.INK,
        )
    axis.set_yticks(range(len(shown)), [row.arm for row in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.22)
    if base is not None:
        axis.axvline(base.bits_per_byte.mean, color=style.MUTED, lw=1.4)
        axis.annotate(
            base.arm, (base.bits_per_byte.mean, -0.5), textcoords="offset points", xytext=(4, -9), color=style.MUTED
        )
    axis.set_xlabel("held-out bits per byte: filled with the memory, hollow with it silenced")
    costs = [row.arm for row in shown if stats.verdict(row.knockout_difference) == stats.WORSE]
    return Drawing(
        f"knockout-{slug(data)}",
        f"Silencing the memory costs bits: {', '.join(costs)}"
        if costs
        else "That silencing the memory costs anything is not shown",
        "The same trained model, evaluated twice: as it is, and with the memory adding nothing (experts stay); beside "
        "it the difference, paired by seed, with half its 95 % interval. "
        "The distance says how much "
        "the model leans on its memory, not what it would be had it been trained without.",
        figure,
    )


NAMED = 7
"""Points up to which each is named beside it; more would lie on one another's names and get a legend."""


def speed(results: Results, data: str) -> Drawing | None:
    """Quality against training speed."""
    shown = [row for row in rows_on(results, data) if row.speed_ratio is not None]
    if len(shown) < 3:
        return None
    look = looks(results)
    figure, (axis,) = style.canvas(width=6.6, height=3.6)
    for row in shown:
        assert row.speed_ratio is not None
        x, y = row.speed_ratio, row.difference or stats.Estimate(0.0, None, 1)
        axis.errorbar(
            [x.mean],
            [y.mean],
            xerr=[x.half or 0.0],
            yerr=[y.half or 0.0],
            color=look[row.arm].color,
            marker=look[row.arm].marker,
            capsize=3,
            label=row.arm,
        )
        if len(shown) <= NAMED:
            axis.annotate(
                row.arm, (x.mean, y.mean), textcoords="offset points", xytext=(7, 6), color=look[row.arm].color
            )
    if len(shown) > NAMED:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    axis.axhline(0, color=style.MUTED, lw=1)
    axis.axvline(1, color=style.MUTED, lw=1)
    axis.margins(x=0.16, y=0.16)
    axis.set_xlabel(f"training tokens per second, over {results['plan']['baseline']}'s")
    axis.set_ylabel("bits per byte, less the baseline's")
    return Drawing(
        f"speed-{slug(data)}",
        "Quality against speed: down and to the right is better",
        "Each arm with its 95 % intervals in both directions. Speed is the median over interleaved chunks of "
        "steps, each divided by the "
        "baseline's chunk of the same round, so that a busy moment of the machine touches both.",
        figure,
    )


FIGURES: Sequence[Callable[[Results, str], Drawing | None]] = (
    difference,
    loss_tokens,
    loss_seconds,
    speed,
    memory_size,
    knockout,
    inside.slot_use,
    inside.gates,
    inside.expert_load,
)
"""Figures in reading order."""
