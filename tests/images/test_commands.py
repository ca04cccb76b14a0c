"""Training on pictures, going on, drawing and completing, as the command line does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.images import bars, making
from vademecum import files
from vademecum.cli.app import app
from vademecum.images import commands, completing
from vademecum.images.pictures import prepare
from vademecum.images.sampling import Sampling
from vademecum.training import Interrupted, Recipe, run_file
from vademecum.training import commands as text_commands


def recipe(steps: int = 6, **changes: Any) -> Any:
    return lambda length: Recipe(
        **{"steps": steps, "batch": 8, "length": length, "eval_tokens": 0, "checkpoint_every": 3, **changes}
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, a cache, and a run on them."""
    place = tmp_path_factory.mktemp("pictures")
    bars.folder(place / "bars")
    train(place, place / "run", memory=("move:slots=2",), sample_every=4)
    return place


def train(place: Path, out: Path, **settings: Any) -> list[str]:
    said: list[str] = []
    given = {"codec": "grey:levels=3", "side": 8, "size": 1, "recipe": recipe(), "source": place / "bars", **settings}
    commands.train(out=out, cache=place / "cache", echo=said.append, **given)
    return said


def test_grids_by_step_and_codec_and_model_lie_beside_the_run(place: Path) -> None:
    run = place / "run"
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-000004.png", "step-000006.png"]
    assert json.loads((run / "codec" / "codec.json").read_text())["levels"] == 3
    assert (run / "final" / "codec" / "vocabulary.json").is_file()
    assert (run / "final" / "model.safetensors").is_file()
    with Image.open(run / "samples" / "step-000006.png") as grid:
        assert grid.size[0] > 8 * 8 * 2


def test_a_run_in_two_goes_is_that_in_one_bit_for_bit(place: Path, tmp_path: Path) -> None:
    from vademecum.images.making import make

    tokens = make(place / "bars", codec="grey:levels=3", side=8, cache=place / "cache", progress=False).tokens
    train(place, tmp_path / "whole")
    settings = recipe()(tokens.length)

    first = train_part(place, tmp_path / "parts", tokens, settings)
    assert first.step == 3
    said = train(place, tmp_path / "parts")
    assert any("goes on after step 3 of 6" in line for line in said)
    whole, parts = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def train_part(place: Path, out: Path, tokens: Any, settings: Recipe) -> Any:
    """The first three steps of what :func:`train` does."""
    import torch

    from vademecum.surgery import attach
    from vademecum.training import presets
    from vademecum.training.loop import Run
    from vademecum.training.recipe import MEMORY_SEED

    def build() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = presets.build_host("qwen3", size=1, vocab_size=tokens.vocab_size, length=tokens.length)
            torch.manual_seed(settings.seed + MEMORY_SEED)
            return attach(model)

    description = {"host": "qwen3", "size": 1, "seed": 0, "folder": "", "pictures": str(place / "bars")}
    run = Run.open(out, build=build, corpus=tokens, recipe=settings, description=description)
    run.advance(3)
    run.checkpoint()
    run.close()
    return run


def test_equal_seeds_draw_equal_pictures(place: Path, tmp_path: Path) -> None:
    drawn = [
        commands.sample(place / "run", out=tmp_path / f"{i}.png", count=3, seed=seed, echo=lambda _: None)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    assert drawn[0].read_bytes() != drawn[2].read_bytes()


def test_completions_keep_what_was_given(place: Path, tmp_path: Path) -> None:
    opened = commands.load(place / "run")
    path = commands.sample(
        place / "run", out=tmp_path / "done.png", classes=["lying"], count=2, complete=place / "bars", scale=1,
        echo=lambda _: None,
    )  # fmt: skip
    with Image.open(path) as image:
        page = np.asarray(image)
    step = page.shape[0] // 3
    originals, drawn = page[:8, -17:-9], page[2 * step : 2 * step + 8, -17:-9]
    # Levels of the codec are what is given: the nearest of three greys.
    rounded = np.rint(originals / 127.5) * 127.5
    assert np.abs(rounded[:4] - drawn[:4]).max() <= 1
    assert opened.tokens == 64


def test_text_and_pictures_are_not_mistaken_for_one_another(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="draw from it with 'vademecum image sample'"):
        text_commands.load(place / "run")
    with pytest.raises(FileNotFoundError, match="is not a run"):
        commands.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": ["zebra"]}, "no class 'zebra'"),
        ({"count": 0}, "count=0"),
        ({"given": 1.0, "complete": "bars"}, "given=1.0"),
        ({"seed": 2**63}, r"seed=9223372036854775808 was given; expected a whole number from 0 to 2\*\*63 - 1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_draws_that_cannot_be_are_refused(place: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        commands.sample(place / "run", **settings)


def test_guidance_without_hidden_classes_is_refused_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained with drop=0"):
        train(place, tmp_path / "run", drop=0.0, sampling=Sampling(guidance=2.0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codec": "gray"}, "'gray' is not a codec"),
        ({"codec": "grey:width=3"}, "no setting 'width'"),
        ({"codec": "grey:levels=x"}, "levels=x"),
        ({"codec": "learned:8y8"}, "levels=8y8"),
        ({"host": "qwen33"}, "did you mean 'qwen3'"),
        ({"memory": ("mvoe",)}, "mvoe"),
        ({"drop": 1.5}, "drop=1.5"),
    ],
)
def test_settings_that_make_no_run_are_refused(place: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, KeyError), match=said):
        train(place, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_the_verbs_help_and_say_what_is_wrong() -> None:
    runner = CliRunner()
    for verb in ("train", "sample", "compare"):
        assert runner.invoke(app, ["image", verb, "--help"]).exit_code == 0


def test_a_learned_codec_is_told_nothing_of_the_half_that_is_to_be_invented() -> None:
    from vademecum.images.autoencoder import AutoEncoder, Shape
    from vademecum.images.completing import begun, given_height

    codec = AutoEncoder(Shape(side=(10, 10), channels=1, levels=(4, 4), shrink=4, width=8)).eval()
    pictures, _ = bars.drawn(6, side=10)
    other = pictures.copy()
    height = given_height(codec, 2)
    assert height == 8
    other[:, height:] = 255 - other[:, height:]
    assert np.array_equal(begun(codec, pictures, 2), begun(codec, other, 2))
    assert not np.array_equal(codec.encode(pictures), codec.encode(other))


def test_a_grid_that_was_not_drawn_is_drawn_when_the_run_is_opened_again(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run")
    grid = tmp_path / "run" / "samples" / "step-000006.png"
    before = grid.read_bytes()
    grid.unlink()
    train(place, tmp_path / "run")
    assert grid.read_bytes() == before
    with pytest.raises(ValueError, match="sample_every=-5"):
        train(place, tmp_path / "other", sample_every=-5)


def foreign(place: Path, out: Path) -> None:
    train(place, out, size=2)


def thesis(place: Path, out: Path) -> None:
    files.write_file(out / "thesis.tex", "x")


def text(place: Path, out: Path) -> None:
    files.write_file(out / "run.json", json.dumps({"format": 1, "data": {"end_id": 0}, "description": {}}))


@pytest.mark.parametrize(
    ("changes", "before", "said"),
    [
        ({"recipe": lambda length: Recipe(steps=0, length=length)}, None, "steps=0"),
        ({"drop": 0.0, "sampling": Sampling(guidance=2.0)}, None, "trained with drop=0"),
        ({"size": 0}, None, "size=0"),
        ({"codec": "learned:8x8x8,steps=0"}, None, "steps=0"),
        ({}, thesis, r"thesis\.tex"),
        ({}, foreign, r"description\.size = 2, and 1 was given"),
        ({"codec": "grey:levels=4"}, lambda place, out: train(place, out), r"data\.vocab_size = 7, and 8 was given"),
        ({"memory": ["move:slots=2"]}, lambda place, out: train(place, out), "memory = "),
        ({}, text, "a run on text"),
    ],
)
def test_what_makes_no_run_is_told_before_a_codec_is_made(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], before: Any, said: str
) -> None:
    if before is not None:
        before(place, tmp_path / "run")
    monkeypatch.setattr("vademecum.images.making.codec_for", lambda *_, **__: pytest.fail("a codec was made"))
    with pytest.raises(ValueError, match=said):
        train(place, tmp_path / "run", **changes)


def test_pictures_that_changed_are_told_before_a_codec_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars.folder(tmp_path / "bars")
    train(tmp_path, tmp_path / "run")
    (tmp_path / "bars" / "lying" / "000.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("vademecum.images.making.codec_for", lambda *_, **__: pytest.fail("a codec was made"))
        with pytest.raises(ValueError, match=r"other pictures \(.*84 \+ 6.*\), and .*were given; give those"):
            train(tmp_path, tmp_path / "run")
    notes = json.loads((tmp_path / "run" / "run.json").read_text())
    del notes["notes"]["pictures"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(notes))
    with pytest.raises(ValueError, match=r"data\.key = \w+ \(bars: your own pictures.*\), and \w+ was given"):
        train(tmp_path, tmp_path / "run")


def test_where_nothing_can_be_written_is_told_before_anything_is_made(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vademecum.images.making.codec_for", lambda *_, **__: pytest.fail("a codec was made"))
    monkeypatch.setattr(commands, "draw", lambda *_, **__: pytest.fail("pictures were drawn"))
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(PermissionError, match="is read-only; give another folder"):
            train(place, tmp_path / "run")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="file is a file; give another folder"):
            train(place, out)
    with pytest.raises(NotADirectoryError, match="file is a file"):
        commands.sample(place / "run", out=tmp_path / "file" / "a.png")
    with pytest.raises(IsADirectoryError, match=r"is a folder; give a PNG file, such as .*drawn-seed-0\.png"):
        commands.sample(place / "run", out=tmp_path)


def as_before(run: Path, place: Path) -> None:
    """Make ``run.json`` what it was before it had notes."""
    content = json.loads((run / "run.json").read_text())
    about = content.pop("notes")["data"]
    content["data"] |= {"name": "bars", "description": about}
    content["description"] |= {"pictures": str(place / "bars")}
    (run / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize("before", [False, True], ids=["today", "without notes"])
def test_a_run_goes_on_whatever_else_lies_beside_its_pictures_and_wherever_they_are(
    tmp_path: Path, before: bool
) -> None:
    bars.folder(tmp_path / "bars")
    train(tmp_path, tmp_path / "run")
    if before:
        as_before(tmp_path / "run", tmp_path)
    (tmp_path / "bars" / ".DS_Store").touch()
    (tmp_path / "bars" / "lying" / "notes.txt").write_text("x")
    assert any("goes on after step 6" in line for line in train(tmp_path, tmp_path / "run"))
    (tmp_path / "bars").rename(tmp_path / "moved")
    assert any("goes on after step 6" in line for line in train(tmp_path, tmp_path / "run", source=tmp_path / "moved"))


@pytest.mark.parametrize("grey", [True, None])
@pytest.mark.parametrize("codec", ["grey:levels=3", "learned:3x3,width=8,steps=1"])
def test_completions_begin_with_held_out_pictures_in_whatever_form_the_run_took_them(
    tmp_path: Path, codec: str, grey: bool | None
) -> None:
    source = making.folder(tmp_path / "set", count=30)
    train(tmp_path, tmp_path / "run", source=source, side=12, codec=codec, grey=grey)
    found = commands.load(tmp_path / "run")
    shown = completing.originals_of(found, source, [0, 1], 2)
    held = prepare(source, side=12, grey=grey, progress=False).heldout
    if found.codec.channels == 1:
        held = completing.grey_values(held)
    assert {each.tobytes() for each in shown} <= {each.tobytes() for each in held}


def test_a_run_without_notes_completes_pictures(tmp_path: Path) -> None:
    source = making.folder(tmp_path / "set", count=30)
    train(tmp_path, tmp_path / "run", source=source, side=12)
    content = run_file.read(tmp_path / "run")
    del content["notes"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    assert commands.sample(tmp_path / "run", count=1, complete=source, echo=lambda _: None).is_file()


def test_an_interrupt_while_a_grid_is_drawn_saves_the_run_which_goes_on_with_that_grid(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    settings = {"recipe": recipe(steps=8, checkpoint_every=0), "sample_every": 4}
    train(place, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "draw", interrupt)
        with pytest.raises(Interrupted, match=r"saved in .*000004; the same command goes on"):
            train(place, tmp_path / "run", **settings)
    assert any("goes on after step 4 of 8" in line for line in train(place, tmp_path / "run", **settings))
    grids = [sorted((tmp_path / name / "samples").iterdir()) for name in ("whole", "run")]
    assert [[path.name for path in each] for each in grids] == [["step-000004.png", "step-000008.png"]] * 2
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*grids, strict=True))


@pytest.mark.parametrize(("side", "rows", "height"), [(17, 1, 16), (17, 2, 17), (18, 1, 16), (33, 2, 32)])
def test_rows_of_tokens_stand_for_as_many_rows_of_pixels_as_the_codec_says(side: int, rows: int, height: int) -> None:
    from vademecum.images.autoencoder import AutoEncoder, Shape
    from vademecum.images.grey import Grey

    codec = AutoEncoder(Shape(side=(side, side), channels=1, levels=(4, 4), shrink=16, width=8))
    assert completing.given_height(codec, rows) == height
    assert completing.given_height(Grey((side, side)), rows) == rows
