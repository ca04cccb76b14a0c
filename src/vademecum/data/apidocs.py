"""Documentation of the programming interfaces of a cloud's services, as their machine-readable descriptions hold it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

from vademecum.data.readers import Document, clean

_EVERY = 4  # of the services, in the order of their names, one is read
_LARGEST = 40_000  # characters of a service: the largest ones would be most of the text


def apidocs(wheel: ZipFile) -> Iterator[Document]:
    """One document per service read: what its documentation says, one string a line, each string once in all."""
    latest: dict[str, str] = {}
    for name in sorted(wheel.namelist()):
        if name.startswith("botocore/data/") and name.endswith("/service-2.json.gz"):
            latest[name.split("/")[2]] = name  # versions are dates: the last one is the newest
    seen = set[str]()
    for service in sorted(latest)[::_EVERY]:
        lines, size = [service], 0
        for text in documentation(json.loads(gzip.decompress(wheel.read(latest[service])))):
            line = clean(text)
            if line and line not in seen and size < _LARGEST:
                seen.add(line)
                lines.append(line)
                size += len(line) + 1
        if len(lines) > 1:
            yield Document(service, "\n".join(lines) + "\n")


def documentation(described: Any) -> Iterator[str]:
    """Every string under a key ``documentation``, the outer ones before those they hold."""
    if isinstance(described, dict):
        own = described.get("documentation")
        if isinstance(own, str):
            yield own
        for value in described.values():
            yield from documentation(value)
    elif isinstance(described, list):
        for value in described:
            yield from documentation(value)
