"""What is asked of experts and memory together: the arms and the questions of the preset ``hybrid``, as data.

The budget is that of ``moe``: its experts beyond the active ones. ``moe`` is thereby the end of the split at which
nothing lies in memory, ``share-100`` the end at which everything does.
"""

from __future__ import annotations

from vademecum.compare.arms import Arm
from vademecum.compare.questions import Question

EXPERTS = "moe:experts=16,top_k=4"
"""The baseline of experts: fine-grained, several active, balanced."""

BUDGET = 12
MOVE = "move:slots=4"


def _share(percent: int) -> Arm:
    return Arm(
        name=f"share-{percent}",
        kinds=("move", EXPERTS),
        share=percent,
        note=f"about {percent} % of the sparse parameters in MoVE's table, the others in experts",
    )


CORE: tuple[Arm, ...] = (
    Arm(name="dense", note="the host alone"),
    Arm(name="lave", kinds=("lave",), note="a table per layer in the latent"),
    Arm(name="lave-half", kinds=("lave:layers=every2",), note="a table in every second layer"),
    Arm(name="move", kinds=(MOVE,), note="one table of 4 slots, shared by all layers, in the latent"),
    Arm(name="moe", kinds=(EXPERTS,), share=0, note="16 experts, 4 per token; no sparse parameter in memory"),
    Arm(name="move+moe", kinds=(MOVE, EXPERTS), note="both on one host, beyond the budget"),
    Arm(name="lave+moe", kinds=("lave", EXPERTS), note="both on one host, beyond the budget"),
)
SPLIT: tuple[Arm, ...] = (_share(20), _share(40), _share(100))
WIDE = Arm(name="dense-wide", total_like=(MOVE,), note="no memory; feed-forward widened to MoVE's total parameters")
CURVE: tuple[Arm, ...] = (Arm(name="move-2", kinds=("move:slots=2",), note="MoVE with 2 slots"),)


def _ask(*rows: tuple[str, str, str]) -> tuple[Question, ...]:
    return tuple(Question(text=text, arm=arm, against=against) for text, arm, against in rows)


QUESTIONS = _ask(
    ("Does a memory still pay when experts are there?", "move+moe", "moe"),
    ("Do tables per layer still pay when experts are there?", "lave+moe", "moe"),
    ("Do experts pay when a memory is there?", "move+moe", "move"),
    ("Do experts pay alone?", "moe", "dense"),
    ("Does a shared table pay in the latent?", "move", "dense"),
    ("Do tables per layer pay in the latent?", "lave", "dense"),
    ("Are tables in all layers better than in half of them?", "lave", "lave-half"),
    ("Are 4 shared slots better than 2?", "move", "move-2"),
    ("Is a shared table better than one per layer, at equal size?", "move", "lave"),
    ("Is it better in half the layers' size too?", "move-2", "lave-half"),
    ("Is a fifth of the budget in memory better than none?", "share-20", "moe"),
    ("Are two fifths in memory better than none?", "share-40", "moe"),
    ("Is a fifth in memory better than all of it?", "share-20", "share-100"),
    ("Are two fifths in memory better than all of it?", "share-40", "share-100"),
    ("Is all of the budget in memory better than all in experts?", "share-100", "moe"),
    ("Is the memory's size better spent on a table than on width?", "move", "dense-wide"),
)
