"""Token ids that are spelled alike are one: a table from ids to fewer ids, made from a tokenizer."""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(text: str) -> str:
    """``text`` without what rarely matters: compatibility forms, accents, case, runs of space.

    NFKC, then NFD without combining marks, then lower case, then each run of white space as one space; space at the
    ends goes, but a text of nothing else stays one space.
    """
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = "".join(one for one in text if unicodedata.category(one) != "Mn").lower()
    text = re.sub(r"\s+", " ", text)
    return text.strip() or text


def alike(tokenizer: Any) -> list[int]:
    """The compressed id of each token id of ``tokenizer``, numbered in the order of their first appearance.

    Ids that stand for no whole character, or for no text, stay apart.
    """
    seen: dict[str, int] = {}
    found = []
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number])
        key = plain(text)
        if not key or "\N{REPLACEMENT CHARACTER}" in text or number in tokenizer.all_special_ids:
            key = f"\0{number}"  # no text begins with it
        found.append(seen.setdefault(key, len(seen)))
    return found


def pack(numbers: list[int]) -> str:
    """A table from ids to compressed ids as a short text."""
    data = np.asarray(numbers, "<i4")
    new = np.maximum.accumulate(np.concatenate([[-1], data[:-1]])) + 1 if len(data) else data
    # Most ids are new ones, the next in the row: zeros, which compress to nothing.
    return base64.b85encode(zlib.compress((new - data).astype("<i4").tobytes(), 9)).decode()


def unpack(packed: str) -> Tensor:
    """What :func:`pack` was given, int64.

    Raises:
        ValueError: it is no such text.
    """
    try:
        steps = np.frombuffer(zlib.decompress(base64.b85decode(packed)), "<i4")
    except (ValueError, zlib.error) as error:
        raise ValueError("the text is damaged or was not made by vm.NGram.for_tokenizer") from error
    numbers, count = np.zeros(len(steps), np.int64), 0
    for place, step in enumerate(steps.tolist()):
        numbers[place] = count - step
        if not 0 <= step <= count:
            raise ValueError("the text is damaged or was not made by vm.NGram.for_tokenizer")
        count += step == 0
    return torch.from_numpy(numbers)
