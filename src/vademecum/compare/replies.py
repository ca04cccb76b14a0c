"""The section of the page that answers the questions of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from vademecum.compare import questions, stats
from vademecum.compare.drawing import Results
from vademecum.compare.questions import Answer
from vademecum.pages import page
from vademecum.pages.drawing import Drawing

_CLASSES = {stats.BETTER: "better", stats.WORSE: "worse"}

NOTE = (
    "Each is the paired difference of two arms in held-out bits per byte, over the seeds both have, with its 95 % "
    "interval. Yes and no need an interval that excludes zero. Several questions are asked, and the intervals are not "
    "widened for that."
)


def section(results: Results, drawings: Mapping[str, Sequence[Drawing]]) -> str:
    """The questions with their answers, source by source, each source with its ``drawings``; empty without any."""
    answers = questions.read(results)
    if not answers:
        return ""
    blocks = []
    for data in dict.fromkeys(answer.data for answer in answers):
        table = _table([answer for answer in answers if answer.data == data])
        blocks.append(f"<h3>{escape(data)}</h3>{table}{page.figures(drawings.get(data, ()))}")
    return f'<section id="asked"><h2>What was asked</h2><p class="note">{NOTE}</p>{"".join(blocks)}</section>'


def _table(answers: Sequence[Answer]) -> str:
    names = ("arm", "against", "answer")
    head = "".join(f'<th scope="col" class="words">{name}</th>' for name in names)
    lines = "".join(
        f'<tr><td>{escape(each.text)}</td><td class="words">{escape(each.arm)}</td>'
        f'<td class="words">{escape(each.against)}</td>'
        f'<td class="words"><span class="{_CLASSES.get(each.verdict, "none")}">{escape(each.sentence)}</span></td></tr>'
        for each in answers
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">question</th>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
