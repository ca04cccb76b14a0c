from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.images.making import noise
from vademecum.images import drawing


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.sampled_from([1, 3]))
def test_every_picture_stands_at_its_place_in_the_grid(
    count: int, columns: int, scale: int, gap: int, channels: int
) -> None:
    pictures = np.stack([noise(seed, 4, 5, channels) for seed in range(count)])
    sheet = np.asarray(drawing.grid(pictures, columns, scale=scale, gap=gap))
    assert sheet.ndim == (2 if channels == 1 else 3)
    rows = -(-count // columns)
    assert sheet.shape[:2] == ((rows * (4 + gap) - gap) * scale, (columns * (5 + gap) - gap) * scale)
    small = sheet[::scale, ::scale].reshape(rows * (4 + gap) - gap, -1, channels)
    assert np.array_equal(sheet, np.repeat(np.repeat(sheet[::scale, ::scale], scale, 0), scale, 1))
    left = small.astype(int).sum()
    for number, picture in enumerate(pictures):
        top, start = number // columns * (4 + gap), number % columns * (5 + gap)
        assert np.array_equal(small[top : top + 4, start : start + 5], picture)
        left -= picture.astype(int).sum()
    assert left == 255 * (small.size - pictures.size)  # the rest is white


@pytest.mark.parametrize(("count", "columns", "scale"), [(0, 1, 1), (3, 0, 1), (3, 1, 0)])
def test_a_grid_of_nothing_is_an_error(count: int, columns: int, scale: int) -> None:
    with pytest.raises(ValueError, match=f"{count} pictures in {columns} columns at scale {scale}"):
        drawing.grid(np.zeros((count, 4, 4, 1), np.uint8), columns, scale=scale)


def test_rows_stand_below_each_other_with_their_names_at_the_left() -> None:
    rows = {"bears": np.full((3, 20, 20, 1), 90, np.uint8), "a much longer name": np.full((2, 20, 20, 1), 40, np.uint8)}
    page = np.asarray(drawing.labelled(rows, scale=1, gap=1))
    margin = page.shape[1] - (3 * 21 - 1)
    assert page.shape[0] == 2 * 21
    assert (page[:20, margin : margin + 20] == 90).all()
    assert (page[21:41, margin : margin + 20] == 40).all()
    assert (page[21:41, margin + 42 :] == 255).all()
    inked = (page[:, : margin - 4] < 128).any(0)
    assert inked.any()
    widths = [np.flatnonzero((page[top : top + 20, : margin - 4] < 128).any(0)).max() for top in (0, 21)]
    assert widths[0] < widths[1]


def test_colour_beside_grey_is_drawn_in_colour_whichever_comes_first() -> None:
    red = np.zeros((1, 14, 14, 3), np.uint8)
    red[..., 0] = 200
    rows = {"grey": np.full((1, 14, 14, 1), 90, np.uint8), "red": red}
    page = drawing.labelled(rows, scale=1)
    assert page.mode == "RGB"
    assert page.getpixel((page.width - 3, 5)) == (90, 90, 90)
    assert page.getpixel((page.width - 3, 20)) == (200, 0, 0)


@pytest.mark.parametrize("name", ["", "été", "猫", "two\nlines", "caf\udce9"])
def test_any_name_can_be_drawn(name: str) -> None:
    page = drawing.labelled({name: np.full((1, 8, 8, 1), 9, np.uint8)}, scale=1)
    assert page.getpixel((page.width - 1, 3)) == 9


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="No rows of pictures"):
        drawing.labelled({})


def test_a_saved_picture_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new/grid.png"
    for value in (10, 20):
        assert drawing.save(path, Image.new("L", (4, 4), value)) == path
        with Image.open(path) as found:
            assert found.getpixel((1, 1)) == value
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        drawing.save(path, Image.new("L", (4, 4), 30))
    with Image.open(path) as found:
        assert found.getpixel((1, 1)) == 20
    assert [each.name for each in path.parent.iterdir()] == ["grid.png"]


def test_an_embedded_picture_is_the_picture() -> None:
    made = Image.fromarray(noise(3))
    head, body = drawing.embedded(drawing.png(made)).split(",", 1)
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as found:
        assert np.array_equal(np.asarray(found), noise(3))
