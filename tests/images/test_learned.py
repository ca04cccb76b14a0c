from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.images.drawn import drawn, shapes
from vademecum import files
from vademecum.data import order
from vademecum.images import learning
from vademecum.images.autoencoder import WEIGHTS, AutoEncoder, Shape
from vademecum.images.codec import FILE, open_codec, reconstruction
from vademecum.images.learning import Lessons, learned, train

SMALL: dict[str, Any] = {"levels": (5, 5), "shrink": 4, "width": 16}


def small(side: tuple[int, int] = (12, 12), channels: int = 1, **changed: Any) -> AutoEncoder:
    torch.manual_seed(0)
    return AutoEncoder(Shape(side=side, channels=channels, **{**SMALL, **changed})).eval()


def test_it_learns_to_keep_pictures_it_never_saw() -> None:
    pictures = drawn()
    model = train(pictures, Shape(side=(12, 12), channels=1, levels=(8, 8), width=16), Lessons(steps=80), False)
    found = reconstruction(model, pictures.heldout)
    mean = pictures.train.mean(0).astype(np.float64)
    assert found.error < 0.5 * np.abs(pictures.heldout - mean).mean()
    assert found.used > 4
    assert found.perplexity > 2


def test_equal_seeds_give_equal_codecs_and_others_do_not() -> None:
    def made(seed: int) -> AutoEncoder:
        torch.rand(seed + 1)  # what was drawn before must not matter
        return train(drawn(), Shape(side=(12, 12), channels=1, **SMALL), Lessons(steps=3, seed=seed), False)

    first, again, other = made(0), made(0), made(1)
    assert first.key == again.key != other.key
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    train(drawn(), Shape(side=(12, 12), channels=1, **SMALL), Lessons(steps=1), False)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 21, 40])
def test_any_number_of_steps_can_be_asked_for(steps: int) -> None:
    pictures = drawn(8, side=(4, 4), held=2)
    model = train(pictures, Shape(side=(4, 4), channels=1, **SMALL), Lessons(steps=steps, batch=2), False)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("side", "grid"), [((12, 12), (3, 3)), ((13, 10), (4, 3)), ((7, 21), (2, 6)), ((4, 4), (1, 1))]
)
def test_any_side_and_colour_comes_back_in_its_size(
    channels: int, side: tuple[int, int], grid: tuple[int, int]
) -> None:
    codec = small(side, channels)
    pictures = shapes(5, side=side, channels=channels)
    ids = codec.encode(pictures)
    assert codec.grid == grid
    assert ids.shape == (5, grid[0] * grid[1])
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < codec.codes == 25
    made = codec.decode(ids)
    assert made.shape == pictures.shape
    assert made.dtype == np.uint8


def test_what_is_padded_is_taken_off_at_the_far_edges() -> None:
    """A picture's own pixels lie where they would in the larger picture that repeats its edge."""
    odd, even = small((10, 11)), small((12, 12))
    even.load_state_dict(odd.state_dict())
    pictures = shapes(3, side=(10, 11))
    larger = np.pad(pictures, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="edge")
    assert np.array_equal(odd.encode(pictures), even.encode(larger))
    assert np.array_equal(odd.decode(odd.encode(pictures)), even.decode(even.encode(larger))[:, :10, :11])


@pytest.mark.parametrize(("shrink", "grid"), [(1, (12, 12)), (2, (6, 6)), (8, (2, 2))])
def test_the_grid_is_as_much_coarser_as_asked(shrink: int, grid: tuple[int, int]) -> None:
    codec = small(shrink=shrink)
    assert codec.grid == grid
    assert codec.decode(codec.encode(shapes(2))).shape == (2, 12, 12, 1)


def test_colours_are_learned_too() -> None:
    pictures = drawn(channels=3)
    model = train(pictures, Shape(side=(12, 12), channels=3, levels=(8, 8, 8), width=16), Lessons(steps=80), False)
    mean = pictures.train.mean(0).astype(np.float64)
    assert reconstruction(model, pictures.heldout).error < 0.6 * np.abs(pictures.heldout - mean).mean()


def test_every_code_can_be_decoded() -> None:
    codec = small((4, 4))
    made = codec.decode(np.arange(codec.codes)[:, None])
    assert made.shape == (25, 4, 4, 1)
    assert len(np.unique(made.reshape(25, -1), axis=0)) > 1


def test_more_pictures_than_a_batch_and_none_at_all_are_encoded() -> None:
    codec = small()
    pictures = shapes(300)
    ids = codec.encode(pictures)
    assert len(ids) == 300
    assert np.array_equal(ids[256:], codec.encode(pictures[256:]))
    assert codec.encode(pictures[:0]).shape == (0, 9)
    assert codec.decode(ids[:0]).shape == (0, 12, 12, 1)


def test_pictures_that_cannot_be_written_to_are_read_without_a_warning() -> None:
    pictures = shapes(3)
    pictures.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small().encode(pictures).shape == (3, 9)


def test_a_saved_codec_gives_the_same_codes_and_pixels(tmp_path: Path) -> None:
    codec = train(drawn(), Shape(side=(12, 12), channels=1, **SMALL), Lessons(steps=5), False)
    codec.save(tmp_path)
    found = open_codec(tmp_path)
    pictures = shapes(20, seed=1)
    ids = codec.encode(pictures)
    assert isinstance(found, AutoEncoder)
    assert found.key == codec.key
    assert found.shape == codec.shape
    assert not found.training
    assert np.array_equal(found.encode(pictures), ids)
    assert np.array_equal(found.decode(ids), codec.decode(ids))


def test_the_key_tells_weights_and_sizes_apart() -> None:
    codec, same, other = small(), small(), small()
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    wider = small((13, 13))
    wider.load_state_dict(codec.state_dict())
    assert codec.key == same.key
    assert len({codec.key, other.key, wider.key}) == 3


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])


def gone(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / WEIGHTS)


def changed(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return apply


def described(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        told = json.loads((folder / FILE).read_text())
        (folder / FILE).write_text(json.dumps({**told, "shape": {**told["shape"], **values}}))

    return apply


def no_shape(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps({"form": "learned"}))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut,
    "no weights": gone,
    "pickle": pickled,
    "a tensor missing": changed(lambda t: dict(list(t.items())[1:])),
    "a tensor too many": changed(lambda t: {**t, "more": torch.zeros(1)}),
    "another shape": changed(lambda t: {name: tensor[:1].clone() for name, tensor in t.items()}),
    "another type": changed(lambda t: {name: tensor.half() for name, tensor in t.items()}),
    "another width": described(width=24),
    "a width that is none": described(width=7),
    "an unknown size": described(depth=3),
    "levels that are none": described(levels=[2, 5]),
    "a side that is none": described(side="large"),
    "no sizes": no_shape,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_or_foreign_codec_is_a_named_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    small().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(files.Damaged, match="holds no codec that can be read") as caught:
        open_codec(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"levels": ()}, "levels=none was given"),
        ({"levels": (2, 8)}, "levels=2x8 was given; expected 3 or more"),
        ({"levels": (256, 256, 3)}, "at most 65,536"),
        ({"shrink": 3}, "shrink=3 was given"),
        ({"shrink": 16}, "no more than the side"),
        ({"width": 12}, "width=12 was given"),
        ({"width": 0}, "width=0 was given"),
        ({"channels": 2}, r"channels=2 was given; expected 1 \(grey\) or 3"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shape(**{"side": (12, 12), "channels": 1, **sizes})


@pytest.mark.parametrize("lessons", [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": 2.0}])
def test_lessons_that_cannot_be_are_refused(lessons: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="were given; expected 1 step or more"):
        Lessons(**lessons)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vademecum\[images\]'"):
        small()


@pytest.fixture
def lessons_given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of training that took place."""
    steps: list[int] = []
    rows = order.rows

    def counted(count: int, *, seed: int, step: int, batch: int) -> order.Ids:
        steps.append(step)
        return rows(count, seed=seed, step=step, batch=batch)

    monkeypatch.setattr(learning.order, "rows", counted)
    return steps


def cached(cache: Path, key: str = "drawn", steps: int = 2, seed: int = 0, **sizes: Any) -> AutoEncoder:
    shape = Shape(side=(12, 12), channels=1, **{**SMALL, **sizes})
    return learned(drawn(key=key), shape, lessons=Lessons(steps=steps, seed=seed), cache=cache, progress=False)


def test_it_is_learned_once_and_then_opened(tmp_path: Path, lessons_given: list[int]) -> None:
    first = cached(tmp_path)
    assert lessons_given == [0, 1]
    again = cached(tmp_path)
    assert lessons_given == [0, 1]
    assert again.key == first.key


@pytest.mark.parametrize("other", [{"key": "others"}, {"steps": 3}, {"seed": 1}, {"width": 24}, {"levels": (3, 3)}])
def test_other_pictures_sizes_and_lessons_are_learned_apart(
    tmp_path: Path, lessons_given: list[int], other: dict[str, Any]
) -> None:
    first = cached(tmp_path)
    lessons_given.clear()
    cached(tmp_path, **other)
    assert lessons_given
    assert cached(tmp_path).key == first.key


@pytest.mark.parametrize("name", [FILE, WEIGHTS, files.MANIFEST])
def test_a_damaged_codec_in_the_cache_is_learned_again(
    tmp_path: Path, lessons_given: list[int], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    first = cached(tmp_path)
    (path,) = tmp_path.rglob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    lessons_given.clear()
    assert cached(tmp_path).key == first.key
    assert lessons_given == [0, 1]
    assert "learned again" in caplog.text


@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_training_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException]
) -> None:
    rows = order.rows

    def interrupted(count: int, *, seed: int, step: int, batch: int) -> order.Ids:
        if step == 1:
            raise problem
        return rows(count, seed=seed, step=step, batch=batch)

    with monkeypatch.context() as patch:
        patch.setattr(learning.order, "rows", interrupted)
        with pytest.raises(problem):
            cached(tmp_path)
    assert list(tmp_path.rglob("*")) == []
    assert cached(tmp_path).codes == 25


def test_a_write_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: AutoEncoder, folder: Path) -> None:
        (folder / FILE).write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AutoEncoder, "save", half)
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
