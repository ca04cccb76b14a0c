"""One forward's addresses and what travels with them: ordered once, read by every layer.

The base model's pre-hook makes a :class:`Frame`, hands it down as a keyword argument, and drops it when the forward
ends. Everything a layer reports (losses, statistics) is written into the frame under the layer's own key, so that a
layer recomputed under activation checkpointing overwrites its own entry and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Keyword under which the frame travels from the model through the layers to each attention module.
KEYWORD = "memory_frame"
#: Keyword with which a caller who passes ``inputs_embeds`` says which ids the positions stand for.
IDS_KEYWORD = "memory_ids"

#: Steps that a layer leaves for later beyond those that it reads, for a cache that is cut back by as many.
SPARE = 64
#: Tokens of a segment on a GPU, where one that holds many would keep a processor busy after all others are done.
LONGEST = 64


class Segments(NamedTuple):
    """A forward's tokens in the order of their ids, cut where the id changes.

    Attributes:
        order: ``[N]`` the tokens; those of one id keep their order.
        offsets: ``[S + 1]`` where each segment begins in ``order``, and the end; a segment may be empty.
        places: ``[S]`` the row that all tokens of a segment read.
    """

    order: Tensor
    offsets: Tensor
    places: Tensor


def cut(inverse: Tensor, longest: int | None = None) -> Segments:
    """The segments of tokens that read rows ``inverse`` ``[N]``, none longer than ``longest`` tokens.

    There are as many segments as tokens, the last ones empty: a shape that does not depend on the ids.
    """
    rows, order = torch.sort(inverse, stable=True)
    tokens = torch.arange(len(rows), device=rows.device)
    new = F.pad(rows[1:] != rows[:-1], (1, 0), value=True)[: len(rows)]
    if longest is not None:
        begun = torch.where(new, tokens, 0).cummax(0).values
        new = (tokens - begun) % longest == 0
    starts = torch.where(new, tokens, len(rows)).sort().values
    return Segments(order, F.pad(starts, (0, 1), value=len(rows)), rows[starts.clamp(max=len(rows) - 1)])


@dataclass(frozen=True)
class Lookup:
    """Token ids of one forward, deduplicated.

    Attributes:
        ids: ``[B, T]`` token ids.
        unique: ``[U]`` distinct ids, ascending; the only rows that are read.
        inverse: ``[B*T]`` the row that each token reads: the position of its id in ``unique``, or its id itself.
        whole: whether layers read the table itself, and not a copy of its rows ``unique``.
        shared: what was arranged for rows that several layers read; ``vademecum.ops.mix`` keeps it here because it
            is of this forward.
    """

    ids: Tensor
    unique: Tensor
    inverse: Tensor
    whole: bool = False
    shared: list[tuple[Any, ...]] = field(default_factory=list, repr=False)
    _bags: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _moved: dict[torch.device, Lookup] = field(default_factory=dict, repr=False)
    _bounds: tuple[int, int] | None = field(default=None, repr=False)
    _segments: list[Segments] = field(default_factory=list, repr=False)

    @staticmethod
    def of(ids: Tensor) -> Lookup:
        """Deduplicate ``ids`` ``[B, T]``.

        Inside a compiled graph the number of distinct ids is not a shape the compiler can know, and for a single
        token there is nothing to deduplicate: then every position is its own row.
        """
        flat = ids.reshape(-1)
        if torch.compiler.is_compiling() or flat.numel() == 1:
            return Lookup.of_each(ids)
        unique, inverse = torch.unique(flat, return_inverse=True)
        return Lookup(ids, unique, inverse)

    @staticmethod
    def of_each(ids: Tensor) -> Lookup:
        """Every position of ``ids`` ``[B, T]`` has a row of its own."""
        flat = ids.reshape(-1)
        return Lookup(ids, flat, torch.arange(flat.numel(), device=flat.device))._ready()

    def bags(self, slots: int, heads: int) -> Tensor:
        """``[B*T*H, M]``: for token n and head h, the rows of a table ``[U*M*H, D]`` that hold its M slots.

        Built once per forward and shared by all layers, since it depends on the ids alone.
        """
        key = (slots, heads)
        if key not in self._bags:
            at = torch.arange(slots * heads, device=self.inverse.device).view(slots, heads)
            rows = self.inverse[:, None, None] * (slots * heads) + at.t()[None]
            self._bags[key] = rows.reshape(-1, slots)
        return self._bags[key]

    @staticmethod
    def of_table(ids: Tensor) -> Lookup:
        """Addresses ``ids`` ``[B, T]`` in the table itself, for compiled graphs: all shapes are those of ``ids``.

        Nothing is gathered, so that a compiled graph holds no rows but the table's own.
        """
        flat = ids.reshape(-1)
        return Lookup(ids, flat, flat, whole=True)._ready()

    def rows_of(self, table: Tensor) -> Tensor:
        """What ``inverse`` counts in: the rows of ``table`` that are read, ``[U, ...]``, or the table itself."""
        if not self.whole:
            if len(self.unique) == 1 and self._bounds is not None and not torch.is_grad_enabled():
                return table[self._bounds[0] :][:1]  # a token alone: a view of its row, and no gather
            return table[self.unique.to(table.device)]
        if table.is_cuda:
            within = (self.unique >= 0) & (self.unique < len(table))
            torch._assert_async(within.all(), "a token id lies outside the rows of the bank.")
        return table

    @property
    def segments(self) -> Segments:
        """The tokens ordered by id; found once per forward, when a layer first asks, and shared by all layers."""
        if not self._segments:
            self._segments.append(self._cut())
        return self._segments[0]

    def _ready(self) -> Lookup:
        # A compiler does not let a checkpointed layer keep what it found for the next: it is found before them all.
        if torch.compiler.is_compiling():
            self._segments.append(self._cut())
        return self

    def _cut(self) -> Segments:
        order, offsets, places = cut(self.inverse, LONGEST if self.inverse.is_cuda else None)
        if torch.compiler.is_compiling() or self.whole:
            return Segments(order, offsets, places)
        most = len(self.unique) + (len(order) // LONGEST if self.inverse.is_cuda else 0)
        return Segments(order, offsets[: most + 1], places[:most])

    def require_within(self, rows: int) -> None:
        """Raise ValueError for an id that a table of ``rows`` rows does not have; costs one wait for the device."""
        if torch.compiler.is_compiling() or not self.unique.numel():
            return
        if self._bounds is None:
            ends = (self.unique,) * 2 if len(self.unique) == 1 else self.unique.aminmax()
            object.__setattr__(self, "_bounds", (int(ends[0]), int(ends[1])))
        assert self._bounds is not None
        low, high = self._bounds
        if low < 0 or high >= rows:
            raise ValueError(
                f"token id {low if low < 0 else high} was given, but the bank has rows 0 to {rows - 1}; if the host's "
                f"vocabulary grew after attach, save the memory, detach it and load it again: vm.load gives a grown "
                f"host the rows it lacks."
            )

    def on(self, device: torch.device) -> Lookup:
        """This lookup on another device, for hosts that are spread over several; moved once for all layers there."""
        if self.inverse.device == device:
            return self
        if device not in self._moved:
            there = (self.ids.to(device), self.unique.to(device), self.inverse.to(device))
            self._moved[device] = Lookup(*there, whole=self.whole)
        return self._moved[device]


@dataclass
class Frame:
    """What one forward knows and reports.

    Attributes:
        lookup: the addresses, or None when no attached kind is addressed by ids.
        training: whether the host was in training mode.
        recording: whether someone asked for statistics (``vm.record``).
        muted: whether value memories are knocked out (``knocked_out``).
        ids: ``[B*T]`` token ids, or None where embeddings were given without them.
        before: ``[B, n]`` ids of the tokens before, as far as a memory looks back; None where there are none.
        carried: by layer key, what a layer left for later: its own last steps before this forward, ``[B, n, ...]``.
        left: by layer key, what it leaves in this one.
        mask: ``[B*T]`` True where a token is real (not padding), or None when all are.
        positions: ``[B, T]`` or ``[1, T]`` of the tokens in their texts, where the caller said so and it is known which
            of them are real.
        shared: by kind, what was read once for all layers (``[U, ...]``).
        state: by layer key, buffers as they were when the forward began; a recompute must see the same ones.
        losses: by layer key and name, auxiliary losses (scalars, already weighted).
        tallies: by layer key, what buffers learn from after the forward: of experts ``counts`` ``[E]`` assignments and
            mean ``probability`` ``[E]``, of a query's batch norm ``mean`` and ``variance``.
        stats: by layer key, what the layer reports while recording.
        per_token: names of the statistics whose first dimension is the tokens.
        opened: whether a base model has filled the frame.
        summed: whether the model given to ``attach`` will add the losses to the caller's.
        few: whether tokens are few, as in decoding, and there is nothing to differentiate, record or compile.
    """

    lookup: Lookup | None = None
    training: bool = False
    recording: bool = False
    muted: bool = False
    opened: bool = False
    summed: bool = False
    few: bool = False
    ids: Tensor | None = None
    before: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    tallies: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    stats: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    per_token: set[str] = field(default_factory=set)

    def report(self, key: str, *, per_token: Mapping[str, Tensor], once: Mapping[str, Tensor] | None = None) -> None:
        """Write a layer's statistics: ``per_token`` ones begin with the tokens, ``once`` ones do not."""
        self.stats[key] = {name: value.detach() for name, value in {**per_token, **(once or {})}.items()}
        self.per_token |= set(per_token)

    def addresses(self) -> Lookup:
        """The lookup, for parts that cannot do without one."""
        if self.lookup is None:
            raise RuntimeError("a memory addressed by token ids ran in a forward that has no ids.")
        return self.lookup

    def carry(self, key: str, steps: Tensor, back: int) -> Tensor:
        """A layer's steps ``[B, n + T, ...]``: its ``steps`` of this forward and, as far as known, ``back`` before.

        They are left for a later forward, on the cache that stands for these tokens.
        """
        earlier = self.carried.get(key)
        if earlier is not None:
            steps = torch.cat([earlier.to(steps), steps], 1)
        self.left[key] = steps[:, -(back + SPARE) :]
        return steps

    def tokens(self) -> Tensor:
        """``[B, T]`` ids of this forward, -1 where a token is padding."""
        ids = self.addresses().ids
        return ids if self.mask is None else ids.masked_fill(~self.mask.view_as(ids).to(ids.device), -1)

    def known(self, back: int) -> Tensor:
        """``[B, n + T]``: :meth:`tokens`, and at most ``back`` of those before, as far as they are known."""
        ids = self.tokens()
        if self.before is None or not back:
            return ids
        return torch.cat([self.before[:, -back:].to(ids.device), ids], 1)
