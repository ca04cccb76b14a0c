"""The page stands alone, names every arm and says nothing the table does not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vademecum.compare import report, results


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
