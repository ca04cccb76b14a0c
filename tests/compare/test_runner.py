"""A comparison that is killed goes on where it was, and ends as if it had not been killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vademecum import files
from vademecum.compare import commands, measure, probe, results, runner
from vademecum.compare.plan import PRESETS, Plan

TEXT = "The {0} of {1} lies {2} miles from the sea; its people grow {0} and sell {2} tons of it every year.\n"
WORDS = ("wheat", "rice", "copper", "island", "river", "market", "castle", "forest")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of made-up facts."""
    folder = tmp_path_factory.mktemp("text")
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


def test_killed_and_started_again_it_ends_with_the_same_numbers(text: Path, tmp_path: Path) -> None:
    plan = small(text)
    runner.run(plan, tmp_path / "whole")
    (tmp_path / "given.json").write_text(plan.to_json(), encoding="utf-8")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "given.json"), str(out)]
    for watched in ("runs/**/seed-0/dense/checkpoints/latest", "runs/**/seed-0/dense/result.json"):
        process = subprocess.Popen(command, env={**os.environ}, stderr=subprocess.PIPE)
        while not list(out.glob(watched)) and process.poll() is None:
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


@pytest.mark.parametrize("match", ["flops", "seconds"])
def test_steps_follow_what_is_matched(text: Path, tmp_path: Path, match: str) -> None:
    runner.run(small(text, seeds=1, match=match), tmp_path / "out")
    arms = results.read(tmp_path / "out")["arms"]
    assert arms["dense"]["steps"] == 8
    assert arms["move"]["steps"] <= 8 or match == "seconds"
    assert (tmp_path / "out" / "calibration.json").is_file() == (match == "seconds")


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
    from vademecum import data

    corpus = data.prepare(str(text), vocab_size=512, progress=False)
    found = measure.prompts(corpus, 2, 32)
    assert len(found) == 2
    assert all(len(prompt) + len(truth) == 32 for prompt, truth in found)
    assert all(corpus.end_id not in prompt + truth for prompt, truth in found)
