"""What ``memory.json`` says of a saved memory, read as data that is known to be sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vademecum import files, kinds
from vademecum.ops import codes as ops
from vademecum.stores import tables
from vademecum.stores.coded import CODES

FORMAT = 1
DESCRIPTION = "memory.json"
TENSORS = "memory.safetensors"

#: What the keys of a compressed bank hold, and the least that a number of it may be.
_LEAST: Mapping[str, int] = {"slots": 1, "width": 1, "rows": 0}


@dataclass(frozen=True)
class Form:
    """How a compressed bank is stored: ``rows`` rows of ``[slots, width]`` values in a format.

    Attributes:
        format: a name in :data:`vademecum.ops.codes.FORMATS`.
        slots: values of a row, in the first dimension.
        width: and in the second.
        rows: of the bank, pruned ones included.
    """

    format: str
    slots: int
    width: int
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``memory.json``."""
        return asdict(self)


@dataclass(frozen=True)
class About:
    """A saved memory in words.

    Attributes:
        kinds: what ``Kind.to_dict`` gave, one each; ``kinds.from_dict`` takes every one of them.
        host: the numbers of the host that it was made for; ``vocabulary`` is among them.
        banks: how the compressed banks are stored, by the banks' names.
        tables: rows of the banks that are not read by token id, by the banks' names.
    """

    kinds: tuple[Mapping[str, Any], ...]
    host: Mapping[str, Any]
    banks: Mapping[str, Form] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """Ids that the host had, and rows of every bank that is read by them."""
        return int(self.host["vocabulary"])

    def rows_of(self, bank: str) -> int:
        """Rows of the bank of that name."""
        return self.tables.get(bank, self.vocabulary)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``memory.json``; no ``banks`` where none is compressed, no ``tables`` where there are none."""
        plain = {"format": FORMAT, "kinds": [dict(kind) for kind in self.kinds], "host": dict(self.host)}
        plain |= {"tables": dict(self.tables)} if self.tables else {}
        return plain | ({"banks": {name: form.to_dict() for name, form in self.banks.items()}} if self.banks else {})

    def to_json(self) -> str:
        """The text of ``memory.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def read(folder: Path) -> About:
    """``memory.json`` in ``folder``, compared with the names and shapes of the tensors beside it.

    Whether the files are those that were written is for :func:`vademecum.files.verify_folder` to say.

    Raises:
        files.Damaged: it is not JSON, lacks something, or says something of the tensors that is not so.
        ValueError: a file is missing, or another version wrote it.
    """
    path = folder / DESCRIPTION
    for name in (DESCRIPTION, TENSORS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}; give a folder that vm.save wrote.")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise files.Damaged(f"{path} is no JSON ({error}): restore it from a good copy.") from error
    if not isinstance(data, dict):
        raise _damaged(path, "a JSON object was expected", data)
    if data.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has memory format {data.get('format')!r}, this version reads {FORMAT}; "
            f"load it with the version of vademecum that wrote it."
        )
    about = About(_kinds(path, data), _host(path, data), _banks(path, data), _tables(path, data))
    _compare(path, about, tables.entries(folder / TENSORS))
    return about


def _damaged(path: Path, expected: str, given: object) -> files.Damaged:
    text = repr(given)
    return files.Damaged(
        f"{path} holds {text if len(text) <= 80 else text[:77] + '...'} where {expected}: restore it from a good copy."
    )


def _kinds(path: Path, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    given = data.get("kinds")
    if not isinstance(given, list) or not given:
        raise _damaged(path, "'kinds' was expected to list what is attached", given)
    for each in given:
        if not isinstance(each, dict) or not isinstance(each.get("kind"), str):
            raise _damaged(path, "one of its 'kinds' was expected, such as {'kind': 'move', 'slots': 8}", each)
        try:
            kinds.from_dict(each)
        except (ValueError, TypeError, KeyError) as error:
            raise files.Damaged(f"{path} lists a memory that cannot be made here: {error}") from error
    return tuple(given)


def _host(path: Path, data: Mapping[str, Any]) -> Mapping[str, Any]:
    given = data.get("host")
    if not isinstance(given, dict):
        raise _damaged(path, "'host' was expected to hold the numbers of a host", given)
    if not _whole(given.get("vocabulary"), 1):
        raise _damaged(path, "'vocabulary' of its 'host' was expected to be a number of ids", given.get("vocabulary"))
    return given


def _banks(path: Path, data: Mapping[str, Any]) -> Mapping[str, Form]:
    given = data.get("banks", {})
    if not isinstance(given, dict):
        raise _damaged(path, "'banks' was expected to describe compressed banks by name", given)
    return {name: _form(path, name, each) for name, each in given.items()}


def _tables(path: Path, data: Mapping[str, Any]) -> Mapping[str, int]:
    given = data.get("tables", {})
    if not isinstance(given, dict) or not all(_whole(rows, 1) for rows in given.values()):
        raise _damaged(path, "'tables' was expected to hold numbers of rows by the names of banks", given)
    return given


def _form(path: Path, name: str, given: object) -> Form:
    if not isinstance(given, dict):
        raise _damaged(path, f"{name!r} of its 'banks' was expected to have a format, slots, width and rows", given)
    known = given.get("format")
    if not isinstance(known, str) or known not in ops.FORMATS:
        raise _damaged(path, f"'format' of {name!r} was expected to be one of {', '.join(ops.FORMATS)}", known)
    for key, least in _LEAST.items():
        if not _whole(given.get(key), least):
            raise _damaged(
                path, f"{key!r} of {name!r} was expected to be a whole number from {least} on", given.get(key)
            )
    return Form(known, *(int(given[key]) for key in _LEAST))


def _whole(given: object, least: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= least


def _compare(path: Path, about: About, found: Mapping[str, tables.Entry]) -> None:
    """What is said of the banks against the names and shapes of the tensors."""
    stored = {name.removesuffix(CODES) for name in found if name.endswith(CODES)}
    if forgotten := sorted(stored - about.banks.keys()):
        raise files.Damaged(
            f"{path} says nothing of {forgotten[0]!r}, whose rows are compressed in {TENSORS}: restore it from a good "
            "copy."
        )
    if missing := sorted(about.banks.keys() - stored):
        raise files.Damaged(
            f"{path.with_name(TENSORS)} holds no tensor {missing[0] + CODES!r}, which {path.name} lists."
        )
    rows = {name: form.rows for name, form in about.banks.items()}
    # Nothing but a bank is a weight of three dimensions: [rows, slots, width].
    rows |= {name: one.shape[0] for name, one in found.items() if name.endswith(".weight") and len(one.shape) == 3}
    for name, count in rows.items():
        if count != about.rows_of(name):
            said = f"gives {name!r} {about.tables[name]} rows" if name in about.tables else None
            said = said or f"gives the host a vocabulary of {about.vocabulary}"
            raise files.Damaged(f"{path} {said} where {name!r} has {count} rows: restore it from a good copy.")
    if missing := sorted(about.tables.keys() - rows.keys()):
        raise files.Damaged(f"{path.with_name(TENSORS)} holds no bank {missing[0]!r}, which {path.name} lists.")
