"""Rows are learned until they say what they shall, some facts at a time, and what is missed once or twice more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tests.editing import world
from vademecum import editing, hosts
from vademecum.editing import into_entries, learning, reading
from vademecum.editing.reading import greedy, measures_of


def test_facts_are_learned_some_at_a_time_above_layers_that_rest(
    model: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [
        editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
        editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol"),
        editing.Fact(subject="San Lorenzo", prompt="The capital of San Lorenzo is", target="Arv"),
    ]
    monkeypatch.setattr(into_entries, "TOGETHER", 2)
    monkeypatch.setattr(reading, "OF_NARROW", 1)
    beside: list[int] = []
    real = into_entries.descend

    def noted(model: Any, host: Any, tables: Any, lines: Any, *rest: Any, **more: Any) -> None:
        beside.append(len(lines))
        real(model, host, tables, lines, *rest, **more)

    monkeypatch.setattr(into_entries, "descend", noted)
    edit = editing.plan(model, facts, words, layers=[1, 2, 3]).apply()
    assert beside[:2] == [2, 1]
    assert not edit.failed
    said = greedy(model, words, [fact.prompt for fact in facts], 1)
    assert [text.strip() for text in said] == [fact.target for fact in facts]


def test_facts_that_are_learned_sooner_than_others_hold_all_the_same(model: Any, words: Any) -> None:
    """Rows lie in the order in which entries speak, and each is left alone when its own fact is learned."""
    lands = ("Aland", "Borduria", "Cascara", "Elbonia", "Genovia", "Hav")
    facts = [
        editing.Fact(subject=land, prompt=f"The capital of {land} is", target=world.CAPITALS[-1 - number])
        for number, land in enumerate(lands)
    ]
    edit = editing.plan(model, facts, words)
    assert edit.overlay.order != edit.overlay.active
    assert edit.failed == []


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_not_said_at_first_is_learned_again(
    model: Any, words: Any, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    facts = [
        editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
        editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol"),
        editing.Fact(subject="San Lorenzo", prompt="The capital of San Lorenzo is", target="Arv"),
    ]
    stages: list[str] = []
    monkeypatch.setattr(into_entries, "FIRST", learning.Pace(steps, 0.08, 15))
    monkeypatch.setattr(into_entries, "AGAIN", into_entries.AGAIN[:1])
    names = [name for name, _ in model.named_modules()]
    edit = editing.plan(model, facts, words, stage=stages.append)
    assert any(stage.startswith("learning again") for stage in stages)
    assert not edit.failed
    assert [name for name, _ in model.named_modules()] == names
    monkeypatch.setattr(into_entries, "AGAIN", ())
    assert editing.plan(model, facts, words).failed  # so it was the second time that did it


def test_what_is_missed_twice_is_learned_further(model: Any, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [
        editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
        editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol"),
    ]
    stages: list[str] = []
    monkeypatch.setattr(into_entries, "FIRST", learning.Pace(0, 0.08, 15))
    further = into_entries.AGAIN[1:]
    monkeypatch.setattr(into_entries, "AGAIN", (learning.Pace(1, 0.001, 15), *further))
    assert not editing.plan(model, facts, words, stage=stages.append).failed
    assert [stage for stage in stages if stage.startswith("learning again")] == ["learning again, 2 of 2"] * 2
    monkeypatch.setattr(into_entries, "AGAIN", into_entries.AGAIN[:1])
    assert len(editing.plan(model, facts, words).failed) == 2


def test_a_row_that_was_left_does_not_go_on_by_what_adam_remembers() -> None:
    table = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.Adam([table], lr=0.1)
    learning._step(optimizer, [table], [torch.ones(3, 2)], torch.tensor([0, 1, 2]))
    first = table.detach().clone()
    assert (first != 0).all()
    learning._step(optimizer, [table], [torch.ones(3, 2)], torch.tensor([2]))
    assert torch.equal(table[:2], first[:2])
    assert (table[2] < first[2]).all()


def test_what_values_measure_is_read_without_the_first_token(taught: Any, words: Any) -> None:
    host = hosts.find(taught)
    texts = [words(text).input_ids for text in ("The capital of Dorne is", "Hav")]
    seen: list[torch.Tensor] = []
    handle = host.module(1, "value").register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    with torch.no_grad():
        for text in texts:
            taught(input_ids=torch.tensor([text]))
    handle.remove()
    whole = torch.cat([seen[0][0, 1:], seen[1][0]])
    assert measures_of(taught, host, texts, [1]) == pytest.approx([float(whole.square().mean().sqrt())], rel=1e-5)


@pytest.mark.parametrize("name", [*tiny.HOSTS])
def test_what_values_measure_is_of_values_alone(name: str) -> None:
    model = tiny.host(name).eval()
    host = hosts.find(model)
    seen: list[torch.Tensor] = []
    handle = host.module(1, "value").register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    with torch.no_grad():
        model(input_ids=tiny.ids(batch=1))
    handle.remove()
    value = host.family.slice.split(seen[0], host.shape.value_heads, host.shape.value_dim)[0, 1:]
    found = measures_of(model, host, [tiny.ids(batch=1)[0].tolist()], [1])
    assert found == pytest.approx([float(value.square().mean().sqrt())], rel=1e-4)
