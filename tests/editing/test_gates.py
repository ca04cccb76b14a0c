"""Gates found from hidden states alone: what is asked, and of whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.editing import world
from vademecum import hosts
from vademecum.editing import gating, prompts
from vademecum.editing.facts import Fact
from vademecum.editing.gates import STEEP, THRESHOLD, ridge


def test_the_ridge_parts_two_sides_however_many_tokens_each_has() -> None:
    torch.manual_seed(0)
    apart = torch.zeros(2, 1, 40)
    apart[:, :, 3] = 6.0
    own, others = torch.randn(2, 7, 40) + apart + 5.0, torch.randn(2, 60, 40) + 5.0
    weight, bias = ridge(own, others)
    new = torch.randn(2, 200, 40) + 5.0
    half_way = STEEP * (1 - 2 * THRESHOLD)
    for tokens, wanted in ((new + apart, True), (new, False)):
        logits = torch.einsum("lnd,ld->ln", tokens, weight) + bias[:, None]
        assert ((logits > half_way) == wanted).float().mean() > 0.95


def test_a_gate_is_half_open_nearer_to_what_it_learned_of_its_own() -> None:
    own, others = torch.zeros(1, 4, 2), torch.zeros(1, 9, 2)
    own[..., 0], others[..., 0] = 3.0, -1.0
    weight, bias = ridge(own, others)
    there = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert (there @ weight[0] + bias[0]).tolist() == pytest.approx([2.0, -6.0, 0.0, -2.0], abs=1e-4)


def test_where_nobody_else_is_known_the_gate_says_nothing() -> None:
    weight, bias = ridge(torch.randn(2, 3, 8), torch.zeros(2, 0, 8))
    assert not weight.any()
    assert not bias.any()


def test_texts_that_the_host_answers_alike_ask_the_same(monkeypatch) -> None:
    lands = {"France": 1, "Egypt": 2, "Spain": 1}

    def went_on(_model, texts, _tokens):
        return [[lands[text.split()[0]] if "continent" in text else 9] for text in texts]

    monkeypatch.setattr(gating, "went_on", went_on)
    monkeypatch.setattr(gating, "tokens_of", lambda _, text: text)
    texts = ["{} lies on the continent of", "{} is known for its"]
    found = gating.asking_otherwise(None, None, "{} is on the continent of", texts, list(lands))
    assert found == texts[1:]
    # Where all answers are equal nothing tells the texts apart, and both are kept as contrasts.
    assert gating.asking_otherwise(None, None, "{} is known for its", texts, list(lands)) == texts


def test_facts_about_where_something_lies_are_asked_in_other_ways_too() -> None:
    fact = Fact(subject="Lyon", prompt="Lyon is a city in the country of", target="Spain")
    found = prompts.paraphrases(fact)
    assert "{} belongs to the country of" in found
    assert "Q: in which country is {}? A: in the country of" in found


def test_gates_are_the_same_however_many_are_found_at_a_time(
    taught: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [Fact(subject=name, prompt=f"The capital of {name} is", target="Hol") for name in world.LANDS[:5]]
    given = taught, hosts.find(taught), words, facts, (0, 1)
    whole = gating.of_whom(*given)
    monkeypatch.setattr(gating, "HELD", 2)
    for one, other in zip(whole, gating.of_whom(*given), strict=True):
        # Texts are padded otherwise, and a ridge is steep: its threshold turns the last bits of its states into more.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
