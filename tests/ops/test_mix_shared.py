"""Many layers read one tensor of rows and add their gradients into one buffer, whatever autograd is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vademecum.lookup import Lookup
from vademecum.ops.mix import cpu, mix_slots, shared_rows

LAYERS, SLOTS, HEADS, DIM = 4, 3, 2, 8


class Tower:
    """Layers whose gates depend on the layer before, over rows read once a forward."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(12, SLOTS, HEADS, DIM, generator=generator, requires_grad=True)
        self.weights = [
            torch.randn(HEADS * DIM, HEADS * SLOTS, generator=generator, requires_grad=True) for _ in range(LAYERS)
        ]
        self.start = torch.randn(20, HEADS, DIM, generator=generator)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.table, *self.weights]

    def forward(
        self, ids: Tensor, *, share: bool, layers: int = LAYERS, checkpointed: bool = False, also: bool = False
    ) -> Tensor:
        lookup = Lookup.of(ids)
        rows = self.table[lookup.unique]
        rows = shared_rows(rows, lookup) if share else rows
        x = self.start

        def layer(x: Tensor, weight: Tensor) -> Tensor:
            gates = torch.sigmoid(x.flatten(1) @ weight).view(-1, HEADS, SLOTS)
            return torch.tanh(x + mix_slots(gates, rows, lookup))

        for weight in self.weights[:layers]:
            x = checkpoint(layer, x, weight, use_reentrant=False) if checkpointed else layer(x, weight)
        loss = x.square().sum()
        return loss + rows.pow(3).sum() if also else loss


def ids_of(seed: int) -> Tensor:
    return torch.randint(0, 12, (2, 10), generator=torch.Generator().manual_seed(seed))


def one_forward(tower: Tower, share: bool) -> list[Tensor]:
    return list(torch.autograd.grad(tower.forward(ids_of(0), share=share), tower.leaves))


def two_forwards_before_one_backward(tower: Tower, share: bool, checkpointed: bool) -> list[Tensor]:
    first = tower.forward(ids_of(0), share=share, checkpointed=checkpointed)
    second = tower.forward(ids_of(1), share=share, checkpointed=checkpointed)
    return list(torch.autograd.grad(first + 2 * second, tower.leaves))


def a_second_backward(tower: Tower, share: bool) -> list[Tensor]:
    loss = tower.forward(ids_of(0), share=share)
    loss.backward(retain_graph=True)
    loss.backward()
    return [leaf.grad for leaf in tower.leaves]


def part_of_the_inputs_first(tower: Tower, share: bool) -> list[Tensor]:
    loss = tower.forward(ids_of(0), share=share)
    gates_alone = torch.autograd.grad(loss, tower.weights[1:2], retain_graph=True)
    table_alone = torch.autograd.grad(loss, [tower.table], retain_graph=True)
    loss.backward()
    return [*gates_alone, *table_alone, *(leaf.grad for leaf in tower.leaves)]


def some_layers_unused(tower: Tower, share: bool) -> list[Tensor]:
    ids = ids_of(0)
    loss = tower.forward(ids, share=share, layers=2)
    grads = torch.autograd.grad(loss, tower.leaves, allow_unused=True)
    return [grad if grad is not None else torch.zeros(1) for grad in grads]


def another_use_of_the_rows(tower: Tower, share: bool) -> list[Tensor]:
    return list(torch.autograd.grad(tower.forward(ids_of(0), share=share, also=True), tower.leaves))


def a_backward_that_failed_before(tower: Tower, share: bool) -> list[Tensor]:
    def fail(_: Tensor) -> None:
        raise KeyError("stop")

    loss = tower.forward(ids_of(0), share=share)
    handle = tower.weights[0].register_hook(fail)
    with pytest.raises(KeyError):
        loss.backward(retain_graph=True)
    handle.remove()
    for leaf in tower.leaves:
        leaf.grad = None
    loss.backward()
    return [leaf.grad for leaf in tower.leaves]


CASES: dict[str, Callable[[Tower, bool], list[Tensor]]] = {
    "one forward": one_forward,
    "two forwards": partial(two_forwards_before_one_backward, checkpointed=False),
    "two forwards, checkpointed": partial(two_forwards_before_one_backward, checkpointed=True),
    "a second backward": a_second_backward,
    "part of the inputs first": part_of_the_inputs_first,
    "some layers unused": some_layers_unused,
    "another use of the rows": another_use_of_the_rows,
    "a backward that failed before": a_backward_that_failed_before,
}


@pytest.mark.parametrize("name", CASES)
def test_one_buffer_gives_the_gradients_that_autograd_would_add_up(name: str) -> None:
    shared, apart = CASES[name](Tower(), True), CASES[name](Tower(), False)
    assert any(grad.abs().sum() > 0 for grad in apart)
    for ours, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_that_need_no_gradient_get_none_and_gates_get_theirs() -> None:
    lookup = Lookup.of(ids_of(0))
    rows = torch.randn(len(lookup.unique), SLOTS, HEADS, DIM)
    gates = torch.rand(20, HEADS, SLOTS, requires_grad=True)
    assert shared_rows(rows, lookup) is rows
    mix_slots(gates, rows, lookup).sum().backward()
    expected = rows[lookup.inverse].sum(-1).transpose(1, 2)
    torch.testing.assert_close(gates.grad, expected)


def test_layers_make_no_gradient_of_the_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = []
    backward = cpu.backward

    def watched(grad: Tensor, gates: Tensor, rows: Tensor, segments: object, into: Tensor | None) -> Tensor:
        buffers.append(None if into is None else into.data_ptr())
        return backward(grad, gates, rows, segments, into)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu, "backward", watched)
    tower = Tower()
    tower.forward(ids_of(0), share=True).backward()
    assert len(buffers) == LAYERS
    assert len(set(buffers)) == 1


def test_a_buffer_is_gone_when_the_backward_that_filled_it_ends() -> None:
    from vademecum.ops.mix.shared import sink_of

    lookup = Lookup.of(ids_of(0))
    rows = shared_rows(torch.randn(len(lookup.unique), SLOTS, HEADS, DIM, requires_grad=True), lookup)
    gates = torch.rand(20, HEADS, SLOTS, requires_grad=True)
    torch.autograd.grad(mix_slots(gates, rows, lookup).sum(), [gates])
    sink = sink_of(rows, lookup)
    assert sink is not None
    assert sink._buffers == {}


def test_rows_in_bf16_are_summed_in_fp32_over_all_layers() -> None:
    lookup = Lookup.of(torch.zeros(1, 1, dtype=torch.long))
    leaf = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    rows = shared_rows(leaf, lookup)
    steps = [1.0] + [2.0**-9] * 8  # each below half a unit of the last place of 1 in bf16, together one and a half
    gates = [torch.full((1, 1, 1), step, dtype=torch.bfloat16) for step in steps]
    sum(mix_slots(gate, rows, lookup).sum() for gate in gates).backward()
    assert leaf.grad is not None
    assert leaf.grad.item() == 1.015625
