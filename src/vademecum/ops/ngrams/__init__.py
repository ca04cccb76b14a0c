"""Which of many sequences of token ids end at which token: exact, the longest first, by a trie read backwards."""

from __future__ import annotations

from vademecum.ops.ngrams.trie import Trie, made, match

__all__ = ["Trie", "made", "match"]
