"""The upper layers alone say what the whole model says, and the lower ones are as they were afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum import hosts
from vademecum.editing.upper import Upper


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", [*tiny.HOSTS])
def test_the_upper_layers_alone_say_what_the_whole_model_says(name: str, first: int) -> None:
    model = tiny.host(name).eval()
    ids, mask = tiny.ids(batch=3), torch.ones(3, tiny.ids().shape[1], dtype=torch.long)
    mask[1, 5:] = 0
    rows, places = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 4, 4, 0])
    upper = Upper(model, hosts.find(model), ids, mask, first, rows, places)
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits[rows, places]
    torch.testing.assert_close(upper.logits().detach(), whole)
    layers = hosts.find(model).layers
    scale = next(parameter for parameter in layers[-1].parameters() if parameter.dim() == 2)
    scale.data.mul_(1.5)
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits[rows, places]
        torch.testing.assert_close(upper.logits(), whole)
        # Of some texts alone: here the one that is padded, which is shorter by that.
        some = upper.some(torch.tensor([1])).at(torch.tensor([0]), torch.tensor([4]))
        torch.testing.assert_close(some.logits(), whole[2:3])
    assert not any("forward" in vars(layer) for layer in layers)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_beside_a_memory_whose_lower_layers_rest() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2))
    tiny.shake(model)
    ids, mask = tiny.ids(), torch.ones_like(tiny.ids())
    upper = Upper(model, vm.memories(model).host, ids, mask, 1, torch.arange(len(ids)), torch.full((len(ids),), 3))
    with torch.no_grad():
        torch.testing.assert_close(upper.logits(), model(input_ids=ids).logits[:, 3])


def test_the_lower_layers_come_back_when_the_upper_ones_fail() -> None:
    model = tiny.host("qwen3").eval()
    host = hosts.find(model)
    upper = Upper(model, host, tiny.ids(), torch.ones_like(tiny.ids()), 1, *torch.zeros(2, 1, dtype=torch.long))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    handle = host.layers[1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        upper.logits()
    handle.remove()
    assert "forward" not in vars(host.layers[0])
    assert not host.layers[1]._forward_pre_hooks


def test_a_layer_with_a_forward_of_its_own_gets_it_back() -> None:
    model = tiny.host("qwen3").eval()
    lower = hosts.find(model).layers[0]
    own = lower.forward
    calls = []
    lower.forward = lambda *given, **more: calls.append(1) or own(*given, **more)
    mine = lower.forward
    upper = Upper(
        model, hosts.find(model), tiny.ids(), torch.ones_like(tiny.ids()), 1, *torch.zeros(2, 1, dtype=torch.long)
    )
    upper.logits()
    assert lower.forward is mine
    assert calls == [1]


def not_called(head: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(states, head.weight)


def in_parts(head: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([head(input=states[:, :0]), *map(head, states.chunk(2, 1))], 1)


@pytest.mark.parametrize("said", [not_called, in_parts])
def test_a_head_that_is_not_called_or_in_a_way_of_its_own_says_all_and_the_places_are_taken_of_that(said: Any) -> None:
    model = tiny.host("qwen3").eval()

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        states = model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)[0]
        return SimpleNamespace(logits=said(model.lm_head, states))

    ids = tiny.ids(batch=3)
    rows, places = torch.tensor([0, 2, 2]), torch.tensor([1, 4, 0])
    with torch.no_grad():
        whole = model(input_ids=ids).logits[rows, places]
        model.forward = forward
        upper = Upper(model, hosts.find(model), ids, torch.ones_like(ids), 1, rows, places)
        torch.testing.assert_close(upper.logits(), whole)
