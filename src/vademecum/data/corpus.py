"""From documents to token files: split, tokenizer trained on the training side only, cached, checked when read."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from vademecum import files
from vademecum.data import order, user
from vademecum.data.readers import Document
from vademecum.data.sources import Source, digest, sources
from vademecum.data.wheels import NoPip, Unavailable, cache_folder

END = "<|end|>"
TOKENIZER = "tokenizer.json"
FEWEST_DOCUMENTS = 4
FEWEST_BYTES = 4_000
_SHARE, _LARGEST = 0.05, 1_000_000  # of the text, and bytes, that are held out
_VERSION = 1  # of the cached form: raise it when splitting, tokenizing or rendering changes
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """A text ready for training; the token files are memory-mapped and were checked when this was made.

    ``train`` and ``heldout`` are 1-D (uint16, or uint32 for a vocabulary above 65,536): END, document, END, document,
    ..., END. ``heldout_bytes`` counts the UTF-8 bytes of the held-out documents (END has none), ``bytes_per_token``
    is that per target token. ``token_bytes[id]`` is the UTF-8 bytes of one token, so ``token_bytes[targets].sum()`` is
    exactly what given targets cover. ``key`` names the content: equal keys, equal tokens.
    """

    name: str
    description: str
    folder: Path
    key: str
    train: NDArray[Any]
    heldout: NDArray[Any]
    heldout_bytes: int
    tokenizer: Tokenizer
    token_bytes: NDArray[np.int64]

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary: what was asked for, or fewer where the text does not give so many."""
        return len(self.token_bytes)

    @property
    def end_id(self) -> int:
        """Id of the token between documents."""
        return _end_id(self.tokenizer)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per held-out target token."""
        return self.heldout_bytes / (len(self.heldout) - 1)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of what :meth:`keep` writes."""
        return (TOKENIZER,)

    def windows(self, *, seed: int, step: int, batch: int, length: int) -> order.Ids:
        """Training windows ``[batch, length + 1]`` of one step (see :func:`vademecum.data.batch`)."""
        return order.batch(self.train, seed=seed, step=step, batch=batch, length=length)

    def heldout_windows(self, length: int, limit: int | None = None) -> order.Ids:
        """Held-out windows ``[n, length + 1]`` (see :func:`vademecum.data.heldout_windows`)."""
        return order.heldout_windows(self.heldout, length, limit)

    def covered_bytes(self, targets: NDArray[np.int64]) -> float:
        """UTF-8 bytes of the held-out text that ``targets`` stand for.

        Exact for the corpus's own tokenizer; another's pieces share the text's bytes out in proportion.
        """
        spelt = int(self.token_bytes[self.heldout[1:]].sum())
        return int(self.token_bytes[targets].sum()) * (self.heldout_bytes / spelt)

    def identity(self) -> dict[str, Any]:
        """Name, key, description, size of the vocabulary and end id."""
        names = ("name", "key", "description", "vocab_size", "end_id")
        return {name: getattr(self, name) for name in names}

    def sizes(self) -> dict[str, float]:
        """Tokens and bytes on both sides."""
        return {
            "heldout_bytes": self.heldout_bytes,
            "heldout_tokens": len(self.heldout),
            "train_tokens": len(self.train),
            "bytes_per_token": self.bytes_per_token,
        }

    def keep(self, folder: Path) -> None:
        """Write ``tokenizer.json`` into a run's folder."""
        files.write_file(folder / TOKENIZER, self.tokenizer.to_str())

    def export(self, folder: Path) -> None:
        """Write the tokenizer as Transformers reads one, with the end token that documents are parted by."""
        from transformers import PreTrainedTokenizerFast

        end = self.tokenizer.id_to_token(self.end_id)
        PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, eos_token=end).save_pretrained(folder)  # type: ignore[no-untyped-call]
        # As the run has it, byte for byte: save_pretrained writes the same tokens in another order.
        self.keep(folder)

    def __repr__(self) -> str:
        return f"Corpus({self.description})"


def prepare(
    source: str | Path, *, vocab_size: int = 4096, cache: Path | None = None, progress: bool = True, field: str = "text"
) -> Corpus:
    """Fetch, split and tokenize a text, or open it from the cache.

    ``source`` is the name of a source, or the user's own file or folder; ``field`` is the text field of .jsonl. Where
    a named source cannot be fetched, the Python standard library stands in, with a warning.

    Raises:
        ValueError: no such source or file, text that cannot be read, too little of it, or a vocabulary below 257.
        FileNotFoundError: the path does not exist or holds nothing readable.
        NoPip: pip is missing.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}, but 256 bytes and {END} alone make 257: give 257 or more.")
    if not str(source):
        raise ValueError(f"The source is empty: give one of {', '.join(sources())}, or the path of your own text.")
    cache = Path(cache) if cache is not None else cache_folder()
    known = sources()
    if not isinstance(source, str) or source not in known:
        return _own(Path(source), vocab_size, cache, progress, field)
    try:
        return _named(known[source], vocab_size, cache, progress)
    except NoPip:
        raise
    except Unavailable as problem:
        warnings.warn(
            f"No {source}: {problem} The Python standard library's own source is used INSTEAD; "
            f"results are not those of {source}.",
            stacklevel=2,
        )
        corpus = _named(known["python"], vocab_size, cache, progress)
        return dataclasses.replace(corpus, description=f"{corpus.description} (in place of {source})")


def split(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Divide documents into training and held-out ones, by a hash of name and text; copies of a text count once.

    About 5 % of the bytes, at most about 1 MB, at least two documents are held out.

    Raises:
        ValueError: fewer than 4 documents or 4,000 bytes.
    """
    unique = {document.text: document for document in reversed(documents) if document.text.strip()}
    hashes = {hashlib.sha256(f"{d.name}\0{d.text}".encode()).hexdigest(): d for d in unique.values()}
    sizes = {digest: len(document.text.encode()) for digest, document in hashes.items()}
    total = sum(sizes.values())
    if len(hashes) < FEWEST_DOCUMENTS or total < FEWEST_BYTES:
        raise ValueError(
            f"Too little text to split: {len(hashes)} different documents of {total} bytes in all were found, and "
            f"{FEWEST_DOCUMENTS} documents of {FEWEST_BYTES} bytes are needed: give more text."
        )
    room, chosen = min(_SHARE * total, _LARGEST), set[str]()
    for each in sorted(hashes):
        if sizes[each] <= room:
            chosen.add(each)
            room -= sizes[each]
    for each in sorted(hashes, key=lambda each: sizes[each]):  # nothing fitted: take the smallest
        if len(chosen) >= 2:
            break
        chosen.add(each)
    held = {hashes[each].text for each in chosen}
    kept = [document for document in documents if unique.get(document.text) is document]
    return [d for d in kept if d.text not in held], [d for d in kept if d.text in held]


def train_tokenizer(texts: Iterator[str] | Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE: any text round-trips, END is the only special token and has id 0."""
    tokenizer = _settled(Tokenizer(models.BPE()))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def _settled(tokenizer: Tokenizer) -> Tokenizer:
    """Let END in a text be ordinary characters: only we put the token between documents."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def _end_id(tokenizer: Tokenizer) -> int:
    number = tokenizer.token_to_id(END)
    if number is None:
        raise files.Damaged(f"The tokenizer has no token {END}: remove the cached corpus, it is then made again.")
    return int(number)


def _named(source: Source, vocab_size: int, cache: Path, progress: bool) -> Corpus:
    key = _key(source.name, source.content(), vocab_size)
    if (found := _opened(cache, source.name, key)) is not None:
        return found
    groups = list(source.groups(cache).values())
    about = f"{source.name}: {source.origin}, {source.licence}"
    return _made(cache, source.name, key, groups, about, vocab_size, progress)


def _own(path: Path, vocab_size: int, cache: Path, progress: bool, field: str) -> Corpus:
    if not path.exists() and path.suffix.lower() not in user.SUFFIXES:
        near = difflib.get_close_matches(str(path), sources(), n=1)
        raise ValueError(
            f"'{path}' is neither a source nor a file or folder"
            + (f" (did you mean {near[0]}?)" if near else "")
            + f": give one of {', '.join(sources())}, or the path of your own text."
        )
    documents = user.documents(path, field)
    name = re.sub(r"[^\w.-]+", "-", path.resolve().stem).strip(".-") or "text"
    key = _key("own", digest(documents), vocab_size)
    return _made(cache, name, key, [documents], f"{name}: your own text", vocab_size, progress)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()[:16]


def _place(cache: Path, name: str, key: str) -> Path:
    return cache / "tokens" / f"{files.short(name)}-{key}"


def _made(
    cache: Path,
    name: str,
    key: str,
    groups: Sequence[Sequence[Document]],
    about: str,
    vocab_size: int,
    progress: bool,
) -> Corpus:
    """Open the corpus if it is cached, else build it into the cache first; each group is split on its own."""
    if (found := _opened(cache, name, key)) is not None:
        return found
    halves = [split(group) for group in groups]
    train, heldout = ([document for half in halves for document in half[side]] for side in (0, 1))
    tokenizer = train_tokenizer([document.text for document in train], vocab_size)
    sides = {"train": train, "heldout": heldout}
    tokens = {
        side: _encoded(tokenizer, [document.text for document in part], f"{name} {side}", progress)
        for side, part in sides.items()
    }
    parted = user.parted(train, heldout)
    held = sum(len(document.text.encode()) for document in heldout)
    facts = {
        "name": name,
        "description": f"{about}, {len(train)} + {len(heldout)} held-out documents, "
        f"{len(tokens['train']):,} + {len(tokens['heldout']):,} tokens of {tokenizer.get_vocab_size()}"
        + (f"; {parted} of the files were cut and have pieces on both sides of the split" if parted else ""),
        "heldout_bytes": held,
        "heldout_documents": [document.name for document in heldout],
    }

    def fill(folder: Path) -> None:
        for side, ids in tokens.items():
            np.save(folder / f"{side}.npy", ids)
        (folder / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        (folder / "corpus.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    files.write_folder(_place(cache, name, key), fill)
    made = _opened(cache, name, key)
    if made is None:
        raise files.Damaged(f"{_place(cache, name, key)} vanished or changed while it was written: try again.")
    return made


def _opened(cache: Path, name: str, key: str) -> Corpus | None:
    """Open and verify the cached corpus; a damaged one is removed, with a warning, so that it is made again."""
    folder = _place(cache, name, key)
    try:
        files.verify_folder(folder)
    except FileNotFoundError:
        return None
    except files.Damaged as problem:
        _log.warning("%s The cached tokens are made again.", problem)
        shutil.rmtree(folder)
        return None
    facts = json.loads((folder / "corpus.json").read_text("utf-8"))
    tokenizer = _settled(Tokenizer.from_file(str(folder / TOKENIZER)))
    return Corpus(
        name=facts["name"],
        description=facts["description"],
        folder=folder,
        key=key,
        train=np.load(folder / "train.npy", mmap_mode="r", allow_pickle=False),
        heldout=np.load(folder / "heldout.npy", mmap_mode="r", allow_pickle=False),
        heldout_bytes=int(facts["heldout_bytes"]),
        tokenizer=tokenizer,
        token_bytes=_token_bytes(tokenizer),
    )


def _token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """UTF-8 bytes that each id stands for: byte-level tokens are spelt with one character per byte."""
    names = [tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())]
    return np.array([0 if name == END else len(name) for name in names], dtype=np.int64)


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], what: str, progress: bool) -> NDArray[Any]:
    """END, document, END, ..., END as one array of the smallest dtype that holds the vocabulary."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    end = np.array([_end_id(tokenizer)], dtype=dtype)
    parts = [end]
    for start in tqdm(range(0, len(texts), 64), desc=f"tokens of {what}", leave=False, disable=not progress):
        for encoding in tokenizer.encode_batch(list(texts[start : start + 64]), add_special_tokens=False):
            parts += [np.array(encoding.ids, dtype=dtype), end]
    return np.concatenate(parts)
