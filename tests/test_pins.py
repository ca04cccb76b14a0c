"""What is installed is what is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def plain(name: str) -> str:
    """A package's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", WANTED)
def test_every_package_that_is_asked_for_has_a_pin(extra: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(line.split("==")[0]) for line in lines if "==" in line}
    wanted = {plain(re.split(r"[^\w.-]", one)[0]) for one in WANTED[extra]}
    assert wanted <= pinned
