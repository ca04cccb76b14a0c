"""What the study ``editing`` draws from: a host, what is true and what the host says of it, and plain text."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vademecum import data
from vademecum.data.geonames import City, Land
from vademecum.editing.reading import as_it_was, greedy
from vademecum.studies import editing_records
from vademecum.studies.editing_records import Record
from vademecum.studies.editing_scores import Texts

#: Facts that settings are chosen on, and the seed of their draw, which no study has.
TUNING, DRAWN = 24, 1_000_003
#: Words of a passage, and passages of each sort.
WORDS, PASSAGES = 80, 8


@dataclass(frozen=True)
class World:
    """The host, what is true, what the host says of it, and passages of plain text.

    Attributes:
        host: with its head, as it was before anything is written.
        tokenizer: the host's.
        lands: countries.
        said: by truth, how the host goes on when it is asked for it.
        passages: of an encyclopedia and a factbook, all of one length.
    """

    host: Any
    tokenizer: Any
    lands: Sequence[Land]
    said: Mapping[editing_records.Truth, str]
    passages: Sequence[str]

    @classmethod
    def asked(cls, host: Any, tokenizer: Any, lands: Sequence[Land], cities: Sequence[City]) -> World:
        """All that is true is asked for once."""
        truths = editing_records.truths(lands, cities)
        with as_it_was(host):
            said = greedy(host, tokenizer, [editing_records.asked_for(truth) for truth in truths], 5)
        documents = [*data.sources()["wikipedia"].documents(), *data.sources()["factbook"].documents()]
        return cls(host, tokenizer, lands, dict(zip(truths, said, strict=True)), passages_of(documents))

    def records(self, count: int, seed: int) -> list[Record]:
        """The facts that are measured; none of a subject that settings were chosen on."""
        apart = {record.fact.subject for record in self.tuning}
        return editing_records.made(self.lands, self.said, count=count, seed=seed, without=apart)

    @cached_property
    def tuning(self) -> list[Record]:
        """The facts that settings are chosen on."""
        return editing_records.made(self.lands, self.said, count=TUNING, seed=DRAWN)

    def without(self, seed: int) -> tuple[str, ...]:
        """Passages in which no subject at all is found, as a word or within one."""
        subjects = list(dict.fromkeys(subject for _, subject, _ in self.said))
        return self._some(lambda text: not any(subject in text for subject in subjects), seed)

    def texts(self, plain: tuple[str, ...], records: Sequence[Record], seed: int) -> Texts:
        """``plain`` passages, and others that name a subject of ``records``."""
        named = re.compile(rf"\b(?:{'|'.join(re.escape(record.fact.subject) for record in records)})\b")
        return Texts(plain, self._some(lambda text: named.search(text) is not None, seed))

    def _some(self, chosen: Callable[[str], bool], seed: int) -> tuple[str, ...]:
        shuffled = random.Random(seed).sample(self.passages, len(self.passages))
        return tuple(itertools.islice(filter(chosen, shuffled), PASSAGES))


def passages_of(documents: Sequence[Any]) -> list[str]:
    """Documents cut into passages of :data:`WORDS` words; what is left over is not used."""
    found = []
    for document in documents:
        words = document.text.split()
        found += [" ".join(words[start : start + WORDS]) for start in range(0, len(words) - WORDS + 1, WORDS)]
    return found
