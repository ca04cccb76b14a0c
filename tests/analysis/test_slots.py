"""Slot statistics against cases whose answer is known."""

from __future__ import annotations

import pytest
import torch

from vademecum.analysis import slots


def test_identical_slots_are_one_effective_slot() -> None:
    rows = torch.randn(5, 1, 6).expand(5, 4, 6)
    found = slots.slot_use(torch.ones(5, 2, 5), rows)
    assert found.effective == pytest.approx(1.0, abs=1e-5)
    assert found.similarity == pytest.approx(1.0, abs=1e-5)
    assert found.use == pytest.approx([0.25] * 4)


def test_orthogonal_equal_slots_are_all_effective() -> None:
    rows = torch.eye(4).expand(7, 4, 4)
    found = slots.slot_use(torch.ones(7, 1, 5), rows)
    assert found.effective == pytest.approx(4.0, abs=1e-5)
    assert found.similarity == pytest.approx(0.0, abs=1e-6)


def test_a_shut_slot_has_no_use() -> None:
    gates = torch.ones(3, 1, 3)
    gates[:, :, 2] = 0.0
    assert slots.slot_use(gates, torch.randn(3, 2, 4)).use == pytest.approx([1.0, 0.0])


def test_one_slot_has_no_similarity() -> None:
    assert slots.slot_use(torch.ones(3, 1, 2), torch.randn(3, 1, 4)).similarity is None


def test_coverage_counts_the_pairs_of_head_and_slot_that_give_anything() -> None:
    gates = torch.ones(3, 2, 5)
    gates[:, 0, 4] = 0.001  # slot 3 is all but shut in head 0 and open in head 1
    rows = torch.ones(3, 4, 2, 5)
    assert slots.slot_use(gates, rows).coverage == pytest.approx(7 / 8)
    assert slots.slot_use(gates, torch.zeros(3, 4, 2, 5)).coverage == 0.0


def test_gates_that_are_all_equally_open_have_entropy_one_and_a_single_open_gate_has_none() -> None:
    rows = torch.randn(3, 4, 6)
    one = torch.zeros(3, 2, 5)
    one[:, :, 2] = 2.0
    assert slots.slot_use(torch.full((3, 2, 5), 0.4), rows).gate_entropy == pytest.approx(1.0)
    assert slots.slot_use(one, rows).gate_entropy == pytest.approx(0.0, abs=1e-6)
    assert slots.slot_use(torch.ones(3, 1, 2), torch.randn(3, 1, 4)).gate_entropy is None


def test_gates_are_as_far_from_one_as_they_are() -> None:
    gates = torch.ones(2, 1, 3)
    gates[:, :, 1], gates[:, :, 2], gates[:, :, 0] = 0.5, 2.0, 0.0
    assert slots.slot_use(gates, torch.randn(2, 2, 4)).gate_distance == pytest.approx(0.75)


def test_every_gate_falls_into_the_histogram() -> None:
    found = slots.slot_use(2 * torch.rand(11, 3, 5), torch.randn(11, 4, 6))
    assert sum(found.histogram) == 11 * 3 * 4
    assert sum(found.own_histogram) == 11 * 3


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="must begin with"):
        slots.slot_use(torch.ones(3, 1, 3), torch.randn(4, 2, 4))


def test_rows_are_taken_from_the_shared_bank_or_the_layers_own() -> None:
    forward = {"move.layers.0": {"gates": torch.ones(2, 1, 3)}, "lave.layers.1": {"gates": torch.ones(2, 1, 2)}}
    memory = {"move.shared.weight": torch.randn(9, 2, 4), "lave.layers.1.bank.weight": torch.randn(9, 1, 4)}
    found = slots.slot_uses([forward, forward], [torch.tensor([[1, 2]]), torch.tensor([[3, 4]])], memory)
    assert list(found) == ["move.layers.0", "lave.layers.1"]
    assert sum(found["move.layers.0"].histogram) == 8
