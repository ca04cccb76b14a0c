"""What goes wrong with experts and with slots, and what cures it: the study ``collapse``.

Experts that get few tokens learn little and then get fewer (Shazeer et al., arXiv:1701.06538, section 4): without
balancing a few take all. Slots that are softly mixed cannot die that way, but they can blur into one average: equal
gates give equal gradients. Both are shown over training, each beside what is said to cure it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.compare import commands, runner
from vademecum.compare.arms import Arm
from vademecum.compare.plan import Plan
from vademecum.studies import page, series
from vademecum.studies.groups import Group, Measure
from vademecum.studies.series import QUALITY
from vademecum.training import Recipe

COMPARISON = "compare"
"""Folder of the comparison that a study runs, inside the study's own."""


_EXPERTS = "moe:experts=16,top_k=2,capacity=1.25"

EXPERTS = Group(
    name="experts",
    title="Experts",
    about="The same mixture of 16 experts, two per token, room for 1.25 times an even share, balanced in no way, by a "
    "loss, or by a bias. An expert that gets little learns little, and then gets less.",
    reference="unbalanced",
    arms=(
        Arm(name="unbalanced", kinds=(f"{_EXPERTS},balance=None",), note="no balancing"),
        Arm(name="aux", kinds=(f"{_EXPERTS},balance=aux",), note="auxiliary loss, weight 0.01 (Switch, equation 4)"),
        Arm(
            name="bias",
            kinds=(f"{_EXPERTS},balance=bias",),
            note="a bias on the choice, no loss (arXiv:2408.15664)",
        ),
    ),
    measures=(
        Measure(
            "load_entropy",
            "load entropy",
            "Load entropy over ln E (1: even)",
            "less even load",
            "more even load",
            "high",
        ),
        Measure("max_violation", "MaxVio", "MaxVio (0: even)", "less overload", "more overload", "low"),
        Measure("dead", "dead experts", "Dead experts of 16", "fewer dead experts", "more dead experts", "low", 0),
        Measure("dropped", "drop rate", "Drop rate in training", "fewer drops", "more drops", "low", 0),
        Measure("router_entropy", "router entropy", "Router entropy, nats", "surer routers", "less sure routers"),
        Measure(QUALITY, "bits per byte", "Held-out bits per byte", "better text", "worse text", "low"),
    ),
    caption="Each line is a mean over seeds and layers, its band reaches from the lowest seed to the highest. Load is "
    "counted on held-out tokens without a limit on room, drops with the limit that training has.",
)

_SLOTS = "move:slots=8"

SLOTS = Group(
    name="slots",
    title="Slots",
    about="The same bank of 8 slots per token id with different starts. A soft mix has no dead slots, but slots "
    "that are read with equal gates receive equal gradients, and blur into one.",
    reference="plain",
    arms=(
        Arm(name="plain", kinds=(f"{_SLOTS},gate_std=1,selectivity=0",), note="random gates (std 1), an empty bank"),
        Arm(
            name="selective",
            kinds=(f"{_SLOTS},gate_std=1,selectivity=0.1",),
            note="the same, and a loss on the cosine between two gated rows at a token",
        ),
        Arm(name="wide", kinds=(f"{_SLOTS},gate_std=3,selectivity=0",), note="wider random gates (std 3)"),
        Arm(
            name="equal",
            kinds=(f"{_SLOTS},gate_std=0,bank_std=0.1,selectivity=0",),
            note="all gates equal at the start, as in the paper, and a random bank (std 0.1)",
        ),
        Arm(
            name="blurred",
            kinds=(f"{_SLOTS},gate_std=0,bank_std=0.001,selectivity=0",),
            note="all gates equal at the start, and a bank whose slots all but agree (std 0.001)",
        ),
    ),
    measures=(
        Measure("effective", "effective slots", "Effective slots of 8", "fewer slots", "more slots", "high"),
        Measure(
            "similarity", "similarity", "Similarity of two slots", "slots more different", "slots more alike", "low"
        ),
        Measure("gate_entropy", "gate entropy", "Gate entropy over ln M", "gates choose more", "gates choose less"),
        Measure(
            "gate_distance",
            "distance of gates from 1",
            "Mean |gate \u2212 1|",
            "gates nearer to 1",
            "gates further from 1",
        ),
        Measure("coverage", "coverage", "Coverage", "fewer slots in use", "more slots in use", "high", 0, 1.05),
        Measure(QUALITY, "bits per byte", "Held-out bits per byte", "better text", "worse text", "low"),
    ),
    caption="Each line is a mean over seeds and layers, its band reaches from the lowest seed to the highest. "
    "Coverage counts pairs that give at least 1 % of an even share of what the memory adds in that head.",
)

GROUPS = (EXPERTS, SLOTS)
"""What the study shows, in reading order."""

_SMALL = Plan(
    data=("factbook",),
    arms=(Arm(name="dense", note="the host alone"), *(arm for group in GROUPS for arm in group.arms)),
    seeds=(0, 1, 2),
    size=2,
    vocab_size=2048,
    prompts=0,
    heldout_tokens=60_000,
    recipe=Recipe(
        steps=300, batch=8, length=128, eval_every=20, eval_tokens=10_000, checkpoint_every=150, keep=1, seed=0
    ),
)

PRESETS: Mapping[str, Plan] = {
    "smoke": dataclasses.replace(
        _SMALL,
        seeds=(0, 1),
        size=2,
        vocab_size=512,
        chunk=4,
        heldout_tokens=2048,
        recipe=Recipe(
            steps=8, batch=2, length=32, eval_every=4, eval_tokens=512, watch_tokens=256, checkpoint_every=4, keep=1
        ),
    ),
    "small": _SMALL,
    "full": dataclasses.replace(
        _SMALL,
        seeds=(0, 1, 2, 3, 4),
        size=4,
        recipe=dataclasses.replace(_SMALL.recipe, steps=600, eval_every=50, checkpoint_every=200),
    ),
}
"""Sizes of the study: ``small`` takes about a quarter of an hour on two cores."""


def plan_of(
    preset: str = "small",
    *,
    seeds: int | None = None,
    data: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    """A preset with what is given changed; None leaves the preset's value. Evaluations keep their share of the steps.

    Raises:
        ValueError: an unknown preset or a wrong setting.
    """
    return commands.plan_of(
        preset, seeds=seeds, data=(data,) if data else None, recipe=recipe, presets=PRESETS, **changes
    )


def run(
    plan: Plan, out: Path, *, command: str = "", fall_back: bool = False, echo: Callable[[str], None] = print
) -> Path:
    """Run or go on with the study in ``out``: ``report.html``, ``figures/``, ``collapse.csv``, ``compare/``.

    Raises:
        ValueError: the folder holds the study with other settings.
        KeyboardInterrupt: Ctrl-C; everything is saved and the same command goes on.
    """
    runner.run(plan, out / COMPARISON, command=command, fall_back=fall_back)
    return draw(plan, out, command=command, echo=echo)


def draw(plan: Plan, out: Path, *, command: str = "", echo: Callable[[str], None] = print) -> Path:
    """Write CSV, figures and page from the finished runs in ``out``; returns the page's path."""
    found = series.read(plan, out / COMPARISON)
    files.write_file(out / "collapse.csv", series.table(found))
    path = page.write(plan, found, GROUPS, out, command=command, comparison=f"{COMPARISON}/report.html")
    for group in GROUPS:
        for sentence in page.sentences(found, group):
            echo(sentence)
    echo(f"\nReport: {path}")
    return path
