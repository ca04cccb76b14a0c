"""The study collapse: what it runs, what its page says, and that it goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from vademecum import cli
from vademecum.compare import probe, runner
from vademecum.compare.arms import kinds_of
from vademecum.studies import collapse, figures, page
from vademecum.studies.groups import Group
from vademecum.studies.series import Line, Series
from vademecum.training import Run, metrics

TEXT = "The {0} of {1} lies {2} miles from the sea; its people grow {0} and sell {2} tons of it every year.\n"
WORDS = ("wheat", "rice", "copper", "island", "river", "market", "castle", "forest")


def only(names: tuple[str, ...]) -> Group:
    arms = tuple(arm for arm in collapse.EXPERTS.arms if arm.name in names)
    return dataclasses.replace(collapse.EXPERTS, arms=arms)


@pytest.mark.parametrize("preset", collapse.PRESETS)
def test_every_preset_runs_all_arms_of_all_groups_beside_dense(preset: str) -> None:
    plan = collapse.plan_of(preset)
    assert plan.baseline == "dense"
    assert {arm.name for arm in plan.arms} == {"dense"} | {a.name for g in collapse.GROUPS for a in g.arms}
    assert plan.recipe.watch_tokens
    assert plan.recipe.steps % plan.recipe.eval_every == 0


def test_arms_of_a_group_differ_in_what_is_asked_alone() -> None:
    experts = [kinds_of(arm.kinds)[0].to_dict() for arm in collapse.EXPERTS.arms]
    assert {str(kind["balance"]) for kind in experts} == {"None", "aux", "bias"}
    assert len({(kind["experts"], kind["top_k"], kind["capacity"]) for kind in experts}) == 1
    assert len({kinds_of(arm.kinds)[0].to_dict()["slots"] for arm in collapse.SLOTS.arms}) == 1


def test_what_is_given_changes_a_preset_and_evaluations_keep_their_share() -> None:
    plan = collapse.plan_of("small", seeds=2, data="webster", recipe={"steps": 150}, size=None)
    small = collapse.PRESETS["small"]
    assert (plan.seeds, plan.data, plan.size) == ((0, 1), ("webster",), small.size)
    assert plan.recipe.eval_every / 150 == small.recipe.eval_every / small.recipe.steps


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean small"):
        collapse.plan_of("smal")


def test_sentences_name_a_difference_only_where_its_interval_excludes_zero(found: Series) -> None:
    (sentence,) = page.sentences(found, only(("unbalanced", "aux")))
    assert "more even load (load entropy +0.400" in sentence
    assert "no difference shown in dead experts, drop rate, bits per byte" in sentence


def test_one_seed_supports_no_sentence(found: Series) -> None:
    one = Series(tuple(each for each in found.lines if each.seed == 0))
    assert page.sentences(one, only(("unbalanced", "aux"))) == ["aux: one seed: no claim."]


def test_a_figure_has_a_panel_per_measure_seen_and_a_line_per_arm(found: Series) -> None:
    drawing = figures.over_training(found, only(("unbalanced", "aux")), "title")
    assert drawing is not None
    shown = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert len(shown) == 4  # load entropy, dead, drop rate, quality
    assert all(len(axis.lines) == 2 for axis in shown)
    assert figures.over_training(found, collapse.SLOTS, "title") is None


def test_the_page_says_what_was_found_and_escapes_it(found: Series, tmp_path: Path) -> None:
    plan = collapse.plan_of("small")
    path = page.write(
        plan, found, collapse.GROUPS, tmp_path, command="vademecum <study>", comparison="compare/report.html"
    )
    text = path.read_text(encoding="utf-8")
    assert "aux against unbalanced: more even load" in text
    assert "bias, seed 1: diverged" in text
    assert "vademecum &lt;study&gt;" in text
    assert (tmp_path / "figures" / "collapse-experts.png").is_file()


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty documents of made-up facts."""
    monkeypatch.setattr(probe, "peak_memory", lambda plan, arm, width: 1_000_000)
    monkeypatch.setenv("VADEMECUM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(40):
        lines = [TEXT.format(WORDS[(i + j) % 8], WORDS[(i * 3 + j) % 8], i * j % 97) for j in range(40)]
        (folder / f"{i}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def numbers(out: Path) -> list[Line]:
    plan = runner.read_plan(out / collapse.COMPARISON)
    assert plan is not None
    return list(collapse.series.read(plan, out / collapse.COMPARISON).lines)


def test_a_study_stopped_in_the_middle_goes_on_and_ends_like_one_never_stopped(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = tuple(arm for arm in collapse.PRESETS["smoke"].arms if arm.name in ("dense", "unbalanced", "plain"))
    monkeypatch.setattr(collapse, "PRESETS", {"smoke": dataclasses.replace(collapse.PRESETS["smoke"], arms=arms)})
    command = ["study", "collapse", "--preset", "smoke", "--data", str(text), "--size", "1", "--seeds", "1"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    advance, calls = Run.advance, iter(range(100))

    def stopping(self: Run, *args: object) -> None:
        if next(calls) == 4:
            raise KeyboardInterrupt
        advance(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "advance", stopping)
    assert cli.main([*command, "--out", str(tmp_path / "stopped")]) == 130
    monkeypatch.setattr(Run, "advance", advance)
    assert cli.main([*command, "--out", str(tmp_path / "stopped")]) == 0
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert (tmp_path / "whole" / "report.html").is_file()
    assert "Report: " in capsys.readouterr().out


def test_drops_are_seen_in_training_mode_and_nothing_is_learned_from_looking(text: Path, tmp_path: Path) -> None:
    arms = tuple(arm for arm in collapse.PRESETS["smoke"].arms if arm.name in ("dense", "bias"))
    plan = dataclasses.replace(collapse.PRESETS["smoke"], arms=arms, data=(str(text),), seeds=(0,))
    weights = {}
    for tokens in (256, 0):
        recipe = dataclasses.replace(plan.recipe, watch_tokens=tokens)
        out = tmp_path / str(tokens)
        runner.run(dataclasses.replace(plan, recipe=recipe), out)
        place = runner.run_folder(out, str(text), 0, "bias")
        weights[tokens] = json.loads((place / runner.RESULT).read_text())["bits_per_byte"]
        seen = [line.get("inside", {}) for line in metrics.read(place)[1]]
        assert all(bool(inside) == bool(tokens) for inside in seen)
        if tokens:
            assert 0 < seen[-1]["moe.layers.0"]["dropped"] < 1
    assert weights[256] == weights[0]
