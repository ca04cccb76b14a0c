"""The mix inside compiled graphs and under autocast: the same results through one operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint

import vademecum as vm
from tests import tiny
from vademecum import ops
from vademecum.lookup import Lookup
from vademecum.memory.base import Kind
from vademecum.ops.mix import blend, library, mix_slots, shared_rows

ROWS, SLOTS, HEADS, DIM = 30, 3, 2, 8


class Tower(nn.Module):
    """Three layers over one table."""

    def __init__(self, *, whole: bool, checkpointed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.whole, self.checkpointed = whole, checkpointed
        self.table = nn.Parameter(torch.randn(ROWS, SLOTS, HEADS, DIM, generator=generator))
        self.weights = nn.ParameterList(torch.randn(HEADS * DIM, HEADS * SLOTS, generator=generator) for _ in range(3))

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        lookup = Lookup.of_table(ids) if self.whole else Lookup.of(ids)
        rows = shared_rows(lookup.rows_of(self.table), lookup)

        def layer(x: Tensor, weight: Tensor) -> Tensor:
            gates = torch.sigmoid(x.flatten(1) @ weight).view(-1, HEADS, SLOTS)
            return torch.tanh(x + mix_slots(gates, rows, lookup))

        for weight in self.weights:
            x = checkpoint(layer, x, weight, use_reentrant=False) if self.checkpointed else layer(x, weight)
        return x.square().sum() + 0.1 * rows[lookup.inverse[::4]].square().sum()


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def results(run: nn.Module, tower: Tower, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, ROWS, (2, 10), generator=generator)
    loss = run(ids, torch.randn(20, HEADS, DIM, generator=generator))
    return [loss.detach(), *torch.autograd.grad(loss, list(tower.parameters()))]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_a_whole_graph_gives_what_the_specification_gives(whole: bool, checkpointed: bool) -> None:
    tower = Tower(whole=whole, checkpointed=checkpointed)
    compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")
    for seed in (0, 1):
        with ops.backend("naive"):
            expected = results(tower, tower, seed)
        for ours, theirs in zip(results(compiled, tower, seed), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(results(tower, tower, seed), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_compiled_graph_over_the_table_holds_no_gathered_rows() -> None:
    tower = Tower(whole=True)
    shapes: list[tuple[int, ...]] = []
    targets: list[str] = []

    def watched(graph: torch.fx.GraphModule, _: object) -> object:
        values = [node.meta.get("val") for node in graph.graph.nodes]
        shapes.extend(tuple(value.shape) for value in values if isinstance(value, Tensor))
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    def run(ids: Tensor, x: Tensor) -> Tensor:
        lookup = Lookup.of_table(ids)
        rows = shared_rows(lookup.rows_of(tower.table), lookup)
        for weight in tower.weights:
            x = x + mix_slots((x.flatten(1) @ weight).view(-1, HEADS, SLOTS), rows, lookup)
        return x.sum()

    compiled = torch.compile(run, fullgraph=True, backend=aot_autograd(fw_compiler=watched))
    ids = torch.randint(0, ROWS, (5, 10))
    compiled(ids, torch.randn(50, HEADS, DIM)).backward()
    assert tower.table.grad is not None
    assert targets.count("vademecum.mix.default") == 3
    assert (50, SLOTS, HEADS, DIM) not in shapes
    assert (ROWS, SLOTS, HEADS, DIM) in shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_keeps_the_rules_of_torch_library(dtype: torch.dtype) -> None:
    lookup = Lookup.of_table(torch.tensor([[1, 4, 1, 0, 4, 4]]))
    gates = torch.rand(6, HEADS, SLOTS).to(dtype).requires_grad_()
    rows = torch.randn(5, SLOTS, HEADS, DIM).to(dtype).requires_grad_()
    torch.library.opcheck(library.mix, (gates, rows, *lookup.segments))


@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_gates_and_results_are_narrow_and_rows_and_their_gradient_stay_wide(compiled: bool) -> None:
    lookup, table = Lookup.of_table(torch.randint(0, ROWS, (2, 12))), torch.randn(ROWS, SLOTS, HEADS, DIM)
    weight = torch.randn(16, HEADS * SLOTS)

    def run(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            gates = torch.sigmoid(x @ weight).view(-1, HEADS, SLOTS)
            return gates, mix_slots(gates, rows, lookup)

    x, rows = torch.randn(24, 16), table.clone().requires_grad_()
    if compiled:
        gates, out = torch.compile(run, fullgraph=True, backend="aot_eager")(x, rows)
    else:
        gates, out = run(x, rows)
    assert gates.dtype == out.dtype == torch.bfloat16
    out.float().sum().backward()
    exact = table.clone().requires_grad_()
    with ops.backend("naive"):
        expected = mix_slots(gates.detach().float(), exact, lookup)
    expected.sum().backward()
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(rows.grad, exact.grad)


def test_an_id_past_the_table_is_refused_inside_a_compiled_graph_too() -> None:
    tower = Tower(whole=True)
    compiled = torch.compile(tower, fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match="rows 0 to 29"):
        compiled(torch.tensor([[1, ROWS]]), torch.randn(2, HEADS, DIM))


def test_a_compiler_that_makes_code_of_its_own_gives_the_same() -> None:
    tower = Tower(whole=True)
    compiled = torch.compile(tower, fullgraph=True)
    for ours, theirs in zip(results(compiled, tower), results(tower, tower), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by_rows", [False, True], ids=["parameter", "rows"])
@pytest.mark.parametrize("kind", [vm.MoVE(slots=3), vm.MoVE(slots=2, selectivity=0.0), vm.LaVE()], ids=str)
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "deepseek_v3"])
def test_a_compiled_model_trains_its_memory_as_an_eager_one_does(name: str, kind: Kind, by_rows: bool) -> None:
    found = []
    for compiled in (False, True):
        model = vm.attach(tiny.host(name), kind).train()
        tiny.shake(model)
        if by_rows:
            vm.RowOptimizer(model, lr=1e-2)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        run(input_ids=tiny.ids(), labels=tiny.ids(), use_cache=False).loss.backward()
        grads = {each: p.grad for each, p in model.named_parameters() if p.grad is not None}
        for each, bank in vm.memories(model).banks().items():
            if by_rows:
                ids, rows = bank.ledger.merge()
                grads[each] = torch.zeros(bank.rows, *rows.shape[1:]).index_copy(0, ids, rows)
            assert (grads[each] if by_rows else bank.weight.grad).any()
        found.append(grads)
    assert found[0].keys() == found[1].keys()
    for each, grad in found[0].items():
        torch.testing.assert_close(found[1][each], grad, rtol=1e-4, atol=1e-6)


def test_one_token_of_a_whole_table_reads_its_own_row() -> None:
    lookup, table = Lookup.of_table(torch.tensor([[7]])), torch.randn(ROWS, SLOTS, HEADS, DIM)
    gates, value = torch.rand(1, HEADS, SLOTS + 1), torch.randn(1, HEADS, DIM)
    with torch.no_grad():
        out = blend(value, gates, table, lookup)
    expected = gates[..., :1] * value + torch.einsum("nhm,mhd->nhd", gates[..., 1:], table[7])
    torch.testing.assert_close(out, expected)
