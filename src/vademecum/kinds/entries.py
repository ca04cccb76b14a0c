"""Entries: an editable memory. Value rows at exact headwords, for facts that are written, changed and taken out.

``v'[t,h] = v[t,h] + sum_e g_e(x_t) E_{l,e,h}`` over the entries e whose headword, an exact sequence of token ids, ends
at token t (``reach="end"``), or ended at or before it in the same text (``"after"``); ``g_e = prod_c 2 sigmoid(
w_{l,e,c} x + b_{l,e,c})`` over its conditions c. Rows are each layer's own, or one ``E_{e,h}`` is added by all layers,
each with its own gate. A token at which no entry speaks is left as it is, bit for bit. At a headword's end a gate sees
what was said before it, "the capital of France"; after it also what is asked then, "France's capital".
Related in spirit to lookups by hashed n-grams (Engram, arXiv:2601.07372); here keys are exact, so nothing collides.
Parameters: entries x (H*D + conditions x (gate width + 1)) per layer; shared rows are entries x H*D once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.kinds.move import gate_width
from vademecum.memory.base import Built, Kind, Site, require
from vademecum.memory.entries import (
    REACHES,
    ROWS,
    EntryGates,
    EntryRows,
    EntryValues,
    Headwords,
    Spelling,
    spellings_of,
)


@dataclass(frozen=True, kw_only=True)
class Entries(Kind):
    """Value rows at headwords.

    A headword is a sequence of tokens, not a word: it ends inside of every longer word that begins with its tokens, as
    "France" does in "Franceville" where a tokenizer cuts that so. Which headword is the longest is decided within one
    set: of two sets on a model both speak, each by its own longest. With ``reach="after"`` entries speak to the end of
    a row; texts that are packed into one row are refused where ``position_ids`` begin anew in it, and are one text
    where nothing says so.

    Attributes:
        headwords: by entry, the token ids of each of its spellings; the longest spelling that ends at a token counts,
            and entries that share a spelling all speak.
        reach: "end", an entry speaks at the token where its headword ends; "after", at that token and all that follow.
        gate_width: leading channels of the hidden state that an entry's gate reads; None reads all.
        conditions: that must all hold for an entry to speak, each with a gate of its own.
        rows: "per layer", each layer has rows of its own; so facts are written (:func:`vademecum.editing.plan`), since
            the values of each layer have their own scale and heads of their own. "shared", all layers add one row of an
            entry, each with its own gate: fewer parameters, a bank for all layers as MoVE's.
        label: what this set of entries is called; sets on one model are added in the order of their labels.
    """

    headwords: tuple[tuple[Spelling, ...], ...] = (((0,),),)
    reach: str = "end"
    gate_width: int | None = None
    conditions: int = 1
    rows: str = "per layer"
    label: str = ""

    name: ClassVar[str] = "entries"
    title: ClassVar[str] = "Entries at exact headwords"
    paper: ClassVar[str] = "none (after Engram, arXiv:2601.07372)"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "headwords", spellings_of(self.headwords))
        require(
            self.reach in REACHES,
            f"Entries(reach={self.reach!r}) was given; expected {' or '.join(map(repr, REACHES))}.",
        )
        require(
            self.rows in ROWS,
            f"Entries(rows={self.rows!r}) was given; expected {' or '.join(map(repr, ROWS))}.",
        )
        require(
            self.conditions >= 1,
            f"Entries(conditions={self.conditions}) was given; expected 1 or more, such as conditions=1.",
        )

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        shape = site.shape
        width = gate_width(self.gate_width, shape.hidden, "Entries")
        highest = max(one for spellings in self.headwords for spelling in spellings for one in spelling)
        require(
            highest < shape.vocabulary,
            f"Entries has a headword with token id {highest}, but the host has ids 0 to {shape.vocabulary - 1}; make "
            f"headwords with this host's tokenizer.",
        )
        count, shared = len(self.headwords), self.rows == "shared"

        def rows(layer: int) -> EntryRows:
            return EntryRows(count, shape.value_heads * shape.value_dim, dtype=site.dtype, device=site.device(layer))

        def part(layer: int) -> EntryValues:
            gates = EntryGates(count, width, conditions=self.conditions, dtype=site.dtype, device=site.device(layer))
            return EntryValues(None if shared else rows(layer), gates)

        found = Headwords(self.headwords, shape.vocabulary, self.reach, rows(layers[0]) if shared else None)
        return Built({layer: part(layer) for layer in layers}, found)

    @property
    def neutral(self) -> bool:
        return True

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        common = tuple(((one,),) for one in range(1, 61, 2))
        return (
            cls(headwords=(*common, tuple((one, 2) for one in range(61)))),
            cls(headwords=(((3,), (4, 5)), ((4, 5),), *common[:9], ((8, 8), (5,), (6,), (2,))), gate_width=5),
            cls(
                headwords=(((3,), (4, 5)), ((4, 5),), *common[:9], ((8, 8), (5,), (6,), (2,))),
                reach="after",
                conditions=2,
            ),
            cls(headwords=(*common, tuple((one, 2) for one in range(61))), rows="shared", conditions=2),
        )
