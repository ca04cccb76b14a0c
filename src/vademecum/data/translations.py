"""The user interface of one program in six languages: the translated sides of its gettext catalogues (.po files)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath
from zipfile import ZipFile

from vademecum.data.readers import Document, clean

LANGUAGES = ("de", "fr", "es", "ru", "ja", "hi")
_STRINGS = 100  # translations to a document


def languages(wheel: ZipFile) -> Iterator[Document]:
    """Documents of up to 100 translated strings, one a line and each once a language, named ``de/plone-0003``."""
    for language in LANGUAGES:
        seen = set[str]()
        for name in sorted(n for n in wheel.namelist() if f"/{language}/" in n and n.endswith(".po")):
            lines = []
            for text in translations(wheel.read(name).decode("utf-8")):
                line = clean(text)
                if line and line not in seen:
                    seen.add(line)
                    lines.append(line)
            for start in range(0, len(lines), _STRINGS):
                part = f"{language}/{PurePosixPath(name).stem}-{start // _STRINGS:04d}"
                yield Document(part, "\n".join(lines[start : start + _STRINGS]) + "\n")


def translations(catalogue: str) -> Iterator[str]:
    """Translated strings of a .po file: not its header, nothing empty, nothing marked fuzzy; of plurals every form."""
    for entry in catalogue.split("\n\n"):
        lines = [line.strip() for line in entry.splitlines()]
        if any(line.startswith("#,") and "fuzzy" in line for line in lines):
            continue
        fields: list[list[str]] = []
        for line in lines:
            if line.startswith("msg"):
                keyword, _, rest = line.partition(" ")
                fields.append([keyword, _string(rest)])
            elif line.startswith('"') and fields:
                fields[-1][1] += _string(line)
        if any(keyword == "msgid" and text for keyword, text in fields):
            yield from (text for keyword, text in fields if keyword.startswith("msgstr") and text)


def _string(quoted: str) -> str:
    """A quoted string of the file: its escapes are those of C, which Python reads too."""
    return str(ast.literal_eval(quoted.strip()))
