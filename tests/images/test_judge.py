"""The judge learns, is kept and comes back the same; other extractors are read from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.images import bars
from vademecum import files
from vademecum.images.judge import Judge, Schooling, TorchScript, schooled
from vademecum.images.verdict import Bench

QUICK = Schooling(steps=60, batch=32)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return schooled(bars.pictures(), schooling=QUICK, cache=tmp_path_factory.mktemp("cache"), progress=False)


def test_it_tells_the_classes_of_held_out_pictures_apart(judge: Judge) -> None:
    assert judge.accuracy > 0.8
    assert "not of Inception" in judge.description
    assert judge.features(bars.pictures().heldout).shape == (45, 64)


def test_it_is_schooled_once_and_again_where_what_was_kept_is_damaged(tmp_path: Path) -> None:
    pictures = bars.pictures()
    first = schooled(pictures, schooling=QUICK, cache=tmp_path, progress=False)
    kept = next((tmp_path / "judges").iterdir())
    before = kept.stat().st_mtime_ns
    again = schooled(pictures, schooling=QUICK, cache=tmp_path, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert np.array_equal(again.features(pictures.heldout), first.features(pictures.heldout))
    (kept / "judge.safetensors").write_bytes(b"rubbish")
    mended = schooled(pictures, schooling=QUICK, cache=tmp_path, progress=False)
    assert np.array_equal(mended.features(pictures.heldout), first.features(pictures.heldout))
    assert np.array_equal(mended.labels(pictures.heldout), first.labels(pictures.heldout))


def test_pictures_too_small_to_judge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 x 4 are too small to judge: 8 is the least"):
        schooled(bars.pictures(side=4), schooling=QUICK, cache=tmp_path, progress=False)


def test_an_extractor_on_disk_gives_features_of_what_it_is_shown(tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3))

    path = tmp_path / "means.pt"
    torch.jit.script(Means()).save(str(path))
    found = TorchScript(path, side=16)
    white = np.full((2, 8, 8, 1), 255, np.uint8)
    np.testing.assert_allclose(found.features(white), np.full((2, 3), 255.0), rtol=1e-4)
    assert "means.pt" in found.description


def test_what_is_no_extractor_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pt is not there"):
        TorchScript(tmp_path / "gone.pt")
    (tmp_path / "text.pt").write_text("no module")
    with pytest.raises(files.Damaged, match=r"text\.pt is not a TorchScript module"):
        TorchScript(tmp_path / "text.pt")

    class Flat(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.flatten()

    torch.jit.script(Flat()).save(str(tmp_path / "flat.pt"))
    with pytest.raises(ValueError, match="it is no extractor"):
        TorchScript(tmp_path / "flat.pt").features(np.zeros((2, 8, 8, 1), np.uint8))


def test_a_verdict_prefers_pictures_like_the_real_ones_and_finds_copies(judge: Judge) -> None:
    pictures = bars.pictures()
    bench = Bench.of(pictures, judge)
    fresh, labels = bars.drawn(60, seed=9)
    good, noise = bench.verdict(fresh, labels), np.random.default_rng(0).integers(0, 255, fresh.shape).astype(np.uint8)
    bad = bench.verdict(noise, labels)
    assert good.frechet < bad.frechet
    assert good.agreement is not None
    assert bad.agreement is not None
    assert good.agreement > bad.agreement
    assert bench.verdict(pictures.train[:60], pictures.train_labels[:60]).copied == 1.0
    assert good.copied < 0.5
    assert set(good.spread) == {"frechet", "precision", "recall", "agreement"}
    assert all(value >= 0 for value in good.spread.values())
    near = bench.neighbours(pictures.train[:5])
    assert np.array_equal(near, pictures.train[:5])
