"""One file per system, discovered by walking this package: a new file is a new kind, and nothing else changes."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from vademecum.memory.base import Kind

__all__ = ["all", "find", "from_dict", "parse", "table"]


def all() -> dict[str, type[Kind]]:  # noqa: A001 - read as kinds.all()
    """Every kind by name, in the order of their names."""
    found: dict[str, type[Kind]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Kind) and not inspect.isabstract(cls) and cls.__module__ == module.__name__:
                found[cls.name] = cls
    return dict(sorted(found.items()))


def find(name: str) -> type[Kind]:
    """The kind called ``name``; an unknown name is an error that suggests the nearest."""
    known = all()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown kind {name!r}; known are {', '.join(known)}{hint}")
    return known[name]


def from_dict(data: Mapping[str, Any]) -> Kind:
    """A kind from what ``Kind.to_dict`` gave."""
    fields = dict(data)
    return find(str(fields.pop("kind"))).of(fields)


def parse(text: str) -> Kind:
    """A kind from ``"name"`` or ``"name:setting=value,..."``, as the command line writes it.

    Values are Python literals; a bare word is a string, ``every2`` a layer rule, and ``layers=0+3`` two layers.
    """
    name, _, settings = text.partition(":")
    fields: dict[str, Any] = {}
    for item in filter(None, settings.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{text!r} was given; expected name:setting=value,setting=value, such as move:slots=8.")
        fields[key.strip()] = _value(key.strip(), value.strip())
    return find(name.strip()).of(fields)


def _value(key: str, text: str) -> Any:
    if key == "layers":
        return _layers(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _layers(text: str) -> Any:
    if text in ("all", "middle"):
        return text
    try:
        if text.startswith("every"):
            return {"every": int(text.removeprefix("every"))}
        return [int(number) for number in text.split("+")]
    except ValueError:
        raise ValueError(
            f"layers={text} was given; expected all, middle, every2 or layer numbers such as 0+3."
        ) from None


def table() -> str:
    """A Markdown table of all kinds (name, what it is, paper, file), as the README shows it."""
    rows = ["| kind | what it is | paper | file |", "|---|---|---|---|"]
    for kind in all().values():
        path = kind.__module__.replace(".", "/")
        rows.append(f"| `vm.{kind.__name__}` | {kind.title} | {kind.paper} | [{path}.py](src/{path}.py) |")
    return "\n".join(rows)
