"""Facts into entries: gates from what the host thinks, rows by gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from vademecum import grafting, hosts
from vademecum.editing.edit import overlays
from vademecum.editing.entries import AsEntries, off
from vademecum.editing.facts import Fact, says
from vademecum.editing.gating import of_whom, what_is_asked
from vademecum.editing.learning import (
    AGAIN,
    FIRST,
    MEASURED,
    TOGETHER,
    Pace,
    answers_to,
    descend,
    kept_steps,
    lessons_of,
    lines_of,
)
from vademecum.editing.locating import tokens_of
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import batches, measures_of
from vademecum.editing.written import Written
from vademecum.memory.base import Built
from vademecum.memory.layers import Layers, chosen_layers

#: Layers that entries speak in at least. In a host of few layers fewer cannot say anything else than the host does.
LEAST = 4


def into_entries(
    model: Any,
    host: hosts.Host,
    tokenizer: Any,
    written: Sequence[Written],
    *,
    layers: Layers | None,
    progress: Callable[[int, int], None] | None,
    stage: Callable[[str], None],
) -> tuple[AsEntries, tuple[Written, ...]]:
    """What entries say for ``written``, and those with the seconds that each took.

    Args:
        model: with its head.
        host: the same, seen through its family's names.
        tokenizer: the model's.
        written: facts with their headwords.
        layers: that entries speak in; the upper fifth where None, :data:`LEAST` at least, in which it is plain what is
            asked and of whom.
        progress: called with how many facts are done, and of how many.
        stage: called with what is being done; gates are found for all facts of one relation at a time.
    """
    begun = time.perf_counter()
    depth, facts = host.shape.layers, [one.fact for one in written]
    upper = range(depth - min(depth, max(LEAST, depth // 5)), depth)
    chosen = tuple(upper) if layers is None else chosen_layers(layers, depth, "plan")
    groups = _groups(facts)
    everything = [*facts, *(fact for other in overlays(model) for fact in other.facts)]
    gates = []
    gate = torch.zeros(len(facts), dtype=torch.long)
    whom_weights = torch.zeros(len(facts), len(chosen), host.shape.hidden, dtype=torch.float16)
    whom_biases = torch.zeros(len(facts), len(chosen))
    for place, own in enumerate(groups):
        stage(f"finding gates, {place + 1} of {len(groups)}")
        same = [facts[number] for number in own]
        gates.append(what_is_asked(model, host, tokenizer, same, everything, chosen))
        weights, biases = of_whom(model, host, tokenizer, same, chosen)
        gate[own], whom_weights[own], whom_biases[own] = place, weights.half().cpu(), biases.cpu()
    content = AsEntries(
        layers=chosen,
        rows=torch.zeros(len(facts), len(chosen), host.shape.value_heads * host.shape.value_dim),
        gate=gate,
        gate_weights=torch.stack([weight for weight, _ in gates]).cpu(),
        gate_biases=torch.stack([bias for _, bias in gates]).cpu(),
        whom_weights=whom_weights,
        whom_biases=whom_biases,
    )
    values = measures_of(model, host, [tokens_of(tokenizer, fact.prompt) for fact in facts[:MEASURED]], chosen)
    # What is done for all of them is shared by all of them.
    looked = (time.perf_counter() - begun) / len(facts)
    looked_at = tuple(dataclasses.replace(one, seconds=one.seconds + looked) for one in written)
    whole = Overlay(made_for={}, written=looked_at, content=content, active=tuple(range(len(facts))))
    stage("learning")
    whole = _learned(model, host, tokenizer, whole, whole.active, values, FIRST, progress)
    missed: Sequence[int] = whole.active
    for pace in AGAIN:
        missed = _missed(model, tokenizer, whole, missed)
        if not missed:
            break
        stage(f"learning again, {len(missed)} of {len(facts)}")
        others = dataclasses.replace(whole, active=tuple(sorted({*whole.active} - {*missed})))
        # What another says in between may be why.
        with others.on(model):
            whole = _learned(model, host, tokenizer, whole, missed, values, pace, None)
    return cast(AsEntries, whole.content), whole.written


def _learned(
    model: Any,
    host: hosts.Host,
    tokenizer: Any,
    overlay: Overlay,
    numbers: Sequence[int],
    values: Sequence[float],
    pace: Pace,
    progress: Callable[[int, int], None] | None,
) -> Overlay:
    """``overlay`` with the rows of facts ``numbers`` learned, some of them side by side at a time."""
    content, written = cast(AsEntries, overlay.content), list(overlay.written)
    rows, blank = content.rows.clone(), dataclasses.replace(content, rows=torch.zeros_like(content.rows))
    for some in batches(model, numbers, TOGETHER):
        begun = time.perf_counter()
        own = dataclasses.replace(overlay, active=tuple(some))
        kind = content.kind(own)

        def prepare(made: Built, own: Overlay = own) -> None:
            for part in made.parts.values():
                part.float()  # rows are learned in fp32, whatever the host computes in
            blank.fill(made, own.order)

        try:
            built = grafting.extend(model, kind, prepare=prepare)
            tables: list[Any] = [built.parts[layer].rows.weight for layer in content.layers]  # type: ignore[union-attr]
            # Rows lie in the order in which entries speak.
            facts = [overlay.written[number].fact for number in own.order]
            lines = [lines_of(tokenizer, fact) for fact in facts]
            kept = kept_steps(model, tokenizer, [prompt for fact in facts for prompt in fact.keep])
            descend(model, host, tables, lines, kept, content.layers[0], values=values, apart=True, pace=pace)
            rows[list(own.order)] = torch.stack([table.detach().cpu() for table in tables], 1)
        finally:
            off(model, kind.label)
        seconds = (time.perf_counter() - begun) / len(some)
        for number in some:
            written[number] = dataclasses.replace(written[number], seconds=written[number].seconds + seconds)
        if progress is not None:
            progress(some[-1] + 1, len(written))
    return dataclasses.replace(overlay, content=dataclasses.replace(content, rows=rows), written=tuple(written))


def _missed(model: Any, tokenizer: Any, overlay: Overlay, among: Sequence[int]) -> list[int]:
    """Numbers of the facts that are not said when all that was learned is on, ``among`` those given."""
    facts = [overlay.written[number].fact for number in among]
    with overlay.on(model):
        said = answers_to(model, tokenizer, facts)
    return [
        number
        for number, fact, answers in zip(among, facts, said, strict=True)
        if not all(says(answers[text], fact.target) for text in lessons_of(tokenizer, fact) if text in answers)
    ]


def _groups(facts: Sequence[Fact]) -> list[list[int]]:
    """Numbers of the facts that share a gate: those of one relation."""
    by_relation: dict[str, list[int]] = {}
    for number, fact in enumerate(facts):
        by_relation.setdefault(fact.relation, []).append(number)
    return list(by_relation.values())
