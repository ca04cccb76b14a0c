from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.images.making import folder, noise, picture
from vademecum.images import reading
from vademecum.images.decoding import HUGE, LARGEST, OTHER, UNREADABLE, Refused, square


def reason(path: Path) -> str:
    with pytest.raises(Refused) as refusal:
        square(path, 8)
    return refusal.value.reason


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_that_says(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a large grey picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "PNG"])
def test_a_picture_of_the_right_size_comes_back_as_it_is(suffix: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(square(tmp_path / f"a.{suffix}", 12), noise(1))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_lossy_forms_come_back_nearly_as_they_were(suffix: str, tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None], (12, 12, 3))
    Image.fromarray(np.ascontiguousarray(smooth)).save(tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(square(tmp_path / f"a.{suffix}", 12).astype(int) - smooth).max() <= 8


@pytest.mark.parametrize(("height", "width"), [(10, 30), (30, 10), (160, 480), (20, 24), (10, 10), (10, 500)])
def test_the_middle_is_taken_and_the_shorter_side_becomes_the_side(height: int, width: int, tmp_path: Path) -> None:
    values = np.full((height, width, 3), 200, np.uint8)
    short = min(height, width)
    if height != width:  # mark all but the middle square
        first = (max(height, width) - short) // 2
        ends = values if height > width else values.swapaxes(0, 1)
        ends[:first], ends[first + short :] = 0, 0
    Image.fromarray(values).save(tmp_path / "a.png")
    found = square(tmp_path / "a.png", 10)
    assert found.shape == (10, 10, 3)
    assert (found == 200).all()


@pytest.mark.parametrize(("height", "width"), [(3, 9), (1, 1), (1, 400), (9, 9)])
def test_a_small_picture_is_enlarged(height: int, width: int, tmp_path: Path) -> None:
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(square(tmp_path / "a.png", 10), np.full((10, 10, 3), 200, np.uint8))


def test_a_large_picture_is_averaged_not_sampled(tmp_path: Path) -> None:
    board = (np.indices((800, 800)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    assert np.abs(square(tmp_path / "a.png", 8).astype(int) - 127).max() <= 1


def transparent(mode: str) -> Image.Image:
    clear = Image.new("RGBA", (12, 12), (10, 20, 30, 0))
    clear.paste((100, 100, 100, 255), (0, 0, 12, 6))
    return clear.convert(mode)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_becomes_white(mode: str, large: bool, tmp_path: Path) -> None:
    made = transparent(mode)
    (made.resize((120, 120), Image.Resampling.NEAREST) if large else made).save(tmp_path / "a.png")
    found = square(tmp_path / "a.png", 12)
    assert (found[:6] == 100).all()
    assert (found[6:] == 255).all()


def test_half_transparent_black_becomes_grey(tmp_path: Path) -> None:
    Image.new("RGBA", (12, 12), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert (square(tmp_path / "a.png", 12) == 127).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_marked_as_transparent_becomes_white(mode: str, tmp_path: Path) -> None:
    values = np.zeros((12, 12), np.uint8)
    values[:6] = 255
    image = Image.fromarray(values).convert(mode)
    if mode == "P":
        image = Image.fromarray(values // 255)
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    found = square(tmp_path / "a.png", 12)
    assert (found[6:] == 255).all()
    assert found[0, 0].tolist() == ([255, 0, 0] if mode == "P" else [255, 255, 255])


def test_a_palette_is_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(np.eye(12, dtype=np.uint8))
    image.putpalette([10, 200, 30, 250, 1, 2])
    image.save(tmp_path / "a.png")
    found = square(tmp_path / "a.png", 12)
    assert found[0, 0].tolist() == [250, 1, 2]
    assert found[0, 1].tolist() == [10, 200, 30]


@pytest.mark.parametrize("brightest", [255, 40])
@pytest.mark.parametrize("form", ["png", "tiff", "pgm"])
def test_sixteen_bits_of_grey_become_the_upper_eight(form: str, brightest: int, tmp_path: Path) -> None:
    grey = np.linspace(0, brightest, 144).astype(np.uint16).reshape(12, 12)
    if form == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 12 12 65535\n" + (grey * 257).astype(">u2").tobytes())
    else:
        Image.fromarray(grey * 257).save(tmp_path / f"a.{form}")
    found = square(tmp_path / f"a.{form}", 12)
    assert np.abs(found[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floating_point_values_are_brought_to_bytes_by_their_range(top: float, tmp_path: Path) -> None:
    values = np.linspace(0, top, 144, dtype=np.float32).reshape(12, 12)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tiff")
    found = square(tmp_path / "a.tiff", 12)[..., 0]
    assert found[0, 0] == 0
    assert found[-1, -1] == 255
    assert 120 <= np.median(found) <= 135


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert square(tmp_path / "a.gif", 12)[3, 3].tolist() == [200, 0, 0]


ORIENTATIONS: list[NDArray[np.uint8]] = [
    noise(4),
    noise(4)[:, ::-1],
    noise(4)[::-1, ::-1],
    noise(4)[::-1],
    noise(4).swapaxes(0, 1),
    np.rot90(noise(4), -1),
    np.rot90(noise(4), 2).swapaxes(0, 1),
    np.rot90(noise(4)),
]


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int, form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(4).save(tmp_path / f"a.{form}", exif=exif)
    assert np.array_equal(square(tmp_path / f"a.{form}", 12), ORIENTATIONS[orientation - 1])


def test_a_picture_with_broken_exif_is_read_all_the_same(tmp_path: Path) -> None:
    picture(4).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    assert np.array_equal(square(tmp_path / "a.png", 12), noise(4))


def test_cmyk_is_read(tmp_path: Path) -> None:
    Image.new("CMYK", (12, 12), (0, 0, 0, 255)).save(tmp_path / "a.jpg")
    assert square(tmp_path / "a.jpg", 8).max() <= 5


@pytest.mark.parametrize("name", ["a.txt", "a", "a.eps", "a.png.part"])
def test_a_file_without_the_name_of_a_picture_is_refused(name: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / name, format="PNG")
    assert reason(tmp_path / name) == OTHER


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"II*\0"]
)
def test_bytes_that_are_no_picture_are_unreadable(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path / "a.png") == UNREADABLE


def test_a_form_that_another_program_would_have_to_draw_is_not_opened(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == UNREADABLE


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "ppm", "tiff"])
def test_a_truncated_picture_is_unreadable(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(1, 64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == UNREADABLE


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_whatever_bytes_are_spoilt_a_picture_is_read_or_refused(suffix: str, tmp_path: Path) -> None:
    path, dice = tmp_path / f"a.{suffix}", np.random.default_rng(5)
    picture(1, 20, 20).save(path)
    whole = path.read_bytes()
    outcomes = set[str]()
    for _ in range(60):
        spoilt = np.frombuffer(whole, np.uint8).copy()
        spoilt[dice.integers(0, min(len(spoilt), 90), 4)] = dice.integers(0, 256, 4)
        path.write_bytes(spoilt.tobytes())
        try:
            assert square(path, 8).shape == (8, 8, 3)
            outcomes.add("read")
        except Refused as refusal:
            outcomes.add(refusal.reason)
    assert UNREADABLE in outcomes
    assert outcomes <= {"read", UNREADABLE, HUGE}


@pytest.mark.parametrize("side", [8_000, 30_000, 100_000])
def test_a_picture_that_would_need_gigabytes_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    assert side * side > LARGEST
    (tmp_path / "a.png").write_bytes(png_that_says(side, side))
    assert reason(tmp_path / "a.png") == HUGE


def test_the_limit_holds_where_pillows_own_was_taken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(png_that_says(50_000, 50_000))
    assert reason(tmp_path / "a.png") == HUGE


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
def test_a_listing_is_in_order_and_counts_what_is_none_of_its_files(tmp_path: Path) -> None:
    folder(tmp_path / "set", count=2)
    (tmp_path / "set/.DS_Store").touch()
    (tmp_path / "set/.git").mkdir()
    (tmp_path / "set/readme.txt").touch()
    (tmp_path / "set/cats/.hidden.png").touch()
    (tmp_path / "set/cats/more").mkdir()
    picture(7).save(tmp_path / "set/cats/more/a.png")
    (tmp_path / "set/cats/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set/cats/again").symlink_to(tmp_path / "set", target_is_directory=True)
    os.mkfifo(tmp_path / "set/dogs/pipe.png")
    found = reading.listing(tmp_path / "set")
    assert [[path.name for path in paths] for paths in found.classes.values()] == [
        ["00.png", "01.png", "a.png"],
        ["00.png", "01.png"],
    ]
    assert list(found.classes) == ["cats", "dogs"]
    assert found.skipped == {reading.HIDDEN: 3, reading.OUTSIDE: 1, reading.ODD: 3}


def test_every_file_is_read_or_counted(tmp_path: Path) -> None:
    folder(tmp_path / "set", count=3)
    (tmp_path / "set/cats/notes.txt").write_text("hello")
    (tmp_path / "set/cats/bad.png").write_bytes(b"bad")
    (tmp_path / "set/dogs/bomb.png").write_bytes(png_that_says(90_000, 90_000))
    (tmp_path / "set/outside.png").touch()
    listed = reading.listing(tmp_path / "set")
    with pytest.warns(UserWarning, match=r"2 of the 9 files .*the first of them cats.bad\.png"):
        found = reading.read(listed, 12, progress=False)
    assert found.skipped == {OTHER: 1, UNREADABLE: 1, HUGE: 1, reading.OUTSIDE: 1}
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(found.pictures, np.stack([noise(seed) for seed in (0, 1, 2, 100, 101, 102)]))


def test_a_file_that_vanishes_between_looking_and_reading_is_counted(tmp_path: Path) -> None:
    listed = reading.listing(folder(tmp_path / "set", count=2))
    (tmp_path / "set/cats/00.png").unlink()
    assert len(reading.content(listed)) == 64
    with pytest.warns(UserWarning, match="1 of the 4 files"):
        assert reading.read(listed, 8, progress=False).skipped == {UNREADABLE: 1}


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    folder(tmp_path / "set", count=2)
    try:
        os.rename(os.fsencode(tmp_path / "set/cats"), os.fsencode(tmp_path / "set") + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes names of text only")
    listed = reading.listing(tmp_path / "set")
    assert list(listed.classes) == ["caf?", "dogs"]
    assert len(reading.content(listed)) == 64
    assert len(reading.read(listed, 8, progress=False).labels) == 4


def test_names_that_are_no_text_and_would_be_alike_are_numbered(tmp_path: Path) -> None:
    base = folder(tmp_path / "set", ("caf?", "caf? (3)", "one", "two"), count=2)
    try:
        for name, broken in (("one", b"caf\xe9"), ("two", b"caf\xe8")):
            os.rename(os.fsencode(base / name), os.fsencode(base) + b"/" + broken)
    except OSError:
        pytest.skip("this file system takes names of text only")
    listed = reading.listing(base)
    assert {name: len(paths) for name, paths in listed.classes.items()} == {
        "caf?": 2, "caf? (3)": 2, "caf? (2)": 2, "caf? (4)": 2,
    }  # fmt: skip
    assert len(set(reading.read(listed, 8, progress=False).labels.tolist())) == 4


def test_classes_that_differ_in_case_are_two(tmp_path: Path) -> None:
    base = folder(tmp_path / "set", ("cats", "dogs"), count=2)
    if (base / "CATS").exists():
        pytest.skip("this file system knows no case")
    (base / "dogs").rename(base / "Cats")
    assert list(reading.listing(base).classes) == ["Cats", "cats"]


def test_the_content_changes_with_any_byte_name_or_class(tmp_path: Path) -> None:
    base = folder(tmp_path / "set", count=2)
    seen = [reading.content(reading.listing(base))]
    (base / "cats/00.png").rename(base / "cats/02.png")
    seen.append(reading.content(reading.listing(base)))
    picture(77).save(base / "cats/02.png")
    seen.append(reading.content(reading.listing(base)))
    (base / "cats").rename(base / "lions")
    seen.append(reading.content(reading.listing(base)))
    (base / "owls").mkdir()
    seen.append(reading.content(reading.listing(base)))
    assert len(set(seen)) == 5


def test_the_content_does_not_change_with_the_place(tmp_path: Path) -> None:
    before = reading.content(reading.listing(folder(tmp_path / "set", count=2)))
    (tmp_path / "set").rename(tmp_path / "moved")
    assert reading.content(reading.listing(tmp_path / "moved")) == before


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda path: None, FileNotFoundError, "neither a named set of pictures nor a folder"),
        (lambda path: path.write_text("x"), ValueError, "is a file: give a folder"),
        (lambda path: path.mkdir(), ValueError, "holds nothing: put the pictures of each class"),
        (lambda path: (path / ".git").mkdir(parents=True), ValueError, "holds nothing"),
        (lambda path: (path.mkdir(), (path / "a.png").touch()), ValueError, "holds 1 files and no sub-folders"),
    ],
    ids=["missing", "file", "empty", "hidden", "flat"],
)
def test_a_folder_without_classes_is_an_error_that_says_what_to_do(
    make: object, error: type[Exception], says: str, tmp_path: Path
) -> None:
    make(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises(error, match=says):
        reading.listing(tmp_path / "set")


def test_grey_is_luma_and_leaves_grey_values_as_they_are() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 1, 1, 3))
    assert np.array_equal(reading.grey_values(ramp), ramp[..., :1])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8).reshape(3, 1, 1, 3)
    assert reading.grey_values(colours).ravel().tolist() == [76, 150, 29]
    assert reading.is_grey(ramp)
    assert not reading.is_grey(colours)
