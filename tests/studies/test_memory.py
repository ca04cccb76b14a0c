"""The study ``memory``: its graph, its facts, how arms are made equal, and the verb from end to end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import vademecum as vm
from vademecum import cli
from vademecum.analysis import cost
from vademecum.compare import arms
from vademecum.compare.matching import COMPUTE, PARAMETERS, STEP, matched
from vademecum.data import geonames
from vademecum.data.geonames import City, Land
from vademecum.studies import memory, memory_facts
from vademecum.studies.memory_arms import ARMS, UNTRAINED
from vademecum.studies.memory_paths import BACKWARD, FORWARD, Star
from vademecum.studies.memory_probe import IGNORED


def test_every_kind_that_is_trained_has_an_arm() -> None:
    shown = {vm.kinds.parse(spec).name for arm in ARMS for spec in arm.kinds}
    assert shown | UNTRAINED >= vm.kinds.all().keys()


def test_a_star_is_disjoint_paths_from_one_root_and_its_held_leaves_are_in_no_batch() -> None:
    star = Star(degree=8, length=3, seed=1)
    nodes = [star.root, *star.nodes.ravel().tolist()]
    assert len(set(nodes)) == 8 * 3 + 1
    assert max(nodes) < star.vocab_size
    edges = star.edges()
    degree = Counter(edges[edges[:, 0] == FORWARD][:, 1].tolist())
    assert degree.pop(star.root) == 8
    assert set(degree.values()) == {1}
    back = edges[edges[:, 0] == BACKWARD]
    assert {(b, a) for _, a, b in back.tolist()} == {(a, b) for k, a, b in edges.tolist() if k == FORWARD}
    assert len(star.held) == 2
    assert sorted([*star.held, *star.seen]) == list(range(8))
    leaves = set(star.nodes[star.held][:, -1].tolist())
    batch = star.batch(3, 32)
    walks = batch.ids[:16]
    assert leaves.isdisjoint(walks[:, 1].tolist())
    assert (batch.labels[:16, star.first :] == walks[:, star.first :]).all()
    with pytest.raises(ValueError, match="degree=2"):
        Star(degree=2, length=3, seed=0)


def test_a_path_is_learned_from_its_root_on_and_edges_by_their_ends() -> None:
    star = Star(degree=4, length=2, seed=0)
    batch = star.batch(0, 8)
    assert (batch.labels[:4, : star.first - 1] == IGNORED).all()
    assert (batch.ids[:4, star.first - 1] == star.root).all()
    lines, ends = batch.ids[4:], batch.labels[4:]
    known = {tuple(edge) for edge in star.edges().tolist()}
    for row, label in zip(lines, ends, strict=True):
        for start in range(0, 3 * (star.width // 3), 3):
            assert tuple(row[start : start + 3].tolist()) in known
            assert label[start : start + 3].tolist() == [IGNORED, IGNORED, row[start + 2]]


NAMES = list(product(("Bar", "Dun", "Mol", "Ser", "Tal", "Vor"), ("a", "en", "is", "o", "ur")))
LANDS = [
    Land(f"{x}{x}", name, "Town", "Europe", "crown", 9) for x, name in zip("AB", ("Avalon", "Borduria"), strict=True)
]


def test_facts_are_asked_from_their_prompts_and_a_round_shows_each_once() -> None:
    cities = [City(f"City{n}", LANDS[n % 2].code, 1000 * n + 1600) for n in range(8)]
    every = memory_facts.facts(LANDS, cities)
    assert len(every) == 16
    assert memory_facts.drawn(every, 4, 7) == memory_facts.drawn(every, 9, 7)[:4]
    with pytest.raises(ValueError, match="1 to 16"):
        memory_facts.drawn(every, 17, 0)
    tokenizer = memory_facts.tokenizer_of(every, 300)
    sheet = memory_facts.sheet(every, tokenizer)
    for fact, ids, labels, mask in zip(every, sheet.ids, sheet.labels, sheet.mask, strict=True):
        asked = labels != IGNORED
        assert tokenizer.decode(ids[mask][1:].tolist()) == fact.sentence
        assert tokenizer.decode(ids[asked].tolist()).strip() == f"{fact.answer}."
    seen = np.concatenate([sheet.batch(step, 4, 0).ids[:, :12] for step in range(4)])
    assert len(np.unique(seen, axis=0)) == 16
    assert memory_facts.guessed(every) == 4 + 1


@pytest.mark.parametrize("by", [COMPUTE, PARAMETERS])
def test_arms_are_made_equal_by_the_hosts_width(by: str) -> None:
    plan = dataclasses.replace(
        memory.PRESETS["smoke"].plan,
        arms=tuple(arm for arm in ARMS if arm.name in ("dense", "move", "lookup_experts", "peer")),
    )
    found = matched(plan, by)

    def count(arm: arms.Arm) -> float:
        model = arms.build(arm, plan, seed=0, ffn_width=arms.host_width(arm, plan))
        if by == COMPUTE:
            return cost.flops_per_token(model, length=plan.recipe.length)
        return sum(p.numel() for p in model.parameters())

    before = [count(arm) for arm in plan.arms]
    after = [count(arm) for arm in found.arms]
    # Half a step of the width in two layers of three maps is what can be left over, unless no width would be left.
    step = (2 if by == COMPUTE else 1) * STEP / 2 * 3 * 64 * 2
    target = before[0] if by == COMPUTE else max(before)
    for arm, value in zip(found.arms, after, strict=True):
        assert abs(value - target) <= 1.01 * step or arm.ffn_width == STEP
    with pytest.raises(ValueError, match="expected one of"):
        matched(plan, "luck")


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="not a preset"):
        memory.settings_of("tiny")
    with pytest.raises(ValueError, match="seeds=0"):
        memory.settings_of("smoke", seeds=0)
    assert [arm.name for arm in memory.settings_of("smoke", arms=["move"]).plan.arms] == ["dense", "move"]


def test_the_verb_measures_and_goes_on_without_measuring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cities = [City(f"{a}{b}ville", LANDS[n % 2].code, 1000 * n + 1500) for n, (a, b) in enumerate(NAMES)]
    monkeypatch.setattr(geonames, "lands", lambda: LANDS)
    monkeypatch.setattr(geonames, "cities", lambda **_: cities)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{city.name} has {city.people} people." for city in cities * 8), encoding="utf-8")
    out = tmp_path / "out"
    command = ["study", "memory", "--preset", "smoke", "--seeds", "1", "--data", str(text), "--out", str(out)]
    assert cli.main([*command, "--arm", "move"]) == 0
    assert "20 facts: share recalled" in capsys.readouterr().out
    points = {path: path.stat().st_mtime_ns for path in (out / memory.MEASURED).iterdir()}
    assert len(points) == 2 * 3
    for name in ("report.html", "memory.csv", "figures/probes.png", "compute/report.html", "parameters/report.html"):
        assert (out / name).stat().st_size > 0
    assert cli.main([*command, "--arm", "move"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / memory.MEASURED).iterdir()} == points
    assert len((out / "memory.csv").read_text("utf-8").splitlines()) == 1 + 6
    capsys.readouterr()
    assert cli.main([*command, "--arm", "product_key"]) != 0
    assert "other settings or arms" in capsys.readouterr().err
