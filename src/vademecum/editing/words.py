"""Where words and numbers end, in any script."""

from __future__ import annotations

import re
import unicodedata

#: What joins two letters or pictures into one, besides marks.
JOINER = "\u200d"
#: How the names of letters begin that are written without spaces between words: where a word ends, they do not tell.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def goes_on(text: str, end: int) -> bool:
    """Whether the word or number before place ``end`` of ``text`` goes on there: "US" does in "USA", "5" in "5.3"."""
    before, here = text[end - 1 : end], text[end : end + 1]
    if not here:
        return False
    if here == JOINER or unicodedata.category(here) in ("Mn", "Mc", "Me", "Sk"):
        return True
    if before.isdigit() and re.match(r"[.,]\d", text[end : end + 2]):
        return True
    return (here.isalnum() or here == "_") and not (_unspaced(before) and _unspaced(here))


def whole(text: str, begin: int, end: int) -> bool:
    """Whether ``text[begin:end]`` begins and ends where words do."""
    return not goes_on(text, end) and not (_of_a_word(text[begin - 1 : begin]) and goes_on(text, begin))


def _of_a_word(letter: str) -> bool:
    return letter in (JOINER, "_") or letter.isalnum() or unicodedata.category(letter or " ").startswith("M")


def _unspaced(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(UNSPACED)
