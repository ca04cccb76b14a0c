"""A comparison that is killed goes on where it was, and ends as if it had not been killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vademecum import data, files
from vademecum.compare import commands, entrants, probe, progress, questions, results, runner
from vademecum.compare.arms import ARMS, Arm
from vademecum.compare.media import text as text_medium
from vademecum.compare.media.pictures import Pictures
from vademecum.compare.plan import PRESETS, Plan
from vademecum.training import Diverged, Run

PROBE = probe.peak_memory

TEXT = "The {0} of {1} lies {2} miles from the sea; its people grow {0} and sell {2} tons of it every year.\n"
WORDS = ("wheat", "rice", "copper", "island", "river", "market", "castle", "forest")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of made-up facts."""
    folder = tmp_path_factory.mktemp("lines", numbered=False)
    for i in range(40):
        lines = [TEXT.format(WORDS[(i + j) % 8], WORDS[(i * 3 + j) % 8], i * j % 97) for j in range(40)]
        (folder / f"{i}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def small(text: Path, **changes: object) -> Plan:
    recipe = {"steps": 8, "batch": 2, "length": 32, "lr": None, "dtype": None}
    return commands.plan_of("smoke", arms=["dense", "move"], data=[str(text)], recipe=recipe, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "peak_memory", lambda plan, arm, width: 1_000_000)
    monkeypatch.setenv("VADEMECUM_CACHE", str(tmp_path / "cache"))


def numbers(folder: Path) -> dict[tuple[str, int], tuple[float, float | None, list[str]]]:
    found = {}
    for path in sorted((folder / "runs").rglob("result.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["arm"], run["seed"]] = (run["bits_per_byte"], run["knockout"], run["texts"])
    return found


SCRIPT = """
import sys, json
from pathlib import Path
from vademecum.compare import probe, runner
from vademecum.compare.plan import Plan
probe.peak_memory = lambda plan, arm, width: 1_000_000
runner.run(Plan.from_dict(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
"""


def appeared(folder: Path, pattern: str) -> bool:
    """Whether something matches; a folder that is renamed while it is walked was not it, or is looked at again."""
    try:
        return any(folder.glob(pattern))
    except FileNotFoundError:
        return False


def test_killed_and_started_again_it_ends_with_the_same_numbers(text: Path, tmp_path: Path) -> None:
    plan = small(text)
    runner.run(plan, tmp_path / "whole")
    (tmp_path / "given.json").write_text(plan.to_json(), encoding="utf-8")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "given.json"), str(out)]
    for watched in ("runs/**/seed-0/dense/checkpoints/latest", "runs/**/seed-0/dense/result.json"):
        process = subprocess.Popen(command, env={**os.environ}, stderr=subprocess.PIPE)
        while not appeared(out, watched) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert finished
    assert not (out / "report.html").exists() or len(finished) == 4
    runner.run(plan, out)
    assert numbers(out) == numbers(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())


def test_results_are_complete_and_finished_arms_are_not_run_twice(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.run(small(text), tmp_path / "out")
    found = results.read(tmp_path / "out")
    assert [row.arm for row in found["rows"]] == ["dense", "move"]
    assert all(row.seeds == 2 and row.speed_ratio is not None for row in found["rows"])
    assert found["rows"][1].knockout is not None
    assert (tmp_path / "out" / "results.csv").read_text(encoding="utf-8").count("\n") == 3
    monkeypatch.setattr(runner, "_open", lambda *_: pytest.fail("a finished run was opened again"))
    assert runner.run(small(text), tmp_path / "out").is_file()


def test_more_seeds_may_be_added_but_not_another_recipe(text: Path, tmp_path: Path) -> None:
    runner.run(small(text, seeds=1), tmp_path / "out")
    runner.run(small(text, seeds=2), tmp_path / "out")
    assert results.read(tmp_path / "out")["rows"][1].seeds == 2
    with pytest.raises(ValueError, match="size = 2, and 3 was given"):
        runner.run(small(text, size=3), tmp_path / "out")
    other = dataclasses.replace(small(text), recipe=dataclasses.replace(small(text).recipe, steps=9))
    with pytest.raises(ValueError, match=r"a comparison with recipe\.steps = 8, and 9 was given"):
        runner.run(other, tmp_path / "out")
    with pytest.raises(ValueError, match=r"a comparison with medium\.form = text, and pictures was given"):
        runner.run(dataclasses.replace(small(text), medium=Pictures()), tmp_path / "out")


def test_a_plan_that_is_refused_leaves_the_folder_to_another(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="neither a source nor a file"):
        runner.run(commands.plan_of("smoke", arms=["dense"], data=[str(tmp_path / "gone")]), tmp_path / "out")
    two = "token_ffn:replace=true+moe:replace=true"
    with pytest.raises(ValueError):
        runner.run(commands.plan_of("smoke", arms=["dense", two], data=[str(text)]), tmp_path / "out")
    with pytest.raises(ValueError, match="size=0"):
        small(text, size=0)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_saves_every_arm_and_says_how_to_go_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "append_line", _after(4, files.append_line, interrupt))
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            runner.run(small(text, seeds=1), tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("latest"))) == 2
    assert runner.run(small(text, seeds=1), tmp_path / "out").is_file()


def _after(calls: int, real, then):  # type: ignore[no-untyped-def]
    count = [0]

    def call(*args: object, **named: object) -> object:
        count[0] += 1
        return (real if count[0] <= calls else then)(*args, **named)

    return call


def test_a_comparison_with_questions_answers_them_and_its_shares_are_made_concrete(text: Path, tmp_path: Path) -> None:
    recipe = {"steps": 4, "batch": 2, "length": 32}
    plan = commands.plan_of(
        "hybrid-smoke", arms=["dense", "moe", "share-40", "share-100"], data=[str(text)], recipe=recipe
    )
    said: list[str] = []
    commands.run(plan, tmp_path / "out", echo=said.append)
    found = results.read(tmp_path / "out")
    asked = questions.read(found)
    assert {(each.arm, each.against) for each in asked} == {
        ("moe", "dense"),
        ("share-40", "moe"),
        ("share-40", "share-100"),
        ("share-100", "moe"),
    }
    values = {row.arm: row.bits_per_byte.values for row in found["rows"]}
    for each in asked:
        assert each.difference is not None
        pairs = zip(values[each.arm], values[each.against], strict=True)
        assert each.difference.values == pytest.approx([a - b for a, b in pairs])
        assert any(each.sentence in line for line in said)
    kept = runner.read_plan(tmp_path / "out")
    assert kept is not None
    assert [arm.kinds for arm in kept.arms if arm.share == 100] == [("move:slots=13", "moe:experts=4,top_k=4")]
    assert found["arms"]["share-40"]["share"]["true"] == pytest.approx(36, abs=1)
    assert (tmp_path / "out" / "figures" / "split-lines.png").is_file()
    assert runner.run(kept, tmp_path / "out").is_file(), "a plan that was resolved goes on where it was"


def test_steps_at_equal_flops_are_scaled_by_the_flops_per_token(text: Path, tmp_path: Path) -> None:
    plan = dataclasses.replace(
        small(text, match="flops"), arms=(ARMS["dense"], Arm.parse("moe:experts=4,top_k=4,width=192"))
    )
    entered = entrants.prepare(plan, tmp_path)
    dense, wide = entered.values()
    assert dense.steps == 8
    assert wide.steps == round(8 * dense.cost.flops_per_token / wide.cost.flops_per_token)
    assert wide.steps < 6


def test_steps_at_equal_time_follow_the_calibration(text: Path, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(json.dumps({"dense": 1.0, "move": 2.0}), encoding="utf-8")
    entered = entrants.prepare(small(text, match="seconds"), tmp_path)
    assert (entered["dense"].steps, entered["move"].steps) == (8, 4)


def test_a_finished_run_of_another_text_or_version_is_refused(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "text"
    shutil.copytree(text, own)
    runner.run(small(own, seeds=1), tmp_path / "out")
    (own / "more.txt").write_text("Another document. " * 90, encoding="utf-8")
    with pytest.raises(ValueError, match="another corpus; remove that folder"):
        runner.run(small(own, seeds=1), tmp_path / "out")
    path = next((tmp_path / "out").rglob("result.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["made_from"]
    path.write_text(json.dumps(content), encoding="utf-8")
    (own / "more.txt").unlink()
    with pytest.raises(ValueError, match="an earlier version"):
        runner.run(small(own, seeds=1), tmp_path / "out")


def test_an_arm_that_diverges_is_a_note_and_the_rest_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Run.advance

    def diverge(self: Run, *given: object, **named: object) -> None:
        if self.folder.name == "move":
            raise Diverged("ten steps in a row were not finite")
        advance(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "advance", diverge)
    page = runner.run(small(text, seeds=1), tmp_path / "out")
    found = results.read(tmp_path / "out")
    assert [row.arm for row in found["rows"]] == ["dense"]
    assert found["diverged"] == [{"data": "lines", "arm": "move", "seed": 0, "step": 0}]
    assert "diverged at step 0" in page.read_text(encoding="utf-8")
    assert runner.run(small(text, seeds=1), tmp_path / "out").is_file()


def test_a_memory_probe_that_fails_is_an_empty_cell_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOSError: no space")
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: failed)
    with pytest.warns(UserWarning, match="OSError: no space"):
        assert PROBE(PRESETS["smoke"], ARMS["dense"], None) is None


def test_a_source_that_gave_another_text_is_named_by_what_was_read_and_read_once(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = dataclasses.replace(data.prepare(str(text), vocab_size=512, progress=False), name="python")
    monkeypatch.setattr(data, "prepare", lambda *_, **__: corpus)
    plan = dataclasses.replace(PRESETS["smoke"], data=("factbook", "webster"))
    found = plan.medium.materials(plan)
    assert found.names == {"factbook": "python"}
    assert found.notes == (
        "factbook could not be had: python was read in its place.",
        "webster could not be had: python was read in its place.",
        "webster gave the same text as factbook and is left out.",
    )


def test_texts_are_kept_with_the_prompt_they_go_on_from() -> None:
    kept = [{"ids": [1, 2], "text": "a"}, {"ids": [3], "text": "b"}]
    assert [text_medium._text_after(ids, kept) for ids in ([3], [4], [1, 2])] == ["b", None, "a"]


def test_sources_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="would share the folder a_b"):
        commands.plan_of("smoke", data=["a/b", "a_b"])


def test_a_source_with_a_long_name_gets_a_folder_and_its_own(tmp_path: Path) -> None:
    long = ["/" + "\u6f22" * 90 + f"/{number}" for number in (1, 2)]
    plan = commands.plan_of("smoke", data=long)
    places = [runner.run_folder(tmp_path, source, 0, "dense") for source in plan.data]
    assert len(set(places)) == 2
    for place in places:
        place.mkdir(parents=True)


def test_steps_made_before_are_not_counted_as_speed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress._Lines(100, 0, sys.stderr)
    shown.skip(90)
    shown._start -= 100  # ten steps, then, took a hundred seconds
    shown.update(10, "dense")
    assert shown._done - shown._first == 10
    assert "100/100" in capsys.readouterr().err


def test_an_arm_of_a_comparison_is_found_by_name(text: Path, tmp_path: Path) -> None:
    plan = small(text)
    files.write_file(tmp_path / runner.PLAN, plan.to_json())
    assert commands.find_run(tmp_path, "move").name == "move"
    with pytest.raises(ValueError, match="dense, move"):
        commands.find_run(tmp_path, "mvoe")


def test_every_preset_survives_json() -> None:
    for plan in PRESETS.values():
        assert Plan.from_dict(json.loads(plan.to_json())) == plan


def test_prompts_are_beginnings_of_held_out_documents(text: Path) -> None:
    corpus = data.prepare(str(text), vocab_size=512, progress=False)
    found = text_medium.prompts(corpus, 2, 32)
    assert len(found) == 2
    assert all(len(prompt) + len(truth) == 32 for prompt, truth in found)
    assert all(corpus.end_id not in prompt + truth for prompt, truth in found)
