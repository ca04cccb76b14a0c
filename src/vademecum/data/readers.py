"""From a source's bytes to its documents: one small generator per source."""

from __future__ import annotations

import bz2
import html
import itertools
import json
import re
import sqlite3
import sysconfig
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

from vademecum.data.wikitext import plain

_WIKI = "{http://www.mediawiki.org/xml/export-0.10/}"
_NOT_LIBRARY = {"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "turtledemo", "__pycache__"}
_ENTRIES = 100  # headwords to a document of the dictionary


class Document(NamedTuple):
    """One unit of the split: training and held-out text never share a document."""

    name: str
    text: str


def factbook(wheel: ZipFile) -> Iterator[Document]:
    """One document per country or territory: its sections, each field on a line."""
    for name in sorted(wheel.namelist()):
        if not name.endswith(".json"):
            continue
        facts = json.loads(wheel.read(name))
        lines = [_country(facts) or Path(name).stem]
        for section, fields in facts.items():
            below = [line for field, value in fields.items() for line in _field(clean(field), value)]
            lines += ["", clean(section), "", *below] if below else []
        yield Document(name, "\n".join(lines) + "\n")


def wikipedia(wheel: ZipFile) -> Iterator[Document]:
    """One document per article, redirects left out, as plain prose under its title."""
    for title, text in _articles(wheel):
        yield Document(title, f"{title}\n\n{plain(text)}\n")


def markup(wheel: ZipFile) -> Iterator[Document]:
    """One document per article, redirects left out, as it is written: with its templates, references and tables."""
    for title, text in _articles(wheel):
        yield Document(title, f"{title}\n\n{text.strip()}\n")


def webster(wheel: ZipFile) -> Iterator[Document]:
    """Documents of 100 consecutive headwords, each with its definitions on one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dictionary.db"
        path.write_bytes(wheel.read("src/data/dictionary.db"))
        connection = sqlite3.connect(path)
        query = "select word, wordtype, definition from entries where definition is not null order by word, rowid"
        rows = connection.execute(query).fetchall()
        connection.close()
    entries = [_entry(word, list(group)) for word, group in itertools.groupby(rows, key=lambda row: str(row[0]))]
    for start in range(0, len(entries), _ENTRIES):
        yield Document(f"{start:06d}", "\n".join(entries[start : start + _ENTRIES]) + "\n")


def python() -> Iterator[Document]:
    """One document per file of this interpreter's own library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        if _NOT_LIBRARY & set(below.parts):
            continue
        try:
            text = path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield Document(below.as_posix(), text)


def clean(text: str) -> str:
    """Text on one line, without tags and with its entities resolved."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(text))).strip()


def _articles(wheel: ZipFile) -> Iterator[tuple[str, str]]:
    """Title and wiki markup of every article of the sample that is not a redirect."""
    member = next(name for name in wheel.namelist() if name.endswith("p000030302-shortened.bz2"))
    for page in ElementTree.fromstring(bz2.decompress(wheel.read(member))).iter(_WIKI + "page"):
        title, text = page.findtext(_WIKI + "title"), page.findtext(f"{_WIKI}revision/{_WIKI}text")
        if page.find(_WIKI + "redirect") is None and title and text:
            yield title, text


def _country(facts: dict[str, Any]) -> str:
    names = facts.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = clean(names.get(form, {}).get("text", ""))
        if name and name != "none":
            return name
    return ""


def _field(name: str, value: Any) -> list[str]:
    """Lines of one field: text beside its name, parts below it behind a dash."""
    if isinstance(value, str):
        return [f"{name}: {clean(value)}"] if clean(value) else []
    if not isinstance(value, dict):
        return []
    own = clean(str(value.get("text", "")))
    parts = [f"- {line}" for key, part in value.items() if key != "text" for line in _field(clean(key), part)]
    if not own and not parts:
        return []
    return [f"{name}: {own}".rstrip(), *parts]


def _entry(word: str, rows: list[tuple[Any, Any, Any]]) -> str:
    senses, kind = [], None
    for _, wordtype, definition in rows:
        mark = f"({wordtype}) " if wordtype and wordtype != kind else ""
        kind = wordtype
        senses.append(mark + re.sub(r"\s+", " ", str(definition)).strip())
    return f"{word} {' '.join(senses)}"
