"""The table: what its columns hold, and that it can be written and read back."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from vademecum import files
from vademecum.compare import results


def test_the_speed_ratio_is_paired_by_round() -> None:
    rounds = [
        {"round": "a", "arm": "dense", "tokens": 100, "seconds": 1.0},
        {"round": "a", "arm": "move", "tokens": 100, "seconds": 2.0},
        {"round": "b", "arm": "dense", "tokens": 100, "seconds": 10.0},
        {"round": "b", "arm": "move", "tokens": 100, "seconds": 20.0},
        {"round": "c", "arm": "move", "tokens": 100, "seconds": 0.5},
    ]
    speeds = results.speeds(rounds, "dense")
    assert speeds["move"][1] == 0.5
    assert speeds["dense"] == (55.0, 1.0)


def test_seconds_to_reach_a_loss_are_interpolated_and_none_if_never_reached() -> None:
    curve = [{"seconds": 10.0, "bpb": 2.0}, {"seconds": 20.0, "bpb": 1.0}]
    assert results.seconds_to_reach(curve, 1.5) == pytest.approx(15.0)
    assert results.seconds_to_reach(curve, 0.9) is None


def test_the_baseline_has_no_difference_and_reaches_its_own_loss_at_the_end(made_up: Any) -> None:
    row = made_up()["rows"][0]
    assert (row.arm, row.difference, row.verdict) == ("dense", None, "baseline")
    assert row.seconds_to_baseline is not None
    assert row.seconds_to_baseline.mean == pytest.approx(60.0)
    assert row.knockout is None


def test_one_seed_makes_no_claim(made_up: Any) -> None:
    assert {row.verdict for row in made_up(seeds=(0,))["rows"]} == {"baseline", "one seed: no claim"}


def test_the_csv_has_every_column_and_a_line_per_arm(made_up: Any) -> None:
    table = made_up()["rows"]
    lines = list(csv.DictReader(io.StringIO(results.to_csv(table))))
    assert [line["arm"] for line in lines] == [row.arm for row in table]
    assert set(lines[0]) == {name for name, _ in results.COLUMNS}
    assert float(lines[2]["difference"]) == table[2].difference.mean
    assert lines[0]["difference"] == ""


def test_results_are_read_back_as_they_were_written(tmp_path: Path, made_up: Any) -> None:
    found = made_up()
    results.write(tmp_path, found)
    again = results.read(tmp_path)
    assert again["rows"] == found["rows"]
    assert again["curves"] == found["curves"]


def test_a_folder_without_results_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vademecum compare"):
        results.read(tmp_path)


def test_a_spoilt_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(files.Damaged, match=r"results\.json"):
        results.read(tmp_path)


def test_a_row_of_an_earlier_version_is_read_with_its_knock_out_difference_derived(made_up: Any) -> None:
    row = made_up()["rows"][2]
    before = dataclasses.asdict(row)
    for name in ("knockout_difference", "skipped", "diverged"):
        del before[name]
    before["seconds_to_baseline"] = 12.5
    again = results.row_from_dict(before)
    assert again.knockout_difference is not None
    assert again.knockout_difference.mean == pytest.approx(0.4)
    assert (again.skipped, again.diverged) == (0, 0)
    assert again.seconds_to_baseline == results.Estimate(12.5, None, 1)


def test_an_arm_of_which_a_seed_diverged_has_no_verdict(made_up_runs: Any) -> None:
    runs = made_up_runs("dense", "move")
    runs[-1] = {"data": "factbook", "arm": "move", "seed": 2, "diverged": 90}
    row = results.rows(runs, {}, {}, "dense")[1]
    assert (row.seeds, row.diverged) == (2, 1)
    assert row.verdict == "1 seed diverged: no claim"


def test_skipped_steps_are_counted_over_the_seeds(made_up_runs: Any) -> None:
    runs = [run | {"skipped": 3} for run in made_up_runs("dense")]
    assert results.rows(runs, {}, {}, "dense")[0].skipped == 9
