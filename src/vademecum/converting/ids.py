"""Ids of the rows that stay, from a file that lists them or from a text that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

_IDS = "a text file with ids of rows, parted by spaces, lines or commas"
_TEXT = "a text file in UTF-8"
_PIECE = 2**20  # characters of a text that are made into ids at once, and the rest of a line
_LONGEST = 18  # digits; every such number fits 64 bits, and no vocabulary comes near it


def read_ids(path: Path) -> Tensor:
    """Ids, int64 ``[n]``, from a text file of whole numbers parted by white space or commas.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as text, is empty, or holds something that is no id.
    """
    with _lines(path, _IDS) as file:
        words = file.read().replace(",", " ").split()
    if not words:
        raise ValueError(f"{path} holds no ids; expected {_IDS}.")
    for word in words:
        if not (word.isascii() and word.isdecimal()):
            negative = word[:1] == "-" and word[1:].isascii() and word[1:].isdecimal()
            expected = "ids of rows count from 0" if negative else f"expected {_IDS}"
            raise ValueError(f"{path} holds {_short(word)}; {expected}.")
        if len(word.lstrip("0")) > _LONGEST:
            raise ValueError(f"{path} holds {_short(word)}, which is past every vocabulary; expected {_IDS}.")
    return torch.tensor([int(word) for word in words], dtype=torch.int64)


def ids_of_text(text: Path, tokenizer: Path) -> Tensor:
    """The distinct ids that ``tokenizer`` (a tokenizer.json, or a folder with one) makes of a text file of any size.

    The tokenizer's special tokens are among them, since every document begins or ends with one.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: the tokenizer cannot be read, or the text is none or is empty.
    """
    from tokenizers import Tokenizer

    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; give the tokenizer.json of the model that reads the memory.")
    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no narrower one
        raise ValueError(
            f"{file} is no tokenizer that can be read ({error}); give the tokenizer.json of the model that reads the "
            "memory."
        ) from error
    found: set[int] = set()
    with _lines(text, _TEXT) as lines:
        # Many lines at once: a token may reach over the end of one, such as that of an empty line.
        while piece := "".join(lines.readlines(_PIECE)):
            found.update(made.encode(piece, add_special_tokens=False).ids)
    if not found:
        raise ValueError(f"{text} is empty, so that no row would stay; expected {_TEXT}.")
    return torch.tensor(sorted(found.union(made.get_added_tokens_decoder())), dtype=torch.int64)


@contextmanager
def _lines(path: Path, expected: str) -> Iterator[TextIO]:
    """A file of text; whatever keeps it from being read is told in a sentence that names it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; expected {expected}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected {expected}.")
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error.reason}); expected {expected}.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected {expected}.") from error


def _short(word: str) -> str:
    return repr(word) if len(word) <= 30 else f"{word[:27]!r}..."
