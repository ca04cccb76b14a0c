"""Entries: value rows that speak where a headword, an exact sequence of token ids, ends, or from there on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vademecum.history import WHOLE
from vademecum.lookup import Frame
from vademecum.memory.base import Cost, Role, Shared, ValuePart
from vademecum.ops import ngrams

Spelling = tuple[int, ...]
#: From where a headword ends, how far its entries speak: at that token, or at it and all that follow in the text.
REACHES = ("end", "after")
#: Whose rows entries say: each layer its own, or all layers the same.
ROWS = ("per layer", "shared")


class Matches(NamedTuple):
    """Where entries speak in a forward.

    Attributes:
        places: ``[P]`` tokens, numbered through the batch; ascending, one as often as entries speak there.
        entries: ``[P]`` which.
        rows: ``[P, H*D]`` what they say, where it is the same in all layers.
    """

    places: Tensor
    entries: Tensor
    rows: Tensor | None = None


class Headwords(Shared):
    """Finds where headwords end. Of headwords that end at one token the longest counts; all its entries speak.

    Attributes:
        rows: what entries say in all layers; None where each layer has rows of its own.
    """

    def __init__(
        self, headwords: Sequence[Sequence[Spelling]], vocabulary: int, reach: str, rows: EntryRows | None = None
    ) -> None:
        """Make the trie.

        Args:
            headwords: by entry, its spellings; two entries may share one.
            vocabulary: of the host.
            reach: one of :data:`REACHES`.
            rows: that all layers share.
        """
        super().__init__()
        by_spelling: dict[Spelling, list[int]] = {}
        for entry, spellings in enumerate(headwords):
            for spelling in spellings:
                by_spelling.setdefault(spelling, []).append(entry)
        self._trie = ngrams.made(list(by_spelling), vocabulary)
        self.reach, self.rows = reach, rows
        self.looks_back = self._trie.depth - 1 if reach == "end" else WHOLE
        self._named: Named | None = None
        owners = list(by_spelling.values())
        self._counts = torch.tensor([len(own) for own in owners])
        self._starts = self._counts.cumsum(0) - self._counts
        self._owners = torch.tensor([entry for own in owners for entry in own])

    def read(self, frame: Frame) -> Matches | None:
        """Where entries speak in this forward; None where none does."""
        found: Matches | None = self._found(frame)
        if found is None or self.rows is None:
            return found
        table = self.rows.weight
        # Read once for all layers, whose gradients come together here.
        return Matches(found.places, found.entries, table[found.entries.to(table.device)])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _found(self, frame: Frame) -> Matches | None:
        ids, tokens = frame.known(self.looks_back), frame.addresses().ids.shape[1]
        self._trie = self._trie.to(ids.device)
        if self.reach == "end":
            places, entries = self._ends(ids, tokens)
            return Matches(places, entries) if len(places) else None
        before = ids[:, : ids.shape[1] - tokens]
        _require_one_text_a_row(frame)
        # In decoding what came before was looked through a step ago; only what is new is.
        same = (
            self._named is not None and self._named.ids.shape == before.shape and torch.equal(self._named.ids, before)
        )
        earlier = self._named if same and before.shape[1] else None
        asked = tokens if earlier is not None else ids.shape[1]
        places, entries = self._ends(ids[:, max(0, ids.shape[1] - asked - self._trie.depth + 1) :], asked)
        if earlier is not None and not len(places):
            self._named = earlier._replace(ids=ids)
            return _from_there_on(self._named, tokens)
        texts, at = torch.div(places, asked, rounding_mode="floor"), places % asked + ids.shape[1] - asked
        if earlier is not None:
            texts, entries = torch.cat([earlier.texts, texts]), torch.cat([earlier.entries, entries])
            at = torch.cat([earlier.first, at])
        self._named = _first_of(ids, texts, entries, at)
        return _from_there_on(self._named, tokens)

    def _ends(self, ids: Tensor, asked: int) -> tuple[Tensor, Tensor]:
        """Places in ``[B * asked]`` at which headwords end, ascending, and the entries that speak there."""
        places, spellings = ngrams.match(ids, self._trie, asked)
        if not len(places):  # as in most steps of decoding, which is then done
            return places, spellings
        counts, starts = self._counts.to(ids.device)[spellings], self._starts.to(ids.device)[spellings]
        which = torch.arange(len(places), device=ids.device).repeat_interleave(counts)
        within = torch.arange(len(which), device=ids.device) - (counts.cumsum(0) - counts)[which]
        return places[which], self._owners.to(ids.device)[starts[which] + within]

    def cost(self) -> Cost:
        return Cost() if self.rows is None else _one_of(self.rows)


def _require_one_text_a_row(frame: Frame) -> None:
    """Raise ValueError where positions begin anew within a row: entries would speak on in the next text."""
    positions, ids = frame.positions, frame.addresses().ids
    if positions is None or positions.dim() != 2 or positions.shape[1] != ids.shape[1] or ids.shape[1] == 1:
        return
    anew = positions[:, 1:] <= positions[:, :-1]
    if frame.mask is not None:
        real = frame.mask.view_as(ids).to(anew.device)
        anew = anew & real[:, 1:] & real[:, :-1]
    if bool(anew.any()):
        row, place = anew.nonzero()[0].tolist()
        raise ValueError(
            f"position_ids go back at token {place + 1} of row {row}, as where several texts are packed into one row, "
            f"but entries with reach='after' speak to the end of a row; give each text a row of its own."
        )


class Named(NamedTuple):
    """Which entries were named in texts so far, each once, and where first.

    Attributes:
        ids: ``[B, n]`` the texts.
        texts: ``[K]`` which text.
        entries: ``[K]`` which entry.
        first: ``[K]`` the token at which a headword of it ended first.
    """

    ids: Tensor
    texts: Tensor
    entries: Tensor
    first: Tensor


def _first_of(ids: Tensor, texts: Tensor, entries: Tensor, at: Tensor) -> Named:
    """Each entry once in a text, at the first of its places ``at``."""
    if not len(texts):
        return Named(ids, texts, entries, at)
    count = int(entries.max()) + 1
    keys, inverse = torch.unique(texts * count + entries, return_inverse=True)
    first = torch.full_like(keys, ids.shape[1]).scatter_reduce(0, inverse, at, "amin")
    return Named(ids, torch.div(keys, count, rounding_mode="floor"), keys % count, first)


def _from_there_on(named: Named, tokens: int) -> Matches | None:
    """Entries speak at all of the last ``tokens`` tokens that follow where they were first named, and there."""
    if not len(named.first):
        return None
    begin = (named.first - (named.ids.shape[1] - tokens)).clamp_min(0)
    lengths = tokens - begin
    which = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    within = torch.arange(len(which), device=lengths.device) - (lengths.cumsum(0) - lengths)[which]
    places = named.texts[which] * tokens + begin[which] + within
    order = places.argsort(stable=True)
    return Matches(places[order], named.entries[which][order])


class EntryGates(nn.Module):
    """How much an entry says in a context: ``g = prod_c 2 sigmoid(w_{e,c} x + b_{e,c})``, 1 where w and b are zero.

    An entry with several conditions c speaks where all of them hold: what is asked, and of whom.

    Attributes:
        weight: ``[E, C * width]``, an entry's conditions one after another; role ``router``.
        bias: ``[E, C]``.
    """

    role: ClassVar[Role] = Role.ROUTER

    def __init__(
        self, entries: int, width: int, *, conditions: int = 1, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(entries, conditions * width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(entries, conditions, dtype=dtype, device=device))

    def forward(self, hidden: Tensor, entries: Tensor) -> Tensor:
        """``[P]`` for ``hidden`` ``[P, d]`` of the tokens where ``entries`` ``[P]`` speak."""
        weight = self.weight[entries].view(len(entries), self.bias.shape[1], -1)
        logits = (hidden[:, None, : weight.shape[-1]] * weight).sum(-1) + self.bias[entries]
        return (2.0 * torch.sigmoid(logits)).prod(-1)


class EntryRows(nn.Module):
    """What entries say, in one layer or in all.

    Attributes:
        weight: ``[E, H*D]``; role ``bank``.
    """

    role: ClassVar[Role] = Role.BANK

    def __init__(self, entries: int, width: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(entries, width, dtype=dtype, device=device))


class EntryValues(ValuePart):
    """``v' = v + sum_e g_e(x) E_e`` at a token where entries e speak; elsewhere the very value that came.

    Attributes:
        rows: E of this layer alone; None where all layers have the same, which :class:`Headwords` then reads.
    """

    def __init__(self, rows: EntryRows | None, gate: EntryGates) -> None:
        super().__init__()
        self.rows, self.gate = rows, gate

    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        found: Matches | None = frame.shared[self.kind_key]
        if found is None or frame.muted:
            return value
        places, entries = found.places.to(value.device), found.entries.to(value.device)
        gates = self.gate(hidden.flatten(0, -2)[places], entries)
        if frame.recording:
            which, column = torch.unique(entries, return_inverse=True)
            spoken = gates.new_zeros(hidden.shape[:-1].numel(), len(which)).index_put((places, column), gates)
            frame.report(self.key, per_token={"spoken": spoken}, once={"entries": which})
        if self.rows is not None:
            rows = self.rows.weight[entries]
        else:
            assert found.rows is not None, "entries without rows of their own share some"
            rows = found.rows.to(value.device)
        said = gates[:, None] * rows
        return value.flatten(-2).flatten(0, -2).index_add(0, places, said.to(value.dtype)).view_as(value)

    def cost(self) -> Cost:
        return _one_of(self.gate) if self.rows is None else _one_of(self.rows) + _one_of(self.gate)

    def extra_repr(self) -> str:
        return f"entries={len(self.gate.weight)}"


def _one_of(table: nn.Module) -> Cost:
    """Cost of parameters ``[E, ...]`` of which a token reads one entry's."""
    params = list(table.parameters())
    return Cost(
        params=sum(p.numel() for p in params),
        active_params=sum(p.numel() // len(p) for p in params),
        bytes_per_token=sum(p.numel() // len(p) * p.element_size() for p in params),
    )


def spellings_of(given: Any) -> tuple[tuple[Spelling, ...], ...]:
    """Headwords from plain data: lists become tuples.

    Raises:
        ValueError: something in it is no sequence of ids.
    """
    try:
        found = tuple(tuple(tuple(spelling) for spelling in spellings) for spellings in given)
    except TypeError:
        found = ()
    whole = all(type(one) is int and one >= 0 for spellings in found for spelling in spellings for one in spelling)
    if not (found and whole and all(spellings and all(spellings) for spellings in found)):
        raise ValueError(
            f"headwords={given!r} was given; expected by entry the ids of each of its spellings, such as "
            f"[[[4649]], [[703, 1522], [703, 9021]]]."
        )
    for spellings in found:
        if len(set(spellings)) < len(spellings):
            raise ValueError(f"an entry has a spelling twice: {spellings!r}; name each once.")
    return found
