"""Facts into rows that the model's own memory has for the tokens of their subjects."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import prompts
from vademecum.editing.edit import overlays
from vademecum.editing.facts import Fact
from vademecum.editing.learning import MEASURED, TOGETHER, Pace, descend, kept_steps, lines_of
from vademecum.editing.locating import clean, tokens_of
from vademecum.editing.overlay import Overlay
from vademecum.editing.reading import measures_of
from vademecum.editing.rows import AsRows, banks_of, digest_of, key_of
from vademecum.editing.written import Written
from vademecum.memory.bank import Bank
from vademecum.memory.layers import Layers
from vademecum.memory.rewrites import Rewrites

#: Other things said of a subject that are held to what the model says, since the same rows are read there.
HELD = 10
#: Rows are read wherever their tokens stand, so they are moved more gently than entries.
PACE = Pace(60, 0.08, 15)


def into_rows(
    model: Any,
    host: hosts.Host,
    tokenizer: Any,
    written: Sequence[Written],
    *,
    layers: Layers | None,
    progress: Callable[[int, int], None] | None,
    stage: Callable[[str], None],
) -> tuple[AsRows, tuple[Written, ...]]:
    """What is laid over rows for ``written``, and those with the seconds that each took.

    Args:
        model: with its head, and a bank.
        host: the same, seen through its family's names.
        tokenizer: the model's.
        written: facts with their headwords.
        layers: None; a row is read by all layers of its memory.
        progress: called with how many facts are done, and of how many.
        stage: called with what is being done.

    Raises:
        ValueError: the model has no bank whose rows can be written, or layers were given.
    """
    banks = banks_of(model)
    if not banks:
        raise ValueError("the model has no bank of rows by token; plan with into='entries', which needs none.")
    if layers is not None:
        raise ValueError("layers were given for rows, which all layers of their memory read; leave layers out.")
    for bank in banks.values():
        Rewrites.on(bank).require_free()
    done = list(written)
    owned = [sorted({spelling[-1] for spelling in one.spellings}) for one in written]
    width = max(map(len, owned))
    ids = torch.tensor([own + [-1] * (width - len(own)) for own in owned])
    every = torch.unique(ids[ids >= 0])
    content = AsRows(
        banks=tuple(banks),
        were={
            key_of(name, number): digest_of(row)
            for name, bank in banks.items()
            for number, row in zip(every.tolist(), Rewrites.on(bank).were(every), strict=True)
        },
        ids=ids,
        differences=tuple(torch.zeros(len(written), width, *bank.row_shape) for bank in banks.values()),
    )
    texts = [tokens_of(tokenizer, one.fact.prompt) for one in written[:MEASURED]]
    values = [statistics.fmean(measures_of(model, host, texts, range(host.shape.layers)))] * len(banks)
    stage("learning")
    for start in range(0, len(written), TOGETHER):
        begun = time.perf_counter()
        numbers = list(range(start, min(start + TOGETHER, len(written))))
        # What came before lies there already, since facts may share a row.
        before = Overlay(made_for={}, written=tuple(written), content=content, active=tuple(range(start)))
        tables = [nn.Parameter(one[numbers].clone()) for one in content.differences]
        with before.on(model), ExitStack() as stack:
            for bank, table in zip(banks.values(), tables, strict=True):
                stack.enter_context(_lent(bank, ids[numbers], table))
            facts = [written[number].fact for number in numbers]
            lines = [lines_of(tokenizer, fact) for fact in facts]
            keep = [text for fact in facts for text in fact.keep] + _said_there(model, ids[numbers])
            kept = kept_steps(model, tokenizer, list(dict.fromkeys(keep)))
            kept += [tokens_of(tokenizer, text) for fact in facts for text in _held(tokenizer, fact)]
            descend(model, host, tables, lines, kept, 0, values=values, keeping=1.0 / HELD, pace=PACE)
        for whole, table in zip(content.differences, tables, strict=True):
            whole[numbers] = table.detach().cpu()
        seconds = (time.perf_counter() - begun) / len(numbers)
        for number in numbers:
            done[number] = dataclasses.replace(done[number], seconds=done[number].seconds + seconds)
        if progress is not None:
            progress(start + len(numbers), len(written))
    return content, tuple(done)


def _said_there(model: Any, ids: Tensor) -> list[str]:
    """Prompts of facts that edits on ``model`` say by the same rows: they are to be kept."""
    found = []
    for other in overlays(model):
        if isinstance(other.content, AsRows):
            shared = torch.isin(other.content.ids, ids[ids >= 0]).any(1)
            found += [other.written[number].fact.prompt for number in other.active if shared[number]]
    return found


def _held(tokenizer: Any, fact: Fact) -> list[str]:
    texts = [text.replace("{}", fact.subject) for text in prompts.contrasts(fact)]
    return [text for text in texts if clean(tokenizer, text, fact.subject)][:HELD]


class _Laid:
    """In the place of a row optimizer's ledger: rows are read with what is being learned over them."""

    def __init__(self, ids: Tensor, table: Tensor) -> None:
        here = ids >= 0
        self._ids, self._places, self._table = ids[here], here.flatten().nonzero()[:, 0], table

    def lend(self, ids: Tensor, rows: Tensor) -> Tensor:
        """``rows`` ``[U, ...]`` of ``ids`` ``[U]``, ascending, and the differences that lie over them."""
        own = self._ids.to(ids.device)
        read = torch.isin(own, ids)
        over = self._table.flatten(0, 1)[self._places[read.cpu()]].to(ids.device)
        return rows.detach().float().index_add(0, torch.searchsorted(ids, own[read]), over)


@contextmanager
def _lent(bank: Bank, ids: Tensor, table: Tensor) -> Iterator[None]:
    there = bank.ledger
    bank.ledger = _Laid(ids, table)  # type: ignore[assignment]
    try:
        yield
    finally:
        bank.ledger = there
