"""A comparison on pictures: the runner, the table and the page of a comparison on text, with grids and verdicts."""

from __future__ import annotations

import dataclasses
import json
from html import escape
from pathlib import Path
from typing import Any

import pytest
from tests.images import bars

from vademecum.compare import picturing, runner
from vademecum.compare.media import from_dict, pictures_page
from vademecum.compare.media.pictures import Pictures
from vademecum.compare.plan import PRESETS, Plan
from vademecum.pages import style


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADEMECUM_CACHE", str(place / "cache"))
        patch.setattr("vademecum.compare.probe.peak_memory", lambda *_: None)
        patch.setattr("vademecum.images.judge.Schooling.steps", 30)
        bars.folder(place / "bars")
        plan = picturing.plan_of(
            "smoke", source=str(place / "bars"), size=1, medium={"codec": "grey:levels=3", "side": 8, "samples": 20}
        )
        page = runner.run(plan, place / "out", command="vademecum image compare")
        again = runner.run(plan, place / "out", command="vademecum image compare")
    return plan, place / "out", page, again


def test_the_page_has_verdicts_grids_and_slots(done: Any) -> None:
    _, out, page, again = done
    assert page == again
    html = page.read_text()
    assert "model of pictures" in html
    assert html.count("data:image/png;base64") >= 5  # two arms drawn, one silenced, two with neighbours
    assert "real pictures (20)" in html
    assert "held-out pictures through the codec" in html
    found = json.loads((out / "results.json").read_text())["samples"]["bars"]
    assert set(found["verdicts"]) == {"dense", "move-4"}
    slots = found["verdicts"]["move-4"]["0"]["slots"]
    assert len(slots["by_class"]) == 3
    assert len(slots["by_place"]) == 63
    assert all(sum(row) == pytest.approx(1) for row in slots["by_place"])
    assert found["verdicts"]["dense"]["0"]["slots"] == {}
    assert "silenced" in found["verdicts"]["move-4"]["0"]
    assert "silenced" not in found["verdicts"]["dense"]["0"]
    for name in ("frechet-bars", "slots-by-class-bars", "slots-by-place-bars"):
        assert (out / "figures" / f"{name}.png").is_file()


def test_arms_of_a_seed_draw_with_the_same_numbers_and_seeds_with_others(done: Any) -> None:
    _, out, _, _ = done
    grids = {
        (seed, arm): (out / "runs").glob(f"*/seed-{seed}/{arm}/drawn.png")
        for seed in (0, 1)
        for arm in ("dense", "move-4")
    }
    content = {key: next(iter(paths)).read_bytes() for key, paths in grids.items()}
    assert len(set(content.values())) == 4


def test_every_preset_survives_json_and_is_of_pictures() -> None:
    for plan in picturing.PRESETS.values():
        assert Plan.from_dict(json.loads(plan.to_json())) == plan
        assert isinstance(plan.medium, Pictures)


def test_a_plan_of_an_earlier_version_is_of_text() -> None:
    values = json.loads(PRESETS["smoke"].to_json())
    del values["medium"]
    assert Plan.from_dict(values) == PRESETS["smoke"]
    with pytest.raises(ValueError, match="the medium is 'sound'"):
        from_dict({"form": "sound"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 3}, "samples=3"),
        ({"guidance": 2.0, "drop": 0.0}, "guidance=2 needs drop"),
        ({"guidance": -1.0}, "guidance=-1.0"),
        ({"top_p": 2.0}, "top_p=2.0"),
    ],
)
def test_settings_that_judge_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pictures(**settings)


def test_a_plan_that_does_not_fit_its_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADEMECUM_CACHE", str(tmp_path / "cache"))
        bars.folder(tmp_path / "bars")
        plan = picturing.plan_of("smoke", source=str(tmp_path / "bars"))
        with pytest.raises(ValueError, match="needs vocab_size=8"):
            plan.medium.material(dataclasses.replace(plan, vocab_size=9), plan.data[0])


def test_pictures_that_cannot_be_judged_are_refused_before_a_codec_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars.folder(tmp_path / "bars", count=9)
    monkeypatch.setattr("vademecum.images.making.codec_for", lambda *_, **__: pytest.fail("a codec was made"))
    with pytest.raises(ValueError, match="bars holds out 3 pictures, and 4 are needed"):
        picturing.plan_of("smoke", source=str(tmp_path / "bars"))
    with pytest.raises(ValueError, match="size=0"):
        picturing.plan_of("smoke", source=str(tmp_path / "bars"), size=0)


def test_a_class_with_dollars_in_its_name_is_drawn_as_it_is(done: Any) -> None:
    _, out, _, _ = done
    found = json.loads((out / "results.json").read_text())
    sample = found["samples"]["bars"]
    for name in ("$a_b$", "$^$ & 50"):
        sample["classes"][0] = name
        for drawing in pictures_page.drawings({**found, "samples": {"bars": sample}}):
            assert style.png(drawing.figure)
            svg = style.svg(drawing.figure, drawing.name)
            assert (escape(name) in svg) == drawing.name.startswith("slots-by-class")


def test_an_extractor_is_tried_before_anything_is_trained_and_not_needed_to_read_a_plan(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADEMECUM_CACHE", str(tmp_path / "cache"))
        bars.folder(tmp_path / "bars")
        given = {"codec": "grey:levels=3", "side": 8, "features": str(tmp_path / "gone.pt")}
        plan = picturing.plan_of("smoke", source=str(tmp_path / "bars"), medium=given)
        with pytest.raises(FileNotFoundError, match=r"gone\.pt is not there"):
            plan.medium.materials(plan)
    assert Plan.from_dict(json.loads(plan.to_json())) == plan
