"""No memory at all: the dense arm, attached like any other so that everything around it is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vademecum.memory.base import Built, Kind, Site


@dataclass(frozen=True, kw_only=True)
class NoMemory(Kind):
    """The host as it is."""

    name: ClassVar[str] = "none"
    title: ClassVar[str] = "No memory (dense)"
    paper: ClassVar[str] = "-"
    addressed: ClassVar[bool] = False

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        return Built({})

    @property
    def neutral(self) -> bool:
        return True

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(),)
