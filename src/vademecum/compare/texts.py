"""The texts a comparison really reads, which may be fewer and others than were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vademecum import data
from vademecum.compare.plan import Plan


@dataclass(frozen=True)
class Texts:
    """What was read.

    ``corpora`` and ``names`` (what results call them) are by the source that was asked for; ``notes`` are sentences on
    what is not as it was asked for.
    """

    corpora: Mapping[str, data.Corpus]
    names: Mapping[str, str]
    notes: tuple[str, ...]


def read_texts(plan: Plan) -> Texts:
    """Prepare every source of ``plan``; one whose text another source already gave is left out."""
    corpora: dict[str, data.Corpus] = {}
    notes, known = [], data.sources()
    for source in plan.data:
        corpus = data.prepare(source, vocab_size=plan.vocab_size)
        if source in known and corpus.name != source:
            notes.append(f"{source} could not be had: {corpus.name} was read in its place.")
        twin = next((name for name, other in corpora.items() if other.key == corpus.key), None)
        if twin is None:
            corpora[source] = corpus
        else:
            notes.append(f"{source} gave the same text as {twin} and is left out.")
    called = [corpus.name for corpus in corpora.values()]
    names = {s: corpus.name if called.count(corpus.name) == 1 else s for s, corpus in corpora.items()}
    return Texts(corpora, names, tuple(notes))
