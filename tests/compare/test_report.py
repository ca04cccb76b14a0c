"""The page stands alone, names every arm and says nothing the table does not."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vademecum.compare import figures, inside, report, results, tables
from vademecum.compare.stats import Estimate
from vademecum.pages import style


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, made_up: Any) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("report")
    results.write(folder, made_up())
    path = report.write(folder)
    return folder, path.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_outside(page: tuple[Path, str]) -> None:
    loads = re.findall(r"(?:src|href|srcset|data|action)\s*=\s*[\"']?([^\"'\s>]+)", page[1])
    loads += re.findall(r"url\(([^)]+)\)", page[1])
    assert [load for load in loads if not load.startswith(("#", "data:image/png;base64,"))] == []
    assert "@import" not in page[1]
    assert "<script" not in page[1]
    assert not re.search(r"https?://", page[1])


def test_every_arm_is_in_the_table_and_in_the_texts(page: tuple[Path, str], made_up: Any) -> None:
    for arm in made_up()["arms"]:
        assert f"<td>{arm}</td>" in page[1]
        assert f"<b>{arm}</b>" in page[1]


def test_generated_text_is_escaped(page: tuple[Path, str]) -> None:
    assert "<b>with markup</b>" not in page[1]
    assert "&lt;b&gt;with markup&lt;/b&gt; &amp; signs" in page[1]


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page: tuple[Path, str]) -> None:
    ids: list[str] = []
    open_tags: list[str] = []
    void = {"meta", "br", "img", "link", "hr", "input"}

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(value for name, value in attrs if name == "id" and value)
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Reader().feed(page[1])
    assert open_tags == []
    assert set(re.findall(r'href="#([^"]+)"', page[1])) <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_figure_is_in_the_page_and_beside_it(page: tuple[Path, str]) -> None:
    names = {path.stem for path in (page[0] / "figures").glob("*.png")}
    assert {f"{name}-factbook" for name in ("difference", "loss-tokens", "loss-seconds", "knockout", "gates")} <= names
    assert {"memory-size-factbook", "expert-load-factbook", "slot-use-factbook", "speed-factbook"} <= names
    assert all(f'id="{name}"' in page[1] for name in names)


def test_method_and_limits_are_stated(page: tuple[Path, str]) -> None:
    for needed in ("divided by the number of slots", "What this does not show", "public domain", "--preset demo"):
        assert needed in page[1]


def test_one_seed_is_drawn_without_a_claim(tmp_path: Path, made_up: Any) -> None:
    text = report.write(tmp_path, made_up(seeds=(0,))).read_text(encoding="utf-8")
    assert "no claim" in text
    assert 'class="better"' not in text


def test_a_comparison_without_memory_or_experts_still_has_a_report(tmp_path: Path, made_up: Any) -> None:
    found = made_up()
    found |= {
        "slots": {},
        "experts": {},
        "samples": {},
        "rows": found["rows"][:1],
        "arms": {"dense": found["arms"]["dense"]},
    }
    found["curves"] = {"factbook": {"dense": found["curves"]["factbook"]["dense"]}}
    text = report.write(tmp_path, found).read_text(encoding="utf-8")
    assert "nothing to compare" in text


def test_what_was_really_evaluated_and_how_rates_were_chosen_is_said(page: tuple[Path, str]) -> None:
    for needed in ("of 250,000 held-out tokens", "60 times", "20 times", "had no such search", "not a clean test"):
        assert needed in page[1]


def test_the_rates_that_the_runs_were_made_with_are_said_not_todays(tmp_path: Path, made_up: Any) -> None:
    found = made_up() | {"ratios": {"host": 1.0, "router": 0.7, "expert": 0.4, "bank": 33.0}}
    text = report.write(tmp_path, found).read_text(encoding="utf-8")
    assert "table 33 times" in text
    assert "matrices take 0.4 times the host\u2019s rate, their routers 0.7 times" in text


def test_a_results_file_of_an_earlier_version_is_still_drawn(tmp_path: Path, made_up: Any) -> None:
    results.write(tmp_path, made_up())
    path = tmp_path / "results.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    for row in before["rows"]:
        for name in ("knockout_difference", "skipped", "diverged"):
            del row[name]
        row["seconds_to_baseline"] = 12.5
    for layers in (layers for seeds in before["slots"]["factbook"].values() for layers in seeds.values()):
        for layer in layers.values():
            layer |= {"mean_gate": [1.0] * 8, "mean_own_gate": 0.9}
    before["plan"]["heldout_tokens"] = 60_000
    path.write_text(json.dumps(before), encoding="utf-8")
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "59,904 of 250,000 held-out tokens" in text
    assert "Silencing the memory costs" in text


def test_a_knock_out_that_no_interval_supports_is_in_no_title(made_up: Any) -> None:
    found = made_up()
    found["rows"] = [
        dataclasses.replace(row, knockout_difference=Estimate(-0.01, 0.37, 2)) if row.knockout else row
        for row in found["rows"]
    ]
    drawn = figures.knockout(found, "factbook")
    assert drawn is not None
    assert drawn.title == "That silencing the memory costs anything is not shown"


def test_gates_that_are_all_shut_lie_one_from_the_middle(made_up: Any) -> None:
    found = made_up()
    for layer in (v for seeds in found["slots"]["factbook"].values() for s in seeds.values() for v in s.values()):
        layer["histogram"] = [100, *[0] * 39]
    drawn = inside.gates(found, "factbook")
    assert drawn is not None
    assert "lie 0.97 from 1" in drawn.title


def test_an_even_arm_of_four_slots_is_drawn_as_even_beside_one_of_eight(made_up: Any) -> None:
    found = made_up()
    for layer in (v for s in found["slots"]["factbook"]["move"].values() for v in s.values()):
        layer["use"] = [0.25] * 4
    drawn = inside.slot_use(found, "factbook")
    assert drawn is not None
    assert (np.asarray(drawn.figure.axes[0].images[0].get_array()) == 1.0).all()
    assert "of 4 (move)" in drawn.title
    assert "of 8 (move+moe)" in drawn.title


def test_substitutions_divergence_and_flops_are_on_the_page(tmp_path: Path, made_up: Any) -> None:
    found = made_up()
    found["substituted"] = ["webster could not be had: python was read in its place."]
    found["diverged"] = [{"data": "factbook", "arm": "moe", "seed": 1, "step": 90}]
    for arm, flops in zip(found["arms"].values(), (100, 101, 102, 120, 103), strict=True):
        arm["cost"] = {"flops_per_token": flops}
    text = report.write(tmp_path, found).read_text(encoding="utf-8")
    assert "webster could not be had" in text
    assert "diverged at step 90" in text
    assert "FLOPs per token +20.0 % against dense\u2019s: not matched" in text
    assert "moe +1.0 % against dense" in text


def test_counts_are_rounded_before_their_unit_is_chosen() -> None:
    assert [tables.count(n) for n in (999_400, 999_999, 3_140_000, 12)] == [
        "999\u00a0k",
        "1\u00a0M",
        "3.14\u00a0M",
        "12",
    ]


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 7])
def test_panels_stand_at_most_three_in_a_row_however_many_arms_there_are(panels: int) -> None:
    figure, axes = inside._grid(panels, width=3.0, height=2.0)
    assert len(axes) == panels
    assert tuple(figure.get_size_inches()) == (3.0 * min(3, panels), 2.0 * -(-panels // 3))
    assert sum(axis.get_visible() for axis in figure.axes) == panels


def test_powers_on_log_axes_are_letters_and_no_formulas() -> None:
    with style.styled():
        figure, (left, right) = style.canvas(columns=2)
        left.plot([1e-3, 1, 100], [2, 3, 3.9])
        left.set_xscale("log")
        left.set_yscale("log")
        right.plot([0, 1, 2], [0, 1e-2, 30])
        right.set_yscale("symlog", linthresh=1e-3)
        right.set_title("$a_b$")
    svg = style.svg(figure, "x")
    for shown in ("10\u207b\u00b3", "2\u00d710\u2070", "10\u00b9", ">0<", "$a_b$"):
        assert shown in svg
    assert "mathdefault" not in svg
    assert style.svg(figure, "x") == svg
