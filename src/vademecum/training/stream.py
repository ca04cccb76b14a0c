"""Text as it is generated: pieces that are whole characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer


class TextStream(BaseStreamer):
    """Hands text on as soon as its characters are complete; for ``generate(streamer=...)``.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``.
        skip: tokens of the prompt, which are not handed on.
        write: takes each piece.
    """

    def __init__(self, tokenizer: Any, *, skip: int, write: Callable[[str], Any]) -> None:
        self._tokenizer, self._skip, self._write = tokenizer, skip, write
        self._ids: list[int] = []
        self._context: list[int] = []
        self.text = ""

    def put(self, value: Tensor) -> None:
        """Take token ids; the first call brings the prompt."""
        ids = value.flatten().tolist()
        skipped, self._skip = ids[: self._skip], max(0, self._skip - len(ids))
        self._context += skipped
        self._ids += ids[len(skipped) :]
        self._hand_on(last=False)

    def end(self) -> None:
        """Hand on what is left, complete or not."""
        self._hand_on(last=True)

    def _hand_on(self, *, last: bool) -> None:
        # Decoded after the prompt, because some tokenizers drop a space at the very start of a text.
        start = self._tokenizer.decode(self._context)
        whole = self._tokenizer.decode(self._context + self._ids)
        if whole.startswith(start) and (last or not whole.endswith("\ufffd")):
            piece = whole[len(start) + len(self.text) :]
            if piece:
                self.text += piece
                self._write(piece)
