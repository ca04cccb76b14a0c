"""The numbers of every figure as rows, and their way into CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.inspection import drawing, experts, slots
from vademecum.inspection.coloured import Passage
from vademecum.inspection.words import Words

Rows = Iterator[tuple[Any, ...]]


@dataclass(frozen=True)
class Table:
    """One CSV file: ``name`` without its ending, column names, rows."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def write(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write each table as ``folder/name.csv``; a number that is not finite becomes an empty cell."""
    paths = []
    for table in tables:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows([[_cell(value) for value in row] for row in table.rows])
        paths.append(folder / f"{table.name}.csv")
        files.write_file(paths[-1], out.getvalue())
    return paths


def of_experts(found: experts.Findings, words: Words, passages: Mapping[str, Sequence[Passage]]) -> list[Table]:
    """Every number of the experts' page."""
    return [
        Table("domains", ("layer", "domain", "expert", "share", "even"), list(_domains(found))),
        Table(
            "vocabulary",
            ("layer", "id", "average", "shuffled", "ids"),
            [
                (each.key, name, one and one.average, each.chance[name], len(one.ids) if one else 0)
                for each in found.layers
                for name, one in each.vocabulary.items()
            ],
        ),
        Table(
            "coactivation",
            ("layer", "expert", "with", "share", "even"),
            [
                (each.key, i, j, float(each.coactivation[i, j]), each.even_pair)
                for each in found.layers
                for i in range(each.count)
                for j in range(each.count)
                if i != j
            ],
        ),
        Table("information", _INFORMATION, list(_information(found.layers))),
        Table(
            "repetition",
            ("layer", "share", "chance", "even"),
            [(e.key, e.repetition.share, e.repetition.chance, 1 / e.count) for e in found.layers],
        ),
        Table(
            "saturation",
            ("step", "layer", "saturation", "even"),
            [
                (step, each.key, by_layer[each.key], each.even)
                for step, by_layer in found.saturation.items()
                for each in found.layers
            ],
        ),
        Table("typical", ("layer", "id is", "expert", "token", "id", "share", "count"), list(_typical(found, words))),
        _text(passages, "expert"),
    ]


def of_slots(found: slots.Findings, words: Words, passages: Mapping[str, Sequence[Passage]]) -> list[Table]:
    """Every number of the slots' page."""
    return [
        Table(
            "gates",
            ("layer", "domain", "head", "gate on", "mean gate"),
            [
                (each.key, domain, h, slots.gate_name(m), float(each.gates[d, h, m]))
                for each in found.layers
                for d, domain in enumerate(found.seen.domains)
                for h in range(each.heads)
                for m in range(each.slots + 1)
            ],
        ),
        Table(
            "strongest",
            ("layer", "domain", "slot", "share"),
            [
                (each.key, domain, m, float(each.leads[d, m]))
                for each in found.layers
                for d, domain in enumerate(found.seen.domains)
                for m in range(each.slots)
            ],
        ),
        Table("information", _INFORMATION, list(_information(found.layers))),
        Table(
            "openers",
            ("layer", "head", "gate on", "token", "id", "mean gate", "count"),
            [
                (each.key, h, slots.gate_name(m), words.show(one.id), one.id, one.gate, one.count)
                for each in found.layers
                for h, head in enumerate(each.openers)
                for m, ones in enumerate(head)
                for one in ones
            ],
        ),
        _text(passages, "slot"),
    ]


_INFORMATION = ("layer", "about", "measured", "shuffled", "spread", "difference", "entropy of it", "entropy")


def _domains(found: experts.Findings) -> Rows:
    for each in found.layers:
        for d, domain in enumerate(found.seen.domains):
            for expert in range(each.count):
                yield each.key, domain, expert, float(each.domains[expert, d]), each.even


def _information(layers: Sequence[experts.Layer] | Sequence[slots.Layer]) -> Rows:
    for each in layers:
        for about, one in drawing.told(each).items():
            if one is not None:
                yield (
                    each.key,
                    about,
                    one.measured,
                    one.baseline,
                    one.spread,
                    one.difference,
                    one.label_entropy,
                    one.entropy,
                )


def _typical(found: experts.Findings, words: Words) -> Rows:
    for each in found.layers:
        for name, one in each.vocabulary.items():
            for expert, ones in enumerate(experts.typical(one, each.count)):
                for token in ones:
                    yield each.key, name, expert, words.show(token.id), token.id, token.share, token.count


def _text(passages: Mapping[str, Sequence[Passage]], part: str) -> Table:
    rows = [
        (layer, passage.domain, i, text, label, strength)
        for layer, each in passages.items()
        for passage in each
        for i, (text, label, strength) in enumerate(passage.pieces)
    ]
    return Table("text", ("layer", "domain", "place", "text", part, "strength"), rows)


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
