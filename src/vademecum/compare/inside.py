"""Pictures of what went on inside: which experts and slots do the work, how the gates are set.

They show the first seed: experts and slots have no order, so that averaging them over seeds would mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vademecum.analysis.experts import layer_of
from vademecum.compare.drawing import Results, looks
from vademecum.compare.names import slug
from vademecum.pages import style
from vademecum.pages.drawing import Drawing, heat_map

ACROSS = 3
"""Panels in a row, so that letters keep their size however many arms there are."""

LABELLED = 8
"""Columns of a heat map up to which the numbers are written into it."""


def _grid(panels: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """A figure of ``panels`` axes, at most :data:`ACROSS` in a row of ``height`` inches, each ``width`` inches wide."""
    columns = min(ACROSS, panels)
    rows = -(-panels // columns)
    figure, axes = style.canvas(columns=columns, rows=rows, width=width * columns, height=height * rows, **options)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def _first_seed(by_seed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, Any]]:
    """Layers of the first seed: {kind: {layer: statistics}}."""
    found: dict[str, dict[int, Any]] = {}
    for key, value in next(iter(by_seed.values())).items():
        found.setdefault(key.split(".", 1)[0], {})[layer_of(key)] = value
    return {kind: dict(sorted(layers.items())) for kind, layers in found.items()}


def expert_load(results: Results, data: str) -> Drawing | None:
    """Heat map: share of the assignments per layer and expert."""
    arms = {arm: _first_seed(s) for arm, s in results["experts"].get(data, {}).items() if any(s.values())}
    if not arms:
        return None
    panels = [(arm, layers) for arm, kinds in arms.items() for layers in kinds.values()]
    deep = max(len(layers) for _, layers in panels)
    figure, axes = _grid(len(panels), width=max(3.4, 5.4 / len(panels)), height=1.3 + 0.3 * deep)
    top = max(2.0, *(max(load["share"]) * len(load["share"]) for _, layers in panels for load in layers.values()))
    dead = sum(load["dead"] for _, layers in panels for load in layers.values())
    worst = max(load["max_violation"] for _, layers in panels for load in layers.values())
    for axis, (arm, layers) in zip(axes, panels, strict=True):
        values = np.array([[share * len(load["share"]) for share in load["share"]] for load in layers.values()])
        heat_map(
            axis, values, low=0.0, high=top, xlabel="expert", rows=list(layers), labels=values.shape[1] <= LABELLED
        )
        axis.set_title(arm)
    for axis in axes[::ACROSS]:
        axis.set_ylabel("layer")
    figure.colorbar(axes[-1].images[0], ax=axes, label="load over the even share", shrink=0.9)
    return Drawing(
        f"expert-load-{slug(data)}",
        f"Expert load: busiest expert at {1 + worst:.2f} times its share, {dead or 'no'} dead "
        f"expert{'' if dead == 1 else 's'}",
        "Each cell: how many of the held-out tokens' assignments go to that expert, over an even share (1.00). 0 "
        "would be an expert "
        "nobody asks; an expert with less than 1 % of its share counts as dead. First seed.",
        figure,
    )


def slot_use(results: Results, data: str) -> Drawing | None:
    """Slot use per layer, slot similarity and effective slots per layer."""
    arms = {arm: _first_seed(s) for arm, s in results["slots"].get(data, {}).items() if any(s.values())}
    core = {a["name"] for a in results["plan"]["arms"]}
    panels = [
        (arm, layers)
        for arm, kinds in arms.items()
        for layers in kinds.values()
        if arm in core and all(layer["similarity"] is not None for layer in layers.values())
    ]
    if not panels:
        return None
    look = looks(results)
    deep = max(len(layers) for _, layers in panels)
    counts = {arm: len(next(iter(layers.values()))["use"]) for arm, layers in panels}
    figure, axes = _grid(len(panels) + 2, width=3.4, height=1.3 + 0.3 * max(deep, 4))
    for axis, (arm, layers) in zip(axes, panels, strict=False):
        values = np.array([layer["use"] for layer in layers.values()]) * counts[arm]
        heat_map(axis, values, low=0.0, high=2.0, xlabel="slot", rows=list(layers), labels=counts[arm] <= LABELLED)
        axis.set_title(f"{arm}: use (1 = even)")
    for axis in axes[: len(panels) : ACROSS]:
        axis.set_ylabel("layer")
    for key, axis, top in (("similarity", axes[-2], 1.0), ("effective", axes[-1], float(max(counts.values())))):
        for arm, layers in panels:
            axis.plot(
                list(layers),
                [layer[key] for layer in layers.values()],
                color=look[arm].color,
                marker=look[arm].marker,
                label=arm,
            )
        axis.set_ylim(min(0.0, axis.get_ylim()[0]), top * 1.03)
        axis.set_xticks(sorted({n for _, layers in panels for n in layers}))
        axis.set_xlabel("layer")
        axis.set_title({"similarity": "similarity of two slots", "effective": "effective slots"}[key])
    axes[-1].legend()
    effective = [
        f"{np.mean([layer['effective'] for layer in layers.values()]):.1f} of {counts[arm]} ({arm})"
        for arm, layers in panels
    ]
    return Drawing(
        f"slot-use-{slug(data)}",
        f"Effective slots, mean over the first seed's layers: {', '.join(effective)}",
        "Heat maps: each slot's share of what the memory adds in a layer (gate times row norm), over an even share. "
        "Then the mean cosine "
        "between two slots' gated rows at the same token (1: copies of one another), and the number of effective "
        "slots: exp of the "
        "entropy of the eigenvalues of the slots' uncentred Gram matrix, averaged over held-out tokens. First seed.",
        figure,
    )


def gates(results: Results, data: str) -> Drawing | None:
    """Histogram of the gates, by layer."""
    core = {a["name"] for a in results["plan"]["arms"]}
    arms = {arm: _first_seed(s) for arm, s in results["slots"].get(data, {}).items() if any(s.values()) and arm in core}
    panels = [(arm, layers) for arm, kinds in arms.items() for layers in kinds.values()]
    if not panels:
        return None
    figure, axes = _grid(len(panels), width=max(3.4, 6.0 / len(panels)), height=2.6, sharey=True)
    spread = []
    for axis, (arm, layers) in zip(axes, panels, strict=True):
        color = looks(results)[arm].color
        for i, (number, layer) in enumerate(layers.items()):
            counts = np.array(layer["histogram"], dtype=float)
            edges = np.linspace(0, 2, len(counts) + 1)
            share = counts / max(counts.sum(), 1)
            axis.stairs(
                share,
                edges,
                color=color,
                alpha=0.3 + 0.7 * i / max(1, len(layers) - 1),
                lw=1.4,
                label=f"layer {number}",
            )
            middle = (edges[1:] + edges[:-1]) / 2
            spread.append(float((share * (middle - 1) ** 2).sum()))
        own = np.sum([layer.get("own_histogram") or [0] for layer in layers.values()], axis=0)
        if own.sum():
            axis.stairs(own / own.sum(), np.linspace(0, 2, len(own) + 1), color=style.INK, ls="--", lw=1, label="own")
        axis.axvline(1, color=style.MUTED, lw=1, ls=":")
        axis.set_xlabel("gate on a slot")
        axis.set_title(arm)
    axes[0].legend(fontsize=8)
    for axis in axes[::ACROSS]:
        axis.set_ylabel("share of gates")
    return Drawing(
        f"gates-{slug(data)}",
        f"Gates lie {np.sqrt(np.mean(spread)):.2f} from 1 (root mean square over layers, first seed)",
        "How far each slot is let through, over held-out tokens and heads: 0 is shut, 1 the neutral middle "
        "(dotted), 2 wide open. A spike "
        "at 1 would mean that the layer does not choose. Lighter to darker: from the first layer to the last. "
        "Dashed: the gate on the host's own value, all layers together. First seed.",
        figure,
    )
