"""Usage of tables that hidden states look up: the definitions, and what a recording says of a model."""

from __future__ import annotations

import math

import pytest
import torch
from tests import tiny

import vademecum as vm
from vademecum.analysis.usage import usage, usages


def test_the_numbers_are_their_definitions() -> None:
    slots = torch.tensor([[[0, 1], [2, 0]], [[0, 3], [-1, -1]]])
    weights = torch.tensor([[[0.75, 0.25], [1.0, 0.0]], [[0.5, 0.5], [0.0, 0.0]]])
    found = usage(slots, weights, 9)
    z = torch.tensor([1.25, 0.25, 1.0, 0.5]) / 3
    assert found.share == 4 / 9
    assert found.first == 2 / 9
    assert found.reads == 6
    assert found.unevenness == pytest.approx(math.log(9) + float((z * z.log()).sum()), abs=1e-6)


def test_even_use_is_zero_and_a_single_slot_is_the_logarithm_of_all() -> None:
    even = usage(torch.arange(16).view(16, 1, 1), torch.full((16, 1, 1), 0.3), 16)
    assert (even.share, even.first) == (1.0, 1.0)
    assert even.unevenness == pytest.approx(0.0, abs=1e-12)
    one = usage(torch.full((16, 1, 1), 5), torch.ones(16, 1, 1), 16)
    assert one.share == 1 / 16
    assert one.unevenness == pytest.approx(math.log(16))


def test_nothing_read_has_no_unevenness() -> None:
    none = usage(torch.empty(0, 2, 3, dtype=torch.int64), torch.empty(0, 2, 3), 4)
    assert (none.share, none.first, none.reads) == (0.0, 0.0, 0)
    assert math.isnan(none.unevenness)


@pytest.mark.parametrize("kind", [vm.ProductKey.examples()[0], vm.PEER.examples()[0]])
def test_a_recording_gives_the_usage_of_every_layer_without_padding(kind) -> None:
    model, ids = vm.attach(tiny.host("qwen3"), kind), tiny.ids(2, 8)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
        model(input_ids=tiny.ids(1, 4, seed=3))
    found = usages(rec.forwards)
    assert set(found) == {f"{kind.name}.layers.{layer}" for layer in (0, 1)}
    for one in found.values():
        assert one.reads == (16 - 5 + 4) * kind.heads * kind.topk
        assert 0 < one.first < one.share <= one.reads / 256
        assert 0 < one.unevenness < math.log(256)
    slots = rec.all(f"{kind.name}.layers.0", "slots")
    assert slots.shape == (20, kind.heads, kind.topk)
    assert bool((slots[8:13] == -1).all())


def test_other_memories_are_left_out() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(), vm.MoE(experts=2, top_k=1))
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=tiny.ids())
    assert usages(rec.forwards) == {}


@pytest.mark.parametrize(
    ("slots", "weights", "said"),
    [
        (torch.zeros(2, 1, 3, dtype=torch.int64), torch.zeros(2, 1, 2), r"weights \[2, 1, 2\] were given"),
        (torch.full((1, 1, 1), 9), torch.ones(1, 1, 1), "slots 9 to 9 were given, but there are 9"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), -torch.ones(1, 1, 1), "weights of 0 or more"),
    ],
)
def test_what_is_no_usage_is_said(slots: torch.Tensor, weights: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        usage(slots, weights, 9)
