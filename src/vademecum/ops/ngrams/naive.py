"""The specification of :mod:`vademecum.ops.ngrams`."""

from __future__ import annotations

from collections.abc import Sequence


def match(ids: Sequence[Sequence[int]], patterns: Sequence[Sequence[int]], tokens: int) -> list[tuple[int, int]]:
    """``(token, pattern)`` of the longest pattern that ends at each of a text's last ``tokens`` tokens.

    Args:
        ids: token ids by text, all as long; a negative id is no token and matches nothing.
        patterns: distinct sequences of ids.
        tokens: how many tokens of each text are asked about; those before are what came earlier.

    Returns:
        Tokens are numbered through the texts, ``text * tokens + place``, and come in that order.
    """
    found = []
    for b, text in enumerate(ids):
        for place in range(tokens):
            end = len(text) - tokens + place + 1
            ending = [
                (len(pattern), number)
                for number, pattern in enumerate(patterns)
                if len(pattern) <= end and list(text[end - len(pattern) : end]) == list(pattern)
            ]
            if ending:
                found.append((b * tokens + place, max(ending)[1]))
    return found
