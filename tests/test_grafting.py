"""A memory put beside others, and taken away again, leaves the others the very objects that they were."""

from __future__ import annotations

import copy

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum import grafting
from vademecum.state import memory_state_dict

FIRST = vm.Entries(headwords=(((7, 8),), ((3,),)), label="a")
SECOND = vm.Entries(headwords=(((3,),), ((5,),)), layers=[1], reach="after", label="b")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 7, 8, 3, 5, 2]])).logits


def filled(model: torch.nn.Module, kind: vm.Entries, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    built = grafting.extend(model, kind)
    for part in built.parts.values():
        for parameter in part.parameters():
            parameter.data.normal_(generator=draw)


def test_on_a_bare_host_and_off_again() -> None:
    model = tiny.host("qwen3")
    names, before = [name for name, _ in model.named_modules()], logits(model)
    filled(model, FIRST, 0)
    assert not torch.equal(before, logits(model))
    grafting.withdraw(model, FIRST)
    assert torch.equal(before, logits(model))
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("kinds", [(vm.MoVE(slots=2),), (vm.MoVE(slots=2), vm.MoE(experts=2), vm.LaVE(layers=[1]))])
def test_other_memories_stay_as_they_are(kinds: tuple[vm.MoVE, ...]) -> None:
    model = vm.attach(tiny.host("qwen3"), *kinds)
    tiny.shake(model)
    before, own = logits(model), dict(memory_state_dict(model))
    filled(model, FIRST, 0)
    filled(model, SECOND, 1)
    assert not torch.equal(before, logits(model))
    assert all(memory_state_dict(model)[name] is tensor for name, tensor in own.items())
    for kind in (FIRST, SECOND):
        grafting.withdraw(model, kind)
    assert torch.equal(before, logits(model))
    assert {name: id(one) for name, one in memory_state_dict(model).items()} == {n: id(t) for n, t in own.items()}


def test_the_order_of_coming_and_going_does_not_show_in_a_single_bit() -> None:
    found = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        model = vm.attach(tiny.host("qwen3"), vm.MoVE())
        kinds = [vm.Entries(headwords=FIRST.headwords, label=str(number)) for number in range(3)]
        for number in order:
            filled(model, kinds[number], number)
        grafting.withdraw(model, kinds[1])
        found.append(logits(model))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_it_is_saved_and_loaded_like_any_memory(tmp_path) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    filled(model, SECOND, 1)
    filled(model, FIRST, 0)
    vm.save(model, tmp_path / "memory")
    assert torch.equal(logits(vm.load(tiny.host("qwen3"), tmp_path / "memory")), logits(model))


def test_what_does_not_fit_is_refused_and_the_model_unchanged() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoE(experts=2))
    before = logits(model)
    with pytest.raises(ValueError, match="MoVE has a bank"):
        grafting.extend(model, vm.MoVE())
    with pytest.raises(ValueError, match="takes the place of a dense feed-forward"):
        grafting.extend(model, vm.MoE(experts=2))
    with pytest.raises(ValueError, match="this Entries is not on the model; on it are moe"):
        grafting.withdraw(model, FIRST)
    with vm.record(model), pytest.raises(ValueError, match="being recorded"):
        grafting.extend(model, FIRST)
    filled(model, FIRST, 0)
    with pytest.raises(ValueError, match="is not on the model"):
        grafting.withdraw(model, copy.deepcopy(FIRST))
    grafting.withdraw(model, FIRST)
    assert torch.equal(before, logits(model))
