"""The user's own text: a .txt, .md or .py file, a .jsonl file with a text field, or a folder of them."""

from __future__ import annotations

import codecs
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from vademecum.data.readers import Document

PLAIN = (".txt", ".md", ".py")
SUFFIXES = (*PLAIN, ".jsonl")
LARGEST = 512_000  # characters; longer documents are cut, or one of them could fill the held-out side
FEW = 20  # documents; with fewer, all are cut, so that a split into training and held-out text is possible
_PIECE = re.compile(r"#\d+$")
_BLANK = re.compile(r"\n[ \t\r]*\n\s*")


def documents(path: Path, field: str = "text") -> list[Document]:
    """Read the documents of a file or folder; long ones, or all where there are few, are cut at blank lines.

    Raises:
        FileNotFoundError: nothing is there, or a folder holds no file of a kind that can be read.
        ValueError: the file, or every file of the folder, is empty; one is not UTF-8 or of another kind; or a JSON line
            lacks the text field.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(below for below in path.rglob("*") if below.suffix.lower() in SUFFIXES and below.is_file())
        if not found:
            raise FileNotFoundError(f"The folder {path} holds no {', '.join(SUFFIXES)} file: give a folder of text.")
        full = [below for below in found if _decoded(below).strip()]
        if empty := len(found) - len(full):
            if not full:
                raise ValueError(f"Every file in {path} is empty ({empty}): give a folder of files with text in them.")
            warnings.warn(f"{empty} of the {len(found)} files in {path} are empty and were skipped.", stacklevel=2)
        read = [document for below in full for document in _file(below, below.relative_to(path).as_posix(), field)]
    elif path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}: give the path of a {', '.join(SUFFIXES)} file.")
        read = list(_file(path, path.name, field))
    else:
        raise ValueError(f"{path} is of a kind that cannot be read: give a folder or a {', '.join(SUFFIXES)} file.")
    size = sum(len(document.text) for document in read)
    limit = LARGEST if len(read) >= FEW else min(16_384, max(200, size // 40))
    return [part for document in read for part in _cut(document, limit)]


def parted(train: Iterable[Document], heldout: Iterable[Document]) -> int:
    """How many files, or lines of .jsonl, were cut and have pieces on both sides of a split."""
    return len({_PIECE.sub("", d.name) for d in train} & {_PIECE.sub("", d.name) for d in heldout})


def pieces(text: str, limit: int) -> list[str]:
    """Cut text into pieces of about ``limit`` characters: at a blank line, else a line end, else anywhere.

    Joined, the pieces are the text again; none is longer than twice the limit.
    """
    cuts, start = [0], 0
    while len(text) - start > 2 * limit:
        window = (start + limit, start + 2 * limit)
        if match := _BLANK.search(text, window[0] - 1, window[1]):
            start = match.end()
        elif (line := text.find("\n", window[0] - 1, window[1])) >= 0:
            start = line + 1
        else:
            start = window[0]
        cuts.append(start)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _cut(document: Document, limit: int) -> Iterator[Document]:
    if len(document.text) <= 2 * limit:
        yield document
        return
    for number, piece in enumerate(pieces(document.text, limit)):
        if piece.strip():
            yield Document(f"{document.name}#{number}", piece)


def _file(path: Path, name: str, field: str) -> Iterator[Document]:
    text = _decoded(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: give a file with text in it.")
    if path.suffix.lower() in PLAIN:
        yield Document(name, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Document(f"{name}:{number}", _text_of(line, field, f"{path}, line {number}"))


def _decoded(path: Path) -> str:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        skipped = path.stat().st_size - len(data)
        raise ValueError(
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start + skipped} does not "
            f"belong there; convert the file, for example with 'iconv -f latin1 -t utf-8'."
        ) from None


def _text_of(line: str, field: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        raise ValueError(f"{where} is not JSON: write one object to a line, such as {{{field!r}: ...}}.") from None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        has = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(
            f"{where} has no text in the field {field!r} (it has: {has}): say which field holds it "
            "(--text-field NAME, in Python field='NAME')."
        )
    text = str(entry[field])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a surrogate pair, which is not text: write the character.") from None
    return text
