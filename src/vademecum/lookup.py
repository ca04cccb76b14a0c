"""One forward's addresses and what travels with them: ordered once, read by every layer.

The base model's pre-hook makes a :class:`Frame`, hands it down as a keyword argument, and drops it when the forward
ends. Everything a layer reports (losses, statistics) is written into the frame under the layer's own key, so that a
layer recomputed under activation checkpointing overwrites its own entry and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Keyword under which the frame travels from the model through the layers to each attention module.
KEYWORD = "memory_frame"
#: Keyword with which a caller who passes ``inputs_embeds`` says which ids the positions stand for.
IDS_KEYWORD = "memory_ids"


@dataclass(frozen=True)
class Lookup:
    """Token ids of one forward, deduplicated.

    Attributes:
        ids: ``[B, T]`` token ids.
        unique: ``[U]`` distinct ids, ascending; the only rows that are read.
        inverse: ``[B*T]`` position of each token's id in ``unique``.
    """

    ids: Tensor
    unique: Tensor
    inverse: Tensor
    _bags: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(ids: Tensor) -> Lookup:
        """Deduplicate ``ids`` ``[B, T]``.

        Inside a compiled graph the number of distinct ids is not a shape the compiler can know, and for a single
        token there is nothing to deduplicate: then every position is its own row.
        """
        flat = ids.reshape(-1)
        if torch.compiler.is_compiling() or flat.numel() == 1:
            return Lookup(ids, flat, torch.arange(flat.numel(), device=flat.device))
        unique, inverse = torch.unique(flat, return_inverse=True)
        return Lookup(ids, unique, inverse)

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


@dataclass
class Frame:
    """What one forward knows and reports.

    Attributes:
        lookup: the addresses, or None when no attached kind is addressed by ids.
        training: whether the host was in training mode.
        recording: whether someone asked for statistics (``vm.record``).
        muted: whether value memories are knocked out (``knocked_out``).
        mask: ``[B*T]`` True where a token is real (not padding), or None when all are.
        shared: by kind, what was read once for all layers (``[U, ...]``).
        state: by layer key, buffers as they were when the forward began; a recompute must see the same ones.
        losses: by layer key and name, auxiliary losses (scalars, already weighted).
        loads: by layer key, share of assignments per expert ``[E]``.
        stats: by layer key, what the layer reports while recording.
    """

    lookup: Lookup | None = None
    training: bool = False
    recording: bool = False
    muted: bool = False
    opened: bool = False
    mask: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    loads: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def addresses(self) -> Lookup:
        """The lookup, for parts that cannot do without one."""
        if self.lookup is None:
            raise RuntimeError("a memory addressed by token ids ran in a forward that has no ids.")
        return self.lookup
