"""Figures of the experts' page; each says in its title what is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vademecum.analysis.experts import layer_of
from vademecum.inspection import drawing
from vademecum.inspection.experts import IDS, Findings
from vademecum.pages import style
from vademecum.pages.drawing import Drawing

_COLOURS = dict(zip(IDS, ("#0072b2", "#009e73", "#d55e00"), strict=True))
_MARKERS = dict(zip(IDS, ("o", "D", "s"), strict=True))
_LABELLED = 16  # experts in a row whose numbers can still be read


def domains(found: Findings) -> Drawing | None:
    """Heat maps: domains x experts, share of the domain's tokens over the even share."""
    layers = drawing.shown(found.layers)
    names = found.seen.domains
    figure, axes = drawing.panels(len(layers), width=5.6, height=0.9 + 0.3 * len(names))
    ratios = {each.key: (each.domains / each.even).T.numpy() for each in found.layers}
    high = max(2.0, *(float(np.nanmax(ratios[each.key])) for each in layers))
    for axis, each in zip(axes, layers, strict=True):
        digits = 1 if each.count <= _LABELLED else None
        columns = [str(i) for i in range(each.count)]
        drawing.heat(axis, ratios[each.key], low=0, high=high, columns=columns, rows=names, digits=digits)
        axis.set_title(drawing.called(each.key))
        axis.set_xlabel("expert")
    figure.colorbar(axes[-1].images[0], ax=axes, label="use over the even share", shrink=0.9)
    key = max(ratios, key=lambda k: float(np.nanmax(ratios[k])))
    row, column = np.unravel_index(int(np.nanargmax(ratios[key])), ratios[key].shape)
    most = ratios[key][row, column]
    says = (
        f"Expert {column} of {drawing.called(key)} takes {most:.1f} times its even share of {names[row]}, the most "
        f"of all"
        if most >= 1.5
        else f"Little specialisation by domain: no expert takes more than {most:.1f} times its even share of one"
    )
    return Drawing(
        "domains",
        says,
        "Share of a domain's tokens that use an expert (any of a token's experts), over k / E, what even routing would "
        "give (1.0). A column that is bright in one row belongs to that domain; a row without contrast is a domain the "
        f"router does not tell apart. {_some(found, len(layers))}domains.csv has the shares themselves.",
        figure,
    )


def vocabulary(found: Findings) -> Drawing | None:
    """Lines over layers: vocabulary specialisation by input, true next and predicted next id."""
    figure, (axis,) = style.canvas(width=6.8, height=3.5)
    at = range(len(found.layers))
    ends: dict[str, tuple[float, float]] = {}
    for name in IDS:
        ones = [each.vocabulary[name] for each in found.layers]
        values = [np.nan if one is None else one.average for one in ones]
        chance = [np.nan if each.chance[name] is None else float(each.chance[name] or 0) for each in found.layers]
        if np.isnan(values).all():
            continue
        ends[name] = (values[0], values[-1])
        axis.plot(at, values, color=_COLOURS[name], marker=_MARKERS[name], label=name)
        axis.plot(at, chance, color=style.MUTED, ls=":", lw=1.4)
    if not ends:
        return None
    axis.set_xticks(list(at), [str(layer_of(each.key)) for each in found.layers])
    axis.set_ylim(0, 1)
    axis.set_xlabel("layer")
    axis.set_ylabel("share of an id's favourite expert")
    axis.plot([], [], color=style.MUTED, ls=":", lw=1.4, label="experts shuffled")
    axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    first = max(ends, key=lambda name: ends[name][0])
    last = max(ends, key=lambda name: ends[name][1])
    then = "" if first == last else f"the {last} "
    return Drawing(
        "vocabulary",
        f"Routing follows the {first} most in the first layer ({ends[first][0]:.2f}) and {then}in the last "
        f"({ends[last][1]:.2f})",
        "For every id with ten or more occurrences: the share of them that its most frequent expert takes as first "
        "choice, averaged over ids (1: an id always goes to one expert). Dotted: the same after the experts were "
        "shuffled over the tokens, which is above 1 / E because rare ids have a favourite by chance. The predicted "
        "id is the model's own likeliest next token, so a poor model shows little under it.",
        figure,
    )


def repetition(found: Findings) -> Drawing | None:
    """Points over layers: consecutive tokens with the same first expert, against chance."""
    figure, (axis,) = style.canvas(width=6.8, height=3.2)
    at = range(len(found.layers))
    shares = [100 * each.repetition.share for each in found.layers]
    chances = [100 * each.repetition.chance for each in found.layers]
    axis.plot(at, shares, color="#0072b2", marker="o", label="measured")
    axis.plot(at, chances, color=style.MUTED, marker="s", ls="--", label="independent draws of the same load")
    axis.plot(at, [100 / each.count for each in found.layers], color=style.MUTED, ls=":", label="1 / E")
    axis.set_xticks(list(at), [str(layer_of(each.key)) for each in found.layers])
    axis.set_ylim(0, max(*shares, *chances) * 1.25)
    axis.set_xlabel("layer")
    axis.set_ylabel("%")
    axis.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    most = max(found.layers, key=lambda each: each.repetition.share / each.repetition.chance)
    return Drawing(
        "repetition",
        f"{100 * most.repetition.share:.0f} % of consecutive tokens keep their first expert in "
        f"{drawing.called(most.key)}"
        f", where chance gives {100 * most.repetition.chance:.0f} %",
        "Share of neighbouring tokens with the same first expert. Dashed: what independent draws of the same load "
        "would give, the sum of the squared shares; dotted: the same with an even load. Above it, routing has "
        "stretches, which may be of topic or only of repeated tokens.",
        figure,
    )


def coactivation(found: Findings) -> Drawing | None:
    """Heat maps E x E: of the tokens with expert i, the share that use j too."""
    layers = [each for each in drawing.shown(found.layers) if each.kept > 1 and each.count > 1]
    if not layers:
        return None
    figure, axes = drawing.panels(len(layers), width=4.6, height=4.0)
    tables = {}
    for each in found.layers:
        tables[each.key] = each.coactivation.clone().fill_diagonal_(np.nan).numpy()
    high = max(float(np.nanmax(tables[each.key])) for each in layers)
    for axis, each in zip(axes, layers, strict=True):
        columns = [str(i) for i in range(each.count)]
        drawing.heat(axis, tables[each.key], low=0, high=high, columns=columns, rows=columns)
        axis.set_title(f"{drawing.called(each.key)} (even: {each.even_pair:.2f})")
        axis.set_xlabel("is used too")
        axis.set_ylabel("of the tokens with expert")
    figure.colorbar(axes[-1].images[0], ax=axes, label="share", shrink=0.8)
    most = max(layers, key=lambda each: float(np.nanmax(tables[each.key])) / each.even_pair)
    row, column = np.unravel_index(int(np.nanargmax(tables[most.key])), tables[most.key].shape)
    return Drawing(
        "coactivation",
        f"Of the tokens with expert {row} in {drawing.called(most.key)}, {100 * tables[most.key][row, column]:.0f} % "
        f"use expert {column} too; even routing gives {100 * most.even_pair:.0f} %",
        "Counted over all pairs of a token's experts. Rows are not symmetric with columns where experts are used "
        "unequally often: an expert that nearly every token uses makes a bright column. The diagonal is left empty. "
        f"{_some(found, len(layers))}",
        figure,
    )


def saturation(found: Findings) -> Drawing | None:
    """Lines over steps: share of the final experts a checkpoint chose already."""
    if not found.saturation or found.final_step is None:
        return None
    figure, (axis,) = style.canvas(width=6.8, height=3.5)
    steps = list(found.saturation)
    for i, each in enumerate(found.layers):
        shade = 0.25 + 0.75 * (i + 1) / len(found.layers)
        axis.plot(
            [*steps, found.final_step],
            [*(100 * found.saturation[step][each.key] for step in steps), 100.0],
            color="#0072b2",
            alpha=shade,
            marker="os^Dv"[i % 5],
            label=drawing.called(each.key) if len(found.layers) <= 8 or i in (0, len(found.layers) - 1) else None,
        )
    even = found.layers[0].even
    axis.axhline(100 * even, color=style.MUTED, ls=":", label="even routing (k / E)")
    axis.set_ylim(0, 103)
    axis.set_xlabel("step of the checkpoint")
    axis.set_ylabel("% of the final experts")
    axis.legend(fontsize=8, loc="lower right")
    early = {each.key: found.saturation[steps[0]][each.key] for each in found.layers}
    slowest = min(early, key=lambda key: early[key])
    mean = 100 * sum(early.values()) / len(early)
    return Drawing(
        "saturation",
        f"After {100 * steps[0] / found.final_step:.0f} % of the run {mean:.0f} % of the final experts are chosen "
        f"already; {drawing.called(slowest)} is the slowest",
        f"Router saturation: the same {found.saturation_tokens:,} tokens of all domains routed by every kept "
        f"checkpoint; the share of a token's experts in the "
        "end that it was sent to then, mean over tokens. The last point is 100 % by definition. Dotted: what even, "
        "unrelated routing shares by chance.",
        figure,
    )


def information(found: Findings) -> Drawing | None:
    """Bars per layer: mutual information against its shuffled baseline."""
    return drawing.information(found.layers, part="expert", labels="First expert")


FIGURES: Sequence[Callable[[Findings], Drawing | None]] = (
    domains,
    information,
    vocabulary,
    coactivation,
    repetition,
    saturation,
)
"""Figures in reading order; one that has nothing to show is None."""


def draw_all(found: Findings) -> list[Drawing]:
    """Every figure that has something to show."""
    with style.styled():
        return [one for one in (figure(found) for figure in FIGURES) if one is not None]


def _some(found: Findings, drawn: int) -> str:
    return f"{drawn} of {len(found.layers)} layers are drawn. " if drawn < len(found.layers) else ""
