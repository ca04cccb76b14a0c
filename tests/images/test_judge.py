from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.images.shapes import SHORT, judge_of, pictures, shapes
from vademecum import files
from vademecum.images.judge import Extractor, Judge, Network, Schooling, TorchScript, schooled


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judge(cache: Path) -> Judge:
    torch.set_num_threads(1)
    return judge_of(pictures(), cache)


def test_a_judge_tells_the_classes_of_pictures_it_never_saw(judge: Judge) -> None:
    assert judge.accuracy > 0.9  # chance is a third
    images, labels = shapes(60, seed=99)
    assert (judge.labels(images) == labels).mean() > 0.9


def test_features_are_64_wide_and_do_not_depend_on_the_company(judge: Judge) -> None:
    images, _ = shapes(300, seed=5)
    features = judge.features(images)
    assert features.shape == (300, 64)
    assert features.dtype == np.float32
    assert np.allclose(features[280:], judge.features(images[280:]), atol=1e-5)
    assert judge.features(images[:0]).shape == (0, 64)
    assert judge.labels(images[:0]).shape == (0,)


def test_the_features_are_what_the_labels_are_read_from(judge: Judge) -> None:
    images, _ = shapes(30, seed=6)
    with torch.no_grad():
        read = judge.network.head(torch.from_numpy(judge.features(images))).argmax(1).numpy()
    assert (read == judge.labels(images)).all()


def test_the_description_says_that_it_is_not_inception_and_how_good_it_is(judge: Judge) -> None:
    assert "not of Inception" in judge.description
    assert f"{100 * judge.accuracy:.1f} %" in judge.description


def test_one_from_the_cache_is_the_same_to_the_bit_and_trains_nothing(
    judge: Judge, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vademecum.images.judge._train", lambda *_: pytest.fail("trained again"))
    again = judge_of(pictures(), cache)
    images, _ = shapes(20, seed=7)
    assert np.array_equal(again.features(images), judge.features(images))
    assert again.accuracy == judge.accuracy
    assert again.classes == judge.classes


def test_the_same_seed_gives_the_same_judge_another_seed_another(judge: Judge, tmp_path: Path) -> None:
    short = Schooling(steps=8, batch=16)
    first, again = (judge_of(pictures(), tmp_path / name, short) for name in "ab")
    other = judge_of(pictures(), tmp_path / "a", dataclasses.replace(short, seed=1))
    images, _ = shapes(20, seed=7)
    assert np.array_equal(first.features(images), again.features(images))
    assert not np.array_equal(first.features(images), other.features(images))


def test_training_leaves_the_callers_random_numbers_as_they_were(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for _ in ("trained", "from the cache"):
        judge_of(pictures(), tmp_path, Schooling(steps=2, batch=8))
        assert torch.equal(before, torch.get_rng_state())


def test_other_pictures_and_another_schooling_get_judges_of_their_own(tmp_path: Path) -> None:
    short = Schooling(steps=2, batch=8)
    judge_of(pictures(), tmp_path, short)
    judge_of(pictures(key="others"), tmp_path, short)
    judge_of(pictures(), tmp_path, dataclasses.replace(short, lr=1e-3))
    assert len(list((tmp_path / "judges").iterdir())) == 3


@pytest.mark.parametrize("name", ["judge.safetensors", "judge.json", "manifest.json"])
def test_a_damaged_judge_is_trained_again_and_said_so(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = Schooling(steps=4, batch=8)
    first = judge_of(pictures(), tmp_path, short)
    (folder,) = (tmp_path / "judges").iterdir()
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = judge_of(pictures(), tmp_path, short)
    assert "trained again" in caplog.text
    files.verify_folder(folder)
    images, _ = shapes(20, seed=7)
    assert np.array_equal(first.features(images), again.features(images))


@pytest.mark.parametrize(("side", "channels"), [(8, 3), (9, 1), (33, 3)])
def test_any_side_from_8_on_grey_or_colour(side: int, channels: int, tmp_path: Path) -> None:
    some = pictures(count=12, heldout=6, side=side, channels=channels)
    judge = judge_of(some, tmp_path, Schooling(steps=2, batch=4))
    assert judge.features(some.heldout).shape == (6, 64)


def test_of_large_pictures_blocks_are_averaged_so_that_the_work_stays_bounded() -> None:
    def works_on(*side: int) -> tuple[int, ...]:
        network = Network(side, 1, 2, width=2)
        return tuple(network.seen(torch.zeros(1, 1, *side)).shape[2:])

    assert works_on(28, 28) == (28, 28)
    assert works_on(64, 127) == (64, 127)
    assert works_on(256, 8) == (64, 8)
    assert max(works_on(512, 300)) < 128


def test_pictures_too_small_to_judge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"7 x 7 are too small.*8 x 8"):
        judge_of(pictures(side=7), tmp_path)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 12, 12, 3), np.uint8), np.zeros((2, 12, 12), np.uint8), np.zeros((2, 12, 12, 1))]
)
def test_pictures_unlike_those_it_knows_are_refused(judge: Judge, images: np.ndarray) -> None:
    for ask in (judge.features, judge.labels):
        with pytest.raises(ValueError, match=re.escape("[N, 12, 12, 1] of uint8")):
            ask(images)


def test_progress_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schooled(pictures(), schooling=Schooling(steps=2, batch=8), cache=tmp_path, progress=True)
    assert "schooling the judge" in capsys.readouterr().err
    assert SHORT.steps < Schooling().steps


# Extractors on disk


class Means(nn.Module):
    """Mean of each colour, and the size it was given."""

    def forward(self, images: Tensor) -> Tensor:
        size = torch.full((images.shape[0], 1), float(images.shape[2]))
        return torch.cat([images.mean(dim=[2, 3]), size], dim=1)


class Inception(nn.Module):
    """Like the published file: classes, unless features are asked for."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        return images.mean(dim=[2, 3]) if return_features else torch.zeros(images.shape[0], 9)


class Maps(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(images)
        return out


def on_disk(module: nn.Module, folder: Path) -> Path:
    path = folder / "net.pt"
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_an_extractor_gets_colour_pictures_of_its_side_from_0_to_255(tmp_path: Path) -> None:
    extractor: Extractor = TorchScript(on_disk(Means(), tmp_path), side=20)
    grey = np.full((40, 10, 14, 1), 200, np.uint8)
    found = extractor.features(grey)
    assert found.shape == (40, 4)
    assert np.allclose(found, [200, 200, 200, 20], atol=1e-3)
    colour = np.zeros((2, 10, 10, 3), np.uint8)
    colour[..., 0], colour[..., 2] = 255, 10
    assert np.allclose(extractor.features(colour), [255, 0, 10, 20], atol=1e-3)


def test_features_are_asked_for_where_the_file_can_give_classes_too(tmp_path: Path) -> None:
    extractor = TorchScript(on_disk(Inception(), tmp_path), side=8)
    assert np.allclose(extractor.features(np.full((2, 8, 8, 1), 7, np.uint8)), 7)


def test_the_description_names_the_file_and_its_content(tmp_path: Path) -> None:
    path = on_disk(Means(), tmp_path)
    said = TorchScript(path).description
    assert "net.pt" in said
    assert files.sha256(path)[:12] in said
    assert "299 x 299" in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt is not there"):
        TorchScript(tmp_path / "nowhere.pt")


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    text, weights = tmp_path / "notes.pt", tmp_path / "weights.pt"
    text.write_text("not a network")
    torch.save({"a": torch.zeros(2)}, weights)
    for path in (text, weights):
        with pytest.raises(ValueError, match=f"{path.name} is not a TorchScript module"):
            TorchScript(path)


def test_what_returns_no_features_or_reads_no_pictures_is_named(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match=re.escape("returned [2, 3, 8, 8], not features [2, D]")):
        TorchScript(on_disk(Maps(), tmp_path), side=8).features(images)
    with pytest.raises(ValueError, match=re.escape("cannot read pictures [2, 3, 8, 8]")):
        TorchScript(on_disk(Narrow(), tmp_path), side=8).features(images)


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (2, 8, 8, 2), (2, 8, 8)])
def test_an_extractor_refuses_what_are_no_pictures(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(list(shape)))):
        TorchScript(on_disk(Means(), tmp_path), side=8).features(np.zeros(shape, np.uint8))
