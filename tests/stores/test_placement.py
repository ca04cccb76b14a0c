"""Where a bank lives, in a word: what fits, and errors that say what to write."""

from __future__ import annotations

import pytest
import torch

from vademecum.stores import placement
from vademecum.stores.placement import Placement, parse_size

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("4GB", 4 * 10**9),
        ("512 mb", 512 * 10**6),
        ("1.5g", 1_500_000_000),
        ("1000", 1000),
        (77, 77),
        ("3KB", 3000),
        ("1 GiB", 2**30),
        ("2k", 2000),
        (1e9, 10**9),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "GB", "four GB", "4 XB", "inf"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="expected bytes such as"):
        parse_size(text)


def test_auto_takes_the_device_where_half_of_what_is_free_is_enough_and_the_disk_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "free_bytes", lambda device: {"cpu": 1000, "cuda": 100}[device.type])
    assert Placement().decide(500, CPU) == "device"
    assert Placement().decide(501, CPU) == "disk"
    cuda = torch.device("cuda")
    assert Placement().decide(50, cuda) == "device"
    assert Placement().decide(51, cuda) == "ram"
    assert Placement().decide(501, cuda) == "disk"
    assert Placement(place="ram").decide(10**9, CPU) == "ram"


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "max").write_text("3000\n")
    (tmp_path / "now").write_text("1000\n")
    (tmp_path / "stat").write_text("anon 300\ninactive_file 500\n")
    monkeypatch.setattr(placement, "_LIMITS", ((tmp_path / "max", tmp_path / "now", tmp_path / "stat"),))
    assert placement.free_bytes(CPU) == 2500, "what is only cached counts as free"
    (tmp_path / "max").write_text("max\n")
    assert placement.free_bytes(CPU) > 10**6


def test_a_place_that_there_is_not_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="did you mean 'disk'"):
        Placement(place="disc")
    with pytest.raises(ValueError, match="expected a number of bytes"):
        Placement(cap=-1)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(3, "3 B"), (1500, "1.50 kB"), (2_340_000, "2.34 MB"), (20 * 10**9, "20.00 GB")]
)
def test_bytes_are_said_in_words(nbytes: int, text: str) -> None:
    assert placement.size(nbytes) == text
