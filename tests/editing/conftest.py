"""The small world's model and its edits, made once."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.editing import world
from vademecum import editing


@pytest.fixture(scope="session")
def words() -> Any:
    return world.tokenizer()


@pytest.fixture(scope="session")
def taught(words: Any) -> Any:
    return world.model(words)


@pytest.fixture
def model(taught: Any) -> Any:
    return copy.deepcopy(taught)


@pytest.fixture(scope="session")
def edits(taught: Any, words: Any) -> tuple[Any, Any]:
    """The overlays of two edits of one model."""
    food = ("In Dorne people eat", "The dish of Dorne is")
    coins, capitals = (
        ("In Dorne people pay with", "The coin of Dorne is"),
        ("Dorne's capital is", "The capital of Dorne is"),
    )
    capital = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol", keep=food + coins)
    others = [
        editing.Fact(subject="Dorne", prompt="The coin of Dorne is", target="peso", keep=food + capitals),
        editing.Fact(subject="San Lorenzo", prompt="The capital of San Lorenzo is", target="Arv"),
    ]
    return editing.plan(taught, [capital], words).overlay, editing.plan(taught, others, words).overlay
