"""Entries: an editable memory. Value rows at exact headwords, for facts that are written, changed and taken out.

``v'[t,h] = v[t,h] + sum_e g_e(x_t) E_{l,e,h}`` over the entries e whose headword, an exact sequence of token ids, ends
at token t (``reach="end"``), or ended at or before it in the same text (``"after"``); ``g_e = prod_c 2 sigmoid(
w_{l,e,c} x + b_{l,e,c})`` over its conditions c. A token at which no entry speaks is left as it is, bit for bit. At a
headword's end a gate sees what was said before it, "the capital of France"; after it also what is asked then,
"France's capital".
Related in spirit to lookups by hashed n-grams (Engram, arXiv:2601.07372); here keys are exact, so nothing collides.
Parameters: entries x (H*D + conditions x (gate width + 1)) per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.kinds.move import gate_width
from vademecum.memory.base import Built, Kind, Site, require
from vademecum.memory.entries import (
    REACHES,
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
        label: what this set of entries is called; sets on one model are added in the order of their labels.
    """

    headwords: tuple[tuple[Spelling, ...], ...] = (((0,),),)
    reach: str = "end"
    gate_width: int | None = None
    conditions: int = 1
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
        count = len(self.headwords)

        def part(layer: int) -> EntryValues:
            device = site.device(layer)
            rows = EntryRows(count, shape.value_heads * shape.value_dim, dtype=site.dtype, device=device)
            gates = EntryGates(count, width, conditions=self.conditions, dtype=site.dtype, device=device)
            return EntryValues(rows, gates)

        return Built({layer: part(layer) for layer in layers}, Headwords(self.headwords, shape.vocabulary, self.reach))

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
        )
