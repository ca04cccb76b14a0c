"""How the study ``locality`` reads: trained models over real held-out text, parameters in a file, a bounded cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vademecum import data, files
from vademecum.experts import offloaded
from vademecum.experts.mixture import ExpertMixture
from vademecum.stores.cache import ENTRY
from vademecum.stores.disk import Disk
from vademecum.studies.locality_points import BANK, ONE, PER_LAYER, RESIDENT, TOTAL, Point
from vademecum.surgery import memories, record
from vademecum.training import commands

Ids = NDArray[np.int64]
#: Experts that a window's tokens chose, of every layer.
Choices = list[list[int]]
#: Tokens that every model reads after its cache was filled and before it is measured, since a first call takes longer.
RUN_UP = 8


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way of reading text.

    Attributes:
        name: what it is called.
        title: in words.
        sequences: texts that are read side by side.
        whole: whether a passage is read in one forward, or token by token with a key-value cache.
        cold: whether the system forgets what it has read of the file, so that every read is of the disk.
    """

    name: str
    title: str
    sequences: int = 1
    whole: bool = False
    cold: bool = False


MODES = (
    Mode(name="decode", title="token by token, one text"),
    Mode(name="decode-8", title="token by token, eight texts side by side", sequences=8),
    Mode(name="prefill", title="eight passages in one forward", sequences=8, whole=True),
    Mode(name="decode-cold", title="token by token, one text, every read from the disk", cold=True),
)
"""What is measured."""


class Cold(Disk):
    """A table whose file the system is told to forget after every read."""

    def _pread(self, view: memoryview, offset: int) -> None:
        size = len(view)
        super()._pread(view, offset)
        if hasattr(os, "posix_fadvise"):
            # Only whole pages are forgotten, so those that a row begins and ends in are named whole.
            start = offset - offset % os.sysconf("SC_PAGE_SIZE")
            os.posix_fadvise(self._file, start, offset + size - start, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Text:
    """What one seed reads.

    Attributes:
        warm: ``[windows, length]`` ids that fill the caches, as if each were read in one forward.
        passages: ``[passages, sequences, length]`` ids that are measured.
    """

    warm: Ids
    passages: Ids

    def most_rows(self, mode: Mode) -> int:
        """Distinct ids of the forward that has most of them, as ``mode`` reads the passages."""
        forwards = self.passages if mode.whole else np.moveaxis(self.passages, -1, 1).reshape(-1, mode.sequences)
        return max(len(np.unique(forward)) for forward in forwards)


def text_of(heldout: NDArray[Any], mode: Mode, *, length: int, passages: int, warm: int, part: float) -> Text:
    """Held-out text for one seed: what comes first fills the caches, what follows it is measured.

    Texts side by side begin at places spread over what is left; ``part``, from 0 to 1, moves all of it on.

    Raises:
        ValueError: there is less text than that.
    """
    windows = data.heldout_windows(heldout, length)[:, :-1]
    apart = (len(windows) - warm) // mode.sequences
    if apart < passages:
        raise ValueError(
            f"the held-out text has {len(windows)} windows of {length} tokens, and {warm} + {mode.sequences} x "
            f"{passages} are read; take a larger text, or a smaller preset."
        )
    begin = int(part * len(windows))
    at = begin + warm + apart * np.arange(mode.sequences)[None, :] + np.arange(passages)[:, None]
    return Text(windows[(begin + np.arange(warm)) % len(windows)], windows[at % len(windows)])


@dataclass
class Reader:
    """A model, and what it has read so far.

    ``seen`` gives rows or experts asked for, those missed, bytes moved, and bytes held now.
    """

    name: str
    budget: float
    budget_bytes: int
    rest_bytes: int
    offloaded_bytes: int
    item_bytes: int
    model: nn.Module
    seen: Callable[[], tuple[int, int, int, int]]
    fill: Callable[[Ids, Sequence[Choices]], None] = lambda windows, choices: None
    close: Callable[[], None] = lambda: None
    tokens: int = 0
    seconds: float = 0.0
    start: tuple[int, int, int, int] = (0, 0, 0, 0)

    def begin(self) -> None:
        """Count from here on."""
        self.start = self.seen()

    def read(self, ids: Ids, mode: Mode) -> None:
        """Read ``ids`` ``[sequences, length]``."""
        given = torch.from_numpy(ids.astype(np.int64))
        begun = time.perf_counter()
        (read_whole if mode.whole else read_by_token)(self.model, given)
        self.seconds += time.perf_counter() - begun
        self.tokens += ids.size

    def point(self, *, seed: int, pair: str, mode: str) -> Point:
        """What was counted."""
        asked, missed, moved = (now - before for now, before in zip(self.seen()[:3], self.start[:3], strict=True))
        return Point(
            seed=seed,
            pair=pair,
            mode=mode,
            reader=self.name,
            budget=self.budget,
            budget_bytes=self.budget_bytes,
            rest_bytes=self.rest_bytes,
            offloaded_bytes=self.offloaded_bytes,
            item_bytes=self.item_bytes,
            tokens=self.tokens,
            asked=asked,
            missed=missed,
            moved=moved,
            held=self.seen()[3],
            seconds=self.seconds,
        )


@torch.no_grad()
def read_by_token(model: nn.Module, ids: Tensor) -> None:
    """Feed ``ids`` ``[sequences, length]`` one position after the other, as if this text were generated."""
    cache = None
    for at in range(ids.shape[1]):
        cache = model(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True).past_key_values


@torch.no_grad()
def read_whole(model: nn.Module, ids: Tensor) -> None:
    """Feed ``ids`` ``[sequences, length]`` at once."""
    model(input_ids=ids, use_cache=True)


@dataclass(frozen=True)
class Tables:
    """Where the parameters of one pair at one seed lie.

    Attributes:
        bank_run: run of the model with the bank.
        experts_run: run of the model with experts.
        experts: file of the experts.
    """

    bank_run: Path
    experts_run: Path
    experts: Path

    def whole(self) -> int:
        """Bytes that it takes to keep the larger of both in memory, bookkeeping included."""
        both = _bank(self.bank_run), Disk(self.experts, offloaded.TENSOR, cap=0)
        return max(table.rows * (table.row_bytes + ENTRY) for table in both)

    def rests(self) -> tuple[int, int]:
        """Bytes of the parameters that stay in memory: of the model with the bank, and of that with experts."""
        with_bank, _, _ = commands.load(self.bank_run, bank="disk", bank_cap=0)
        with_experts, _, _ = commands.load(self.experts_run)
        offloaded.offload(with_experts, Disk(self.experts, offloaded.TENSOR, cap=0), self.whole())
        return _in_memory(with_bank), _in_memory(with_experts)


def prepare(bank_run: Path, experts_run: Path, folder: Path) -> Tables:
    """Write the experts of ``experts_run`` into ``folder``, where they are not there yet."""
    if not folder.is_dir():
        model, _, _ = commands.load(experts_run)
        files.write_folder(folder, lambda aside: offloaded.write(model, aside / "experts.safetensors"))
    files.verify_folder(folder)
    return Tables(bank_run, experts_run, folder / "experts.safetensors")


def readers(tables: Tables, mode: Mode, budgets: Sequence[float], rows: int) -> Iterator[Reader]:
    """Every way to read a pair: both models in memory, and within every budget.

    Args:
        tables: where they lie.
        mode: how text will be read.
        budgets: shares of :meth:`Tables.whole`; both models get the same bytes, and experts once more those too that
            the model with the bank keeps beside it.
        rows: of the bank, that one forward works on beside the cache.
    """
    whole, (with_bank, with_experts) = tables.whole(), tables.rests()
    more = {ONE: 0, PER_LAYER: 0, TOTAL: max(0, with_bank - with_experts)}
    yield _resident_bank(tables, with_bank)
    yield _resident_experts(tables, with_experts)
    for budget in budgets:
        size = int(budget * whole)
        found = [_bank_reader(tables, mode, budget, size, with_bank, rows)]
        found += [
            _experts_reader(tables, mode, name, budget, size + extra, with_experts) for name, extra in more.items()
        ]
        yield from (reader for reader in found if reader is not None)


@torch.no_grad()
def choices(tables: Tables, windows: Ids) -> list[Choices]:
    """What the trained routers choose on every window, read in one forward."""
    model, _, _ = commands.load(tables.experts_run)
    keys = [module.key for module in model.modules() if isinstance(module, ExpertMixture)]
    found = []
    for window in windows:
        with record(model) as seen:
            read_whole(model, torch.from_numpy(window[None].astype(np.int64)))
        found.append([np.unique(seen.all(key, "experts").numpy()).tolist() for key in keys])
    return found


def measure(
    found: Sequence[Reader],
    text: Text,
    mode: Mode,
    chosen: Sequence[Choices],
    told: Callable[[], None] = lambda: None,
) -> None:
    """Fill all caches, then let all read every passage in turn.

    Args:
        found: what reads.
        text: what is read.
        mode: how.
        chosen: :func:`choices` on the text that fills the caches. What it asks for is known, so nothing is computed.
        told: called after each piece of work.
    """
    for reader in found:
        reader.fill(text.warm, chosen)
        reader.read(text.warm[-1:, :RUN_UP], mode)
        reader.tokens, reader.seconds = 0, 0.0
        reader.begin()
        told()
    for number, passage in enumerate(text.passages):
        first = number % len(found)
        for reader in (*found[first:], *found[:first]):
            reader.read(passage, mode)
            told()


def _bank(run: Path) -> Disk:
    """The bank of a run, where its checkpoint keeps it."""
    model, _, _ = commands.load(run, bank="disk", bank_cap=0)
    return _store(model)


def _store(model: nn.Module) -> Disk:
    banks = list(memories(model).banks().values())
    store = banks[0].store if len(banks) == 1 else None
    if not isinstance(store, Disk):
        raise ValueError(f"a model with one bank on disk was expected, and this one has {len(banks)} banks.")
    return store


def _in_memory(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if not p.is_meta)


def _resident_bank(tables: Tables, rest: int) -> Reader:
    model, _, _ = commands.load(tables.bank_run, bank="device")
    bank = _bank(tables.bank_run)
    return Reader(BANK, RESIDENT, 0, rest, bank.nbytes, bank.row_bytes, model, lambda: (0, 0, 0, bank.nbytes))


def _resident_experts(tables: Tables, rest: int) -> Reader:
    model, _, _ = commands.load(tables.experts_run)
    table = Disk(tables.experts, offloaded.TENSOR, cap=0)
    return Reader(ONE, RESIDENT, 0, rest, table.nbytes, table.row_bytes, model, lambda: (0, 0, 0, table.nbytes))


def _bank_reader(tables: Tables, mode: Mode, budget: float, size: int, rest: int, rows: int) -> Reader | None:
    """None where a budget has not room for the rows of a forward, in the cache and beside it."""
    model, _, _ = commands.load(tables.bank_run, bank="disk", bank_cap=0)
    plain = _store(model)
    working = rows * plain.row_bytes
    if size - working < working:
        return None
    store = (Cold if mode.cold else Disk)(plain.path, plain.name, cap=size - working)
    next(iter(memories(model).banks().values())).put(store)

    def seen() -> tuple[int, int, int, int]:
        cache = store.cache
        return cache.hits + cache.misses, cache.misses, store.bytes_read, store.resident_bytes + working

    def fill(windows: Ids, choices: Sequence[Choices]) -> None:
        for window in windows:
            store.gather(torch.from_numpy(np.unique(window).astype(np.int64)))

    return Reader(BANK, budget, size, rest, store.nbytes, store.row_bytes, model, seen, fill, store.close)


def _experts_reader(tables: Tables, mode: Mode, name: str, budget: float, size: int, rest: int) -> Reader | None:
    """None where a budget has not room for one expert (of every layer)."""
    model, _, _ = commands.load(tables.experts_run)
    table = (Cold if mode.cold else Disk)(tables.experts, offloaded.TENSOR, cap=0)
    try:
        caches = offloaded.offload(model, table, size, per_layer=name == PER_LAYER)
    except ValueError:
        return None

    def seen() -> tuple[int, int, int, int]:
        hits, misses = sum(each.hits for each in caches), sum(each.misses for each in caches)
        return hits + misses, misses, table.bytes_read, sum(each.nbytes for each in caches)

    layers = [each.dispatch for each in offloaded.experts_of(model)]

    def fill(windows: Ids, choices: Sequence[Choices]) -> None:
        for chosen in choices:
            for layer, numbers in zip(layers, chosen, strict=True):
                assert isinstance(layer, offloaded.Offloaded)
                layer.visit(numbers)

    return Reader(name, budget, size, rest, table.nbytes, table.row_bytes, model, seen, fill, table.close)
