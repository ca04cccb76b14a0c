"""One fact as it was written, and what was asked of it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vademecum.editing.facts import Fact, says
from vademecum.memory.entries import Spelling

#: What is asked again, in the order in which a journal keeps it; versions before kept fewer of them.
LISTS = ("disturbed", "asked", "moved", "unsaid", "unasked")


@dataclass(frozen=True, kw_only=True)
class Written:
    """One fact as it was written.

    Attributes:
        fact: what.
        spellings: token ids of its headword.
        before: how the model went on before.
        after: how it goes on with the entry.
        unsaid: given paraphrases, and the prompt in given spellings, that it does not answer with the target.
        unasked: those that were never asked, as in a file of before they were.
        disturbed: prompts that were to be kept and go on otherwise.
        asked: prompts that were drawn and asked too (:mod:`vademecum.editing.others`); none where it was not done.
        moved: those of them that begin otherwise.
        seconds: that it took.
    """

    fact: Fact
    spellings: tuple[Spelling, ...]
    before: str
    after: str
    unsaid: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the model, left to itself, says the target, in every way that was given and asked."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """What was given to be answered with the target, and is not."""
        return (*(() if says(self.after, self.fact.target) else (self.fact.prompt,)), *self.unsaid)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "fact": self.fact.to_dict(),
            "spellings": [list(one) for one in self.spellings],
            "before": self.before,
            "after": self.after,
            **{name: list(getattr(self, name)) for name in LISTS},
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, data: dict[str, Any]) -> Written:
        """From plain data; ValueError where it is none of a fact that was written."""
        fact, texts = Fact.of(data["fact"]), {name: tuple(data[name]) for name in LISTS if name in data}
        if "unsaid" not in data:
            texts["unasked"] = _rest(fact)
        if not all(isinstance(one, str) for one in (data["before"], data["after"], *sum(texts.values(), ()))):
            raise ValueError(f"what was said of {fact.prompt!r} is no text")
        spellings = tuple(tuple(one) for one in data["spellings"])
        return cls(**{**data, **texts, "fact": fact, "spellings": spellings})


def said_of(one: Written) -> list[Any]:
    """What was asked of it last, to be kept in a journal."""
    return [one.after, *(list(getattr(one, name)) for name in LISTS)]


def saying(one: Written, after: str, *lists: Sequence[str]) -> Written:
    """``one`` as :func:`said_of` kept it."""
    kept: dict[str, Any] = dict.fromkeys(LISTS, ()) | dict(zip(LISTS, map(tuple, lists), strict=False))
    if len(lists) <= LISTS.index("unsaid"):
        kept["unasked"] = _rest(one.fact)
    return dataclasses.replace(one, after=after, **kept)


def _rest(fact: Fact) -> tuple[str, ...]:
    return tuple(text for text in fact.given if text != fact.prompt)
