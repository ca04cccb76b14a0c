"""Load statistics against cases whose answer is known."""

from __future__ import annotations

import pytest
import torch

from vademecum.analysis import experts


def test_an_even_load_has_no_violation_and_full_entropy() -> None:
    found = experts.load(torch.full((8,), 0.125))
    assert (found.max_violation, found.dead) == (pytest.approx(0.0), 0)
    assert found.entropy == pytest.approx(1.0)


def test_an_expert_below_a_hundredth_of_its_share_is_dead() -> None:
    found = experts.load(torch.tensor([0.5, 0.498, 0.002, 0.0]))
    assert found.dead == 2
    assert found.max_violation == pytest.approx(1.0)


def test_forwards_are_weighted_by_their_tokens() -> None:
    one = {"moe.layers.2": {"load": torch.tensor([1.0, 0.0]), "experts": torch.zeros(3, 1)}}
    two = {"moe.layers.2": {"load": torch.tensor([0.0, 1.0]), "experts": torch.zeros(1, 1)}}
    assert experts.loads([one, two])["moe.layers.2"].share == pytest.approx([0.75, 0.25])


def test_the_layer_of_a_key_is_its_number() -> None:
    assert [experts.layer_of(f"moe.layers.{i}") for i in (10, 2)] == [10, 2]


def test_an_empty_load_is_refused() -> None:
    with pytest.raises(ValueError, match="positive sum"):
        experts.load(torch.zeros(4))
