from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.making import folder, noise, picture
from vademecum import files
from vademecum.data.wheels import NoPip, Unavailable
from vademecum.images import pictures, reading, sources
from vademecum.images.decoding import UNREADABLE
from vademecum.images.judge import Schooling, schooled
from vademecum.images.making import in_tokens
from vademecum.images.pictures import CLASHES, COPIES, LONELY, Pictures, prepare


def prepared(source: str | Path, cache: Path | None = None, **more: object) -> Pictures:
    return prepare(source, cache=cache, progress=False, **more)  # type: ignore[arg-type]


def arrays(made: Pictures) -> list[object]:
    return [each.tolist() for each in (made.train, made.train_labels, made.heldout, made.heldout_labels)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return folder(tmp_path / "pets", ("cats", "dogs", "owls"), count=6)


def cached(tmp_path: Path) -> Path:
    (only,) = (tmp_path / "cache/pictures").iterdir()
    return only


def test_a_folder_becomes_pictures_of_every_class_on_both_sides(own: Path) -> None:
    made = prepared(own)
    assert made.name == "pets"
    assert made.classes == ("cats", "dogs", "owls")
    assert made.train.shape == (15, 28, 28, 3)
    assert made.heldout.shape == (3, 28, 28, 3)
    assert (made.side, made.channels) == ((28, 28), 3)
    assert made.train.dtype == np.uint8
    assert made.train_labels.dtype == made.heldout_labels.dtype == np.int64
    assert np.bincount(made.train_labels).tolist() == [5, 5, 5]
    assert sorted(made.heldout_labels.tolist()) == [0, 1, 2]
    assert made.skipped == {}
    assert "15 + 3 held-out pictures of 28 x 28, colour, 3 classes" in repr(made)


def test_a_picture_keeps_its_label(own: Path) -> None:
    made = prepared(own, side=12)
    found = [(*made.train, *made.heldout), (*made.train_labels, *made.heldout_labels)]
    labels = {value.tobytes(): int(label) for value, label in zip(*found, strict=True)}
    assert labels == {noise(100 * label + each).tobytes(): label for label in range(3) for each in range(6)}


@pytest.mark.parametrize(("files_grey", "asked", "channels"), [
    (True, None, 1), (True, False, 3), (False, None, 3), (False, True, 1),
])  # fmt: skip
def test_pictures_are_grey_where_all_are_or_it_is_asked(
    files_grey: bool, asked: bool | None, channels: int, tmp_path: Path
) -> None:
    made = prepared(folder(tmp_path / "set", grey=files_grey), grey=asked)
    assert made.channels == channels
    assert ("grey" in made.description) == (channels == 1)


def test_one_coloured_picture_makes_the_set_coloured(tmp_path: Path) -> None:
    base = folder(tmp_path / "set", grey=True)
    picture(9).save(base / "cats/colour.png")
    assert prepared(base).channels == 3


def test_copies_are_kept_once_and_counted(own: Path) -> None:
    before = prepared(own)
    (own / "cats/copy.png").write_bytes((own / "cats/00.png").read_bytes())
    Image.open(own / "cats/01.png").save(own / "cats/other-file.bmp")
    (own / "dogs/cat.png").write_bytes((own / "cats/02.png").read_bytes())
    made = prepared(own)
    assert made.skipped == {COPIES: 2, CLASHES: 1}
    assert arrays(made) == arrays(before)
    assert f"left out: 2 {COPIES}, 1 {CLASHES}" in made.description


def test_a_class_of_one_picture_or_none_is_left_out_and_named(own: Path) -> None:
    (own / "ants").mkdir()
    (own / "bats").mkdir()
    picture(900).save(own / "bats/only.png")
    made = prepared(own)
    assert made.classes == ("cats", "dogs", "owls")
    assert made.skipped == {LONELY: 1}
    assert sorted(set(made.train_labels.tolist())) == [0, 1, 2]
    assert "classes with fewer than two different pictures, left out: ants, bats" in made.description


def test_where_fewer_than_two_classes_are_left_the_error_names_those_that_fell_short(tmp_path: Path) -> None:
    base = folder(tmp_path / "pets", ("cats",))
    (base / "dogs").mkdir()
    picture(900).save(base / "dogs/only.png")
    (base / "dogs/broken.png").write_bytes(b"?")
    with (
        pytest.warns(UserWarning, match="1 of the 8 files"),
        pytest.raises(ValueError, match=rf"pets has 1 class .*1 {UNREADABLE}, 1 {LONELY}; .*fell short: dogs"),
    ):
        prepared(base)


def test_a_folder_of_files_that_are_no_pictures_is_an_error_that_counts_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"0 pictures were read from 2 class folders .*2 not a picture by name"):
        prepared(tmp_path / "set")


def test_what_was_left_out_is_still_told_when_the_cache_is_opened(own: Path) -> None:
    (own / "cats/broken.png").write_bytes(b"?")
    (own / "cats/.DS_Store").touch()
    with pytest.warns(UserWarning, match="the first of them cats.broken.png"):
        first = prepared(own)
    again = prepared(own)
    assert first.skipped == again.skipped == {UNREADABLE: 1, reading.HIDDEN: 1}


def test_two_caches_hold_the_same_bytes(own: Path, tmp_path: Path) -> None:
    one, two = (prepared(own, tmp_path / name) for name in ("one", "two"))
    assert arrays(one) == arrays(two)
    assert one.key == two.key
    places = [next((tmp_path / name / "pictures").iterdir()) for name in ("one", "two")]
    assert files.verify_folder(places[0]) == files.verify_folder(places[1])


def test_the_second_time_the_cache_is_opened_and_no_picture_is_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(own)
    monkeypatch.setattr(reading, "read", lambda *_: pytest.fail("read again"))
    second = prepared(own)
    assert arrays(second) == arrays(first)
    assert second.key == first.key


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_is_shown_while_a_folder_is_read_if_wanted(
    own: Path, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(own, progress=shown)
    assert ("reading pictures" in capsys.readouterr().err) == shown


def test_equal_keys_mean_equal_pixels_whatever_the_files_and_the_folder_are_called(own: Path, tmp_path: Path) -> None:
    first = prepared(own)
    for number, path in enumerate(sorted((own / "cats").iterdir())):
        path.rename(own / "cats" / f"{number}.renamed.png")
    own.rename(tmp_path / "moved")
    (tmp_path / "moved/notes.txt").touch()
    again = prepared(tmp_path / "moved")
    assert again.name == "moved"
    assert again.key == first.key
    assert arrays(again) == arrays(first)
    assert again.skipped == {reading.OUTSIDE: 1}


def test_other_pixels_sizes_colours_or_names_of_classes_are_other_keys(own: Path) -> None:
    keys = [prepared(own, **more).key for more in ({}, {"side": 12}, {"grey": True})]
    (own / "cats").rename(own / "bats")
    keys.append(prepared(own).key)
    picture(901).save(own / "bats/00.png")
    keys.append(prepared(own).key)
    assert len(set(keys)) == 5


@pytest.mark.parametrize("name", ["train.npy", "train_labels.npy", "heldout.npy", "facts.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_in_the_cache_is_reported_and_the_pictures_are_made_again(
    own: Path, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepared(own, tmp_path / "cache")
    path = cached(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "flip" else content[:-3])
    with caplog.at_level(logging.WARNING):
        second = prepared(own, tmp_path / "cache")
    assert "The cached pictures are made again" in caplog.text
    assert (name if name != "manifest.json" else str(cached(tmp_path))) in caplog.text
    assert arrays(second) == arrays(first)
    assert files.verify_folder(cached(tmp_path))


@pytest.mark.parametrize("name", ["\u6f22" * 80, "\U00020bb7" * 60, "a" + "\u00e9" * 100])
def test_a_long_name_of_wide_letters_finds_room_in_the_cache(name: str, tmp_path: Path) -> None:
    made = in_tokens(
        prepared(folder(tmp_path / name), tmp_path / "cache", side=12), codec="learned:3x3,width=8,steps=1",
        cache=tmp_path / "cache", progress=False,
    )  # fmt: skip
    schooled(made.pictures, schooling=Schooling(steps=1), cache=tmp_path / "cache", progress=False)
    assert made.pictures.name == name
    assert [place.name for place in sorted((tmp_path / "cache").iterdir())] == [
        "codecs", "judges", "pictures", "tokens",
    ]  # fmt: skip
    assert all(len(path.name.encode()) <= 80 for path in (tmp_path / "cache").rglob("*"))


def test_a_path_means_a_folder_even_if_it_is_called_like_a_named_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "mnist")
    assert prepared(Path("mnist")).classes == ("cats", "dogs")
    assert prepared("./mnist").classes == ("cats", "dogs")


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        ("animal", {}, "did you mean animals"),
        ("nowhere/at/all", {}, "neither a named set of pictures nor a folder"),
        ("", {}, "The source is empty: give one of animals, mnist, digits"),
        ("mnist", {"side": 32}, "side=32 was asked of mnist, which has its own form"),
        ("mnist", {"grey": False}, "colour was asked of mnist"),
        ("anything", {"side": 3}, "side=3 was given; expected 4 to 512"),
        ("anything", {"side": 1000}, "side=1000 was given"),
    ],
)
def test_bad_requests_say_what_to_write_instead(source: str, more: dict[str, object], says: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        prepared(source, **more)


@pytest.mark.parametrize(
    ("said", "error"), [("ERROR: No matching distribution", Unavailable), ("No module named pip", NoPip)]
)
def test_a_named_set_that_cannot_be_fetched_says_so_and_what_needs_no_network(
    said: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(error, match=r"No animals: .* A folder .* needs no network") as raised:
        prepared("animals", tmp_path)
    assert type(raised.value) is error


def test_the_named_sets_are_described_with_origin_licence_and_size(tmp_path: Path) -> None:
    lines = sources.describe(tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["animals", "mnist", "digits"]
    assert all("MB to fetch" in line for line in lines)
    assert "MIT; where the photographs are from is not stated" in lines[0]
    assert "28 x 28" in lines[1]
    assert all("BSD-3-Clause" in line for line in lines[1:])


def test_an_array_is_found_in_a_pickle_that_is_not_unpickled() -> None:
    body = bytes(range(12))
    pickled = b"\x80\x03cnumpy\nsomething\nB" + (12).to_bytes(4, "little") + body + b"q\x01."
    assert sources._array(pickled, "uint8", (3, 4)).tolist() == np.arange(12).reshape(3, 4).tolist()
    for bad in (pickled[:-8], pickled.replace(b"B\x0c", b"B\x0d"), b""):
        with pytest.raises(files.Damaged, match="holds no array of 12 bytes"):
            sources._array(bad, "uint8", (3, 4))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "train", "heldout", "side", "skipped", "per_class"),
    [
        ("animals", 9229, 487, 28, {COPIES: 284}, (800, 1000)),
        ("mnist", 4750, 250, 28, {}, (500, 500)),
        ("digits", 1707, 90, 8, {}, (174, 183)),
    ],
)
def test_each_named_set_is_fetched_read_and_split(
    name: str, train: int, heldout: int, side: int, skipped: dict[str, int], per_class: tuple[int, int],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = prepared(name, tmp_path)
    assert (len(made.train), len(made.heldout)) == (train, heldout)
    assert made.train.shape[1:] == made.heldout.shape[1:] == (side, side, 1)
    assert made.skipped == skipped
    assert len(made.classes) == 10
    counts = np.bincount(made.train_labels) + np.bincount(made.heldout_labels)
    assert per_class[0] <= counts.min() <= counts.max() <= per_class[1]
    assert (made.train.min(), made.train.max()) == (0, 255)
    assert {each.tobytes() for each in made.train}.isdisjoint(each.tobytes() for each in made.heldout)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked pip"))
    assert prepared(name, tmp_path).key == made.key


@pytest.mark.network
def test_the_animals_carry_the_right_names(tmp_path: Path) -> None:
    made = prepared("animals", tmp_path)
    assert made.classes == ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
    white = made.train[..., 0] > 128
    own = {name: white[made.train_labels == label] for label, name in enumerate(made.classes)}
    greys = (made.train > 48) & (made.train < 208)
    shades = {name: greys[made.train_labels == label].mean() for label, name in enumerate(made.classes)}
    assert max(shades, key=shades.__getitem__) == "zebra"  # the stripes
    area = {name: each.mean() for name, each in own.items()}
    assert sorted(area, key=area.__getitem__)[0] == "giraffe"
    assert sorted(area, key=area.__getitem__)[-1] in ("bear", "elephant")


@pytest.mark.network
@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_the_digits_carry_the_right_names(name: str, tmp_path: Path) -> None:
    made = prepared(name, tmp_path)
    assert made.classes == tuple("0123456789")
    middle = made.side[0] // 2
    inked = made.train[:, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((1, 2, 3))
    means = [inked[made.train_labels == label].mean() for label in range(10)]
    assert int(np.argmin(means)) == 0  # a nought is hollow
    ink = [made.train[made.train_labels == label].mean() for label in range(10)]
    if name == "mnist":
        assert int(np.argmin(ink)) == 1


def test_a_full_disk_leaves_no_half_written_pictures(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(pictures.np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            prepared(own, tmp_path / "cache")
    assert list((tmp_path / "cache/pictures").iterdir()) == []
    assert len(prepared(own, tmp_path / "cache").train) == 15
