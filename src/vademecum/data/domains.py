"""Tokens of the seven domains in any tokenizer, for asking a trained model what it does with each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vademecum.data.corpus import split
from vademecum.data.readers import Document
from vademecum.data.sources import sources


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DomainTokens:
    """Text of one domain as ``ids`` ``[n]``: END, document, END, ...; the first ``heldout`` of them are held out.

    Held out means: in no training batch of ``--data domains``. A model that was trained on one of the domains' sources
    as a whole may have seen them.
    """

    ids: NDArray[np.int64]
    heldout: int


def domain_tokens(
    tokenizer: Tokenizer, end: int, *, per_domain: int = 20_000, cache: Path | None = None
) -> dict[str, DomainTokens]:
    """Up to ``per_domain`` tokens of each domain: the held-out documents first, then training documents.

    Args:
        tokenizer: the model's.
        end: id of the token between documents.
        per_domain: tokens wanted; a domain with less text gives what it has.
        cache: folder of fetched data; the user's cache where None.

    Raises:
        ValueError: ``per_domain`` is below 2.
        Unavailable: a domain's source cannot be fetched here.
    """
    if per_domain < 2:
        raise ValueError(f"per_domain={per_domain} was given; expected 2 or more tokens from each domain.")
    groups = sources()["domains"].groups(cache)
    return {name: cut(group, tokenizer, end, per_domain) for name, group in groups.items()}


def cut(documents: Sequence[Document], tokenizer: Tokenizer, end: int, count: int) -> DomainTokens:
    """Up to ``count`` tokens of one domain's documents, those first that ``split`` holds out."""
    train, heldout = split(documents)
    ids, held = [end], 0
    for side in (heldout, train):
        for document in side:
            if len(ids) < count:
                ids += [*tokenizer.encode(document.text, add_special_tokens=False).ids, end]
        held = held or min(len(ids), count)
    return DomainTokens(ids=np.array(ids[:count], dtype=np.int64), heldout=held)
