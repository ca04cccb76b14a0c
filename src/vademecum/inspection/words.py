"""Token ids as something to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_BYTES = 4  # of the longest letter in UTF-8
RETURN = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
_SIGNS = {" ": "\N{OPEN BOX}", "\n": RETURN, "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


@dataclass(frozen=True)
class Words:
    """Reads ids by a tokenizer."""

    tokenizer: Tokenizer

    def show(self, number: int) -> str:
        """One id by itself, blanks made visible; a token that is part of a letter is spelt as the tokenizer does."""
        text = self.tokenizer.decode([number], skip_special_tokens=False)
        if not text or _UNFINISHED in text:
            return str(self.tokenizer.id_to_token(number) or f"id {number}")
        return "".join(_SIGNS.get(letter, letter) for letter in text)

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """A text in pieces of whole letters, each with the place of its last token.

        Several tokens that make one letter are one piece.
        """
        found: list[tuple[str, int]] = []
        before, since = "", 0
        for i in range(len(ids)):
            text = self.tokenizer.decode(list(ids[: i + 1]), skip_special_tokens=False)
            since += 1
            if text.endswith(_UNFINISHED) and since < _BYTES and i + 1 < len(ids):
                continue
            found.append((text[len(before) :], i))
            before, since = text, 0
        return found
