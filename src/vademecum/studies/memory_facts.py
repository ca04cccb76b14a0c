"""Facts about cities as sentences of tokens: what a model has to know by heart, with nothing to find it out from."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vademecum.data.corpus import END, train_tokenizer
from vademecum.data.geonames import City, Land
from vademecum.studies.memory_probe import IGNORED, Batch

#: How a relation is written; the answer and a full stop follow.
PROMPTS: Mapping[str, str] = {
    "country": "{} is a city in the country of",
    "people": "The people of {}, counted in thousands, are",
}


@dataclass(frozen=True)
class Fact:
    """A triple: of ``subject`` the ``relation`` is ``answer``."""

    subject: str
    relation: str
    answer: str

    @property
    def prompt(self) -> str:
        """What comes before the answer."""
        return PROMPTS[self.relation].format(self.subject)

    @property
    def sentence(self) -> str:
        """The whole of it."""
        return f"{self.prompt} {self.answer}."


def facts(lands: Sequence[Land], cities: Sequence[City]) -> list[Fact]:
    """Two facts about every city whose country is among ``lands``: the country, and its people in thousands."""
    names = {land.code: land.name for land in lands}
    found = []
    for city in cities:
        if city.land in names:
            found.append(Fact(city.name, "country", names[city.land]))
            found.append(Fact(city.name, "people", str(max(1, round(city.people / 1000)))))
    return found


def drawn(every: Sequence[Fact], count: int, seed: int) -> list[Fact]:
    """``count`` of the facts; more of one seed hold fewer of it.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= len(every):
        raise ValueError(f"{count} facts were asked for; expected 1 to {len(every)}, which is how many there are.")
    return random.Random(seed).sample(list(every), len(every))[:count]


def guessed(some: Sequence[Fact]) -> int:
    """How many of the facts one gets right by each relation's commonest answer, knowing none."""
    answers: dict[str, Counter[str]] = {}
    for fact in some:
        answers.setdefault(fact.relation, Counter())[fact.answer] += 1
    return sum(max(counts.values()) for counts in answers.values())


@dataclass(frozen=True)
class Sheet:
    """Facts as padded rows of ids, all of which are asked from their prompts.

    Attributes:
        ids: ``[N, T]``: the end-of-text token, prompt, answer, full stop.
        labels: ``[N, T]``, the answer and the full stop; IGNORED elsewhere.
        mask: ``[N, T]``, True where there is a token.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @property
    def rows(self) -> Batch:
        """All of it."""
        return Batch(self.ids, self.labels, self.mask)

    def batch(self, step: int, rows: int, seed: int) -> Batch:
        """Rows of one step: every round goes through all facts once, in an order of its own."""
        count = len(self.ids)
        places = np.arange(step * rows, (step + 1) * rows)
        chosen = [
            np.random.default_rng([seed, int(turn)]).permutation(count)[places[places // count == turn] % count]
            for turn in np.unique(places // count)
        ]
        which = np.concatenate(chosen)
        width = int(self.mask[which].sum(1).max())
        return Batch(self.ids[which, :width], self.labels[which, :width], self.mask[which, :width])


def tokenizer_of(every: Sequence[Fact], vocab_size: int) -> Tokenizer:
    """Byte-level BPE over all sentences, so that names are words to none and a few tokens to all."""
    return train_tokenizer([fact.sentence for fact in every], vocab_size)


def sheet(some: Sequence[Fact], tokenizer: Tokenizer) -> Sheet:
    """``some`` facts as rows, each as long as the longest."""
    end = tokenizer.token_to_id(END)
    assert end is not None, "every tokenizer of this project has it"
    whole = [encoding.ids for encoding in tokenizer.encode_batch([fact.sentence for fact in some])]
    # A token of the tokenizer never spans a space and the word before it, so a prompt's tokens begin its sentence's.
    before = [len(encoding.ids) for encoding in tokenizer.encode_batch([fact.prompt for fact in some])]
    width = 1 + max(map(len, whole))
    ids = np.full((len(some), width), end, dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    mask = np.zeros(ids.shape, dtype=bool)
    for row, (tokens, start) in enumerate(zip(whole, before, strict=True)):
        ids[row, 1 : 1 + len(tokens)] = tokens
        labels[row, 1 + start : 1 + len(tokens)] = tokens[start:]
        mask[row, : 1 + len(tokens)] = True
    return Sheet(ids, labels, mask)
