"""A prepared text in another model's tokens, for hosts that bring their own tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vademecum import data, files

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class HostCorpus(data.Corpus):
    """A corpus whose documents are parted by the host tokenizer's own token ``end``."""

    end: int

    @property
    def end_id(self) -> int:
        """Id of the token between documents."""
        return self.end


def retokenize(corpus: data.Corpus, tokenizer: Tokenizer, *, end: int, cache: Path) -> HostCorpus:
    """Same documents and same split as ``corpus``, in the tokens of ``tokenizer``; encoded once, then cached.

    Args:
        corpus: what ``data.prepare`` gave; its tokenizer gives every text back as it was.
        tokenizer: the host's.
        end: id of the token put between documents.
        cache: folder of prepared data.
    """
    ids = _ids(tokenizer, end)
    key = hashlib.sha256(f"{corpus.key} {end} {tokenizer.to_str()}".encode()).hexdigest()[:16]
    folder = cache / "tokens" / f"{files.short(corpus.name)}-{key}"

    def fill(aside: Path) -> None:
        dtype = np.uint16 if ids <= 2**16 else np.uint32
        for side in ("train", "heldout"):
            parts = [np.array([end], dtype=dtype)]
            for texts in _batches(corpus, getattr(corpus, side)):
                for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
                    parts += [np.array(encoding.ids, dtype=dtype), parts[0]]
            np.save(aside / f"{side}.npy", np.concatenate(parts))
        (aside / "about.json").write_text(json.dumps({"from": corpus.key, "end": end}), encoding="utf-8")

    try:
        files.verify_folder(folder)
    except (FileNotFoundError, files.Damaged):
        files.write_folder(folder, fill)
    return HostCorpus(
        name=corpus.name,
        description=f"{corpus.description}, in the host's own tokens",
        folder=folder,
        key=key,
        train=np.load(folder / "train.npy", mmap_mode="r", allow_pickle=False),
        heldout=np.load(folder / "heldout.npy", mmap_mode="r", allow_pickle=False),
        heldout_bytes=corpus.heldout_bytes,
        tokenizer=tokenizer,
        token_bytes=token_bytes(tokenizer, end),
        end=end,
    )


def token_bytes(tokenizer: Tokenizer, end: int) -> NDArray[np.int64]:
    """UTF-8 bytes that each id stands for, near enough to share a text out over its tokens; ``end`` has none."""
    spelt_by_byte = "ByteLevel" in json.dumps(json.loads(tokenizer.to_str()).get("decoder") or {})
    names = [tokenizer.id_to_token(number) or "" for number in range(_ids(tokenizer, end))]
    sizes = [len(name) if spelt_by_byte else _piece_bytes(name) for name in names]
    sizes[end] = 0
    return np.array(sizes, dtype=np.int64)


def _ids(tokenizer: Tokenizer, end: int) -> int:
    """One more than the largest id: a tokenizer may leave ids out, so that it has fewer tokens than that."""
    return max(end, *tokenizer.get_vocab().values()) + 1


def _piece_bytes(name: str) -> int:
    """Bytes of a piece that marks a space by a block, a continued word by ## and a lone byte by its number."""
    if name.startswith("<0x") and name.endswith(">"):
        return 1
    return len(name.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").removeprefix("##").encode())


def _batches(corpus: data.Corpus, tokens: NDArray[Any]) -> Iterator[list[str]]:
    ends = np.flatnonzero(tokens == corpus.end_id)
    spans = list(zip(ends[:-1] + 1, ends[1:], strict=True))
    for start in range(0, len(spans), _BATCH):
        yield corpus.tokenizer.decode_batch([tokens[a:b].tolist() for a, b in spans[start : start + _BATCH]])
