"""What the report of a comparison on pictures shows: verdicts, slots by class and place, grids side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vademecum.compare import stats
from vademecum.compare.media.base import Words
from vademecum.compare.names import slug
from vademecum.compare.stats import Estimate
from vademecum.pages import page, style
from vademecum.pages.drawing import Drawing, heat_map

DRAWN, SILENCED, NEAREST = "drawn.png", "silenced.png", "nearest.png"
MEASURES: Mapping[str, tuple[str, int]] = {
    "frechet": ("Fr\u00e9chet distance", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "agreement": ("agreement", 3),
    "copied": ("copies", 3),
}

WORDS = Words(
    model="model of pictures",
    shown="Pictures, side by side",
    measured="Bits per byte: the negative log-likelihood, in bits, of the tokens of held-out pictures given their "
    "class, over the values of pixels they stand for, a byte each: bits per dimension. It is a likelihood of the "
    "pixels with raw tokens of all 256 levels alone; otherwise it is the length of the tokens, and only arms with "
    "the same codec can be compared. {evaluated} Fr\u00e9chet distance (arXiv:1706.08500), precision and recall "
    "(arXiv:1904.06991, 3 neighbours) are between as many drawn pictures for every arm and the held-out ones, in the "
    "features that are named above the table. Agreement is the share of drawn pictures that the classifier takes for "
    "the class that was asked for. Copies is the share of drawn pictures nearer, by pixels, to a training picture than "
    "95 % of the held-out ones are once they went through the codec: 0.05 is what new pictures would have. Real "
    "pictures stand in the first row: distance, precision and recall of training pictures, agreement and copies of "
    "held-out ones; in the second, held-out ones through the codec: what a model that draws perfectly could reach. The "
    "distance falls with the count, so only equal counts compare.",
    limits=(
        "Scale. Small models on small pictures. What helps here may vanish or grow in models a thousand times larger.",
        "The features are of a classifier trained on the same pictures, unless another extractor was given: distances "
        "compare arms here and are not those of published tables, which use Inception on other pictures.",
        "Tuning. One recipe serves all arms; the ratios of tables and experts to the host\u2019s rate were chosen on "
        "text, none on pictures.",
        "One codec. Its blur is in every arm\u2019s pictures and in none of the held-out ones they are compared with.",
        "Speed is that of this machine.",
        "Knock-out says how far the trained model leans on its memory; it is not a model trained without one.",
        "Seeds vary initialisation, data order and draws, not the split of the pictures.",
    ),
)


def embedded(place: Path) -> dict[str, str]:
    """The grids in a run's folder, as they are embedded in the page."""
    from vademecum.images import drawing

    return {
        name: drawing.embedded((place / name).read_bytes())
        for name in (DRAWN, SILENCED, NEAREST)
        if (place / name).is_file()
    }


def over_seeds(verdicts: Mapping[str, Any], measure: str, of: str = "verdict") -> dict[int, float]:
    """One measure of one arm by seed; empty where it has none."""
    found = {int(seed): each.get(of, {}).get(measure) for seed, each in verdicts.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def section(found: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """Verdicts, figures and grids, for every source."""
    if not found["samples"]:
        return ""
    baseline = found["plan"]["baseline"]
    parts = []
    for name, sample in found["samples"].items():
        own = [drawing for drawing in drawings if drawing.name.endswith(f"-{slug(name)}")]
        parts.append(
            f'<h3>What was drawn on {escape(name)}, judged</h3><p class="note">{escape(_judge(sample))}</p>'
            f"{_table(sample, baseline)}{page.figures(own)}{_grids(sample)}"
        )
    return f'<section id="texts"><h2>{WORDS.shown}</h2>{"".join(parts)}</section>'


def _judge(sample: Mapping[str, Any]) -> str:
    first = next(iter(next(iter(sample["verdicts"].values())).values()))
    count = first["verdict"]["count"]
    return (
        f"{count} pictures of every model, classes in turn, the same random numbers for all arms of a seed; "
        f"{first['judge']}. \u00b1 is half a 95 % interval over seeds; in brackets the standard error over draws from "
        "one model, by drawing its pictures again with replacement, within each class."
    )


def _table(sample: Mapping[str, Any], baseline: str) -> str:
    verdicts = sample["verdicts"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in MEASURES.values())
    first = next(iter(next(iter(verdicts.values())).values()))
    rows = [_real(first["floor"], f"real pictures ({first['floor']['count']})")]
    if "through" in first:
        rows.append(_real(first["through"], "held-out pictures through the codec"))
    for arm, by_seed in verdicts.items():
        cells = "".join(f"<td>{_cell(by_seed, measure, digits)}</td>" for measure, (_, digits) in MEASURES.items())
        base = over_seeds(verdicts.get(baseline, {}), "frechet")
        apart = stats.paired(over_seeds(by_seed, "frechet"), base) if arm != baseline else None
        said = "baseline" if arm == baseline else stats.verdict(apart)
        silent = over_seeds(by_seed, "frechet", "silenced")
        without = _interval(stats.estimate(list(silent.values())), 2) if silent else "\u2013"
        rows.append(
            f"<tr{' class=baseline' if arm == baseline else ''}><td>{escape(arm)}</td>{cells}"
            f"<td>{'' if apart is None else _interval(apart, 2, signed=True)}</td><td>{said}</td>"
            f"<td>{without}</td></tr>"
        )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">arm</th>{head}'
        '<th scope="col">Fr\u00e9chet less baseline, paired</th><th scope="col">verdict</th>'
        f'<th scope="col">Fr\u00e9chet, memory silenced</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _real(floor: Mapping[str, Any], name: str) -> str:
    cells = "".join(f"<td>{floor[measure]:.{digits}f}</td>" for measure, (_, digits) in MEASURES.items())
    return f"<tr><td>{name}</td>{cells}<td></td><td></td><td></td></tr>"


def _cell(by_seed: Mapping[str, Any], measure: str, digits: int) -> str:
    values = over_seeds(by_seed, measure)
    if not values:
        return "\u2013"
    text = _interval(stats.estimate([values[seed] for seed in sorted(values)]), digits)
    spreads = [each["verdict"]["spread"].get(measure) for each in by_seed.values()]
    known = [spread for spread in spreads if spread is not None]
    return text + (f' <span class="half">({np.mean(known):.{digits}f})</span>' if known else "")


def _interval(value: Estimate, digits: int, *, signed: bool = False) -> str:
    mean = f"{value.mean:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")
    return mean if value.half is None else f'{mean}<span class="half"> \u00b1 {value.half:.{digits}f}</span>'


def _grids(sample: Mapping[str, Any]) -> str:
    blocks = []
    for name, title in (
        (DRAWN, "Drawn by each arm of the first seed, the same random numbers for all; by class, not chosen"),
        (SILENCED, "The same with the memory silenced"),
        (NEAREST, "The first pictures drawn, and below each the training picture nearest to it by pixels"),
    ):
        cards = [
            f'<div><b>{escape(arm)}</b><br><img alt="{escape(arm)}: {escape(title)}" src="{images[name]}"></div>'
            for arm, images in sample["images"].items()
            if name in images
        ]
        if cards:
            blocks.append(f'<h3 class="note">{escape(title)}</h3><div class="pictures">{"".join(cards)}</div>')
    return "".join(blocks)


def drawings(found: Mapping[str, Any]) -> list[Drawing]:
    """Figures, with the source's name at the end of theirs."""
    made = []
    with style.styled():
        for name, sample in found["samples"].items():
            every = (_frechet(name, sample, found), _classes(name, sample), _places(name, sample))
            made += [drawing for drawing in every if drawing is not None]
    return made


def _frechet(name: str, sample: Mapping[str, Any], found: Mapping[str, Any]) -> Drawing | None:
    baseline = found["plan"]["baseline"]
    base = over_seeds(sample["verdicts"].get(baseline, {}), "frechet")
    shown = {
        arm: apart
        for arm, by_seed in sample["verdicts"].items()
        if arm != baseline and (apart := stats.paired(over_seeds(by_seed, "frechet"), base)) is not None
    }
    if not shown:
        return None
    look = style.looks(list(sample["verdicts"]), baseline)
    figure, (axis,) = style.canvas(width=6.6, height=1.2 + 0.32 * len(shown))
    for y, (arm, apart) in enumerate(shown.items()):
        axis.plot(apart.values, [y] * len(apart.values), ".", color=look[arm].color, alpha=0.5)
        axis.errorbar(
            [apart.mean], [y], xerr=[apart.half or 0], color=look[arm].color, marker=look[arm].marker, capsize=3
        )
    axis.axvline(0, color=style.MUTED, lw=1.2)
    axis.set_yticks(range(len(shown)), list(shown))
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"Fr\u00e9chet distance, less {baseline}'s (left is better)")
    better = [arm for arm, apart in shown.items() if stats.verdict(apart) == stats.BETTER]
    return Drawing(
        f"frechet-{slug(name)}",
        f"Nearer to held-out pictures than {baseline}: {', '.join(better)}"
        if better
        else f"That an arm draws nearer to held-out pictures than {baseline} is not shown",
        f"Paired by seed; bar: 95 % interval; small dots: seeds. Of {len(shown)} intervals one excludes zero by chance "
        "now and then; they are not widened for that.",
        figure,
    )


def _with_slots(sample: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The arm with the most slots, and what its first seed's slots do."""
    slots = {
        arm: next(iter(by_seed.values()))["slots"]
        for arm, by_seed in sample["verdicts"].items()
        if next(iter(by_seed.values()))["slots"]
    }
    return max(slots.items(), key=lambda each: 1 / each[1]["even"]) if slots else None


def _classes(name: str, sample: Mapping[str, Any]) -> Drawing | None:
    chosen = _with_slots(sample)
    if chosen is None:
        return None
    arm, slots = chosen
    names = [each for each, row in zip(sample["classes"], slots["by_class"], strict=True) if row is not None]
    values = np.array([row for row in slots["by_class"] if row is not None]) / slots["even"]
    figure, (axis,) = style.canvas(width=6.2, height=0.8 + 0.27 * len(names))
    image = heat_map(axis, values, low=0.0, high=max(2.0, float(values.max())), xlabel="slot", rows=names, labels=True)
    figure.colorbar(image, ax=axis, label="share, over an even one")
    return Drawing(
        f"slots-by-class-{slug(name)}",
        f"Which slots speak for which class ({arm})",
        "A slot's share of what the memory adds, over an even share: mean over layers and the tokens of held-out "
        "pictures of each class; first seed.",
        figure,
    )


def _places(name: str, sample: Mapping[str, Any]) -> Drawing | None:
    chosen = _with_slots(sample)
    if chosen is None:
        return None
    arm, slots = chosen
    rows, columns = sample["grid"]
    values = np.array(slots["by_place"]) / slots["even"]
    count = values.shape[1]
    figure, axes = style.canvas(width=1.1 * count + 1.4, height=1.9, columns=count)
    high = max(2.0, float(values.max()))
    for slot, axis in enumerate(axes):
        flat = np.full(rows * columns, np.nan)
        flat[: len(values)] = values[:, slot]
        axis.imshow(flat.reshape(rows, columns), cmap=style.SEQUENTIAL, vmin=0, vmax=high)
        axis.set_title(f"slot {slot}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
    figure.colorbar(axes[0].images[0], ax=list(axes), label="over an even share", fraction=0.05)
    return Drawing(
        f"slots-by-place-{slug(name)}",
        f"Where in the picture each slot speaks ({arm})",
        "The same by place of the token that is read; the last place is never read.",
        figure,
    )
