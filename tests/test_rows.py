"""The optimizer by rows: the gradient of the table, a step that touches what was read, the same bits in every place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vademecum as vm
from tests import processes, tiny
from vademecum.memory.base import Kind
from vademecum.rows import RULES, round_stochastically
from vademecum.state import memory_state_dict
from vademecum.stores.base import Store

KINDS: dict[str, tuple[Kind, ...]] = {
    "move": (vm.MoVE(slots=3, bank_std=0.1),),
    "lave": (vm.LaVE(),),
    "both": (vm.MoVE(slots=2), vm.LaVE(layers=[0])),
    "values": (vm.BankOfValues(layers=[0]), vm.MemoryAttention(layers=[1])),
    "feed forward": (vm.TokenFFN(layers=[0]), vm.TokenFFN(mode="multiply", layers=[1])),
    "tabulated": (vm.LookupExperts(experts=2, tabulated=True),),
    "product key": (vm.ProductKey(slots=64, heads=2, topk=3, layers="all", bank_std=0.5),),
    "peer": (vm.PEER(experts=36, heads=1, topk=2, bank_std=0.5),),
    "lattice": (vm.Lattice(slots=512, width=4, layers="all", out_std=1.0),),
    "ngram": (vm.NGram(layers="all", heads=2, width=16, signed_root=False),),
}


def model_of(*kinds: Kind, **place: Any) -> Any:
    model = tiny.host("qwen3").train()
    torch.manual_seed(5)
    return vm.attach(model, *kinds, **place)


def whole(model: Any) -> dict[str, Tensor]:
    return {
        name: (torch.cat(list(one.chunks())) if isinstance(one, Store) else one.detach().clone())
        for name, one in memory_state_dict(model).items()
    }


def backward(model: Any, seed: int) -> None:
    model(input_ids=tiny.ids(seed=seed), labels=tiny.ids(seed=seed)).loss.backward()


def trained(model: Any, rule: str = "rms", steps: int = 3, lr: float = 1e-2) -> dict[str, Tensor]:
    rows = vm.RowOptimizer(model, lr=lr, rule=rule)
    others = torch.optim.AdamW(vm.param_groups(model, lr=lr))
    for step in range(steps):
        for part in range(2):
            backward(model, 2 * step + part)
        others.step()
        rows.step()
        others.zero_grad()
        rows.zero_grad()
    return whole(model)


def gradients(model: Any) -> dict[str, Tensor]:
    """The rows' gradients written into a table of zeros."""
    found = {}
    for name, bank in vm.memories(model).banks().items():
        ids, grads = bank.ledger.merge()
        found[name] = torch.zeros(bank.rows, *bank.row_shape)
        found[name][ids] = grads.view(len(ids), *bank.row_shape)
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_a_bank_learns_the_same_bits_wherever_it_lives(
    kinds: tuple[Kind, ...], dtype: torch.dtype, rule: str, tmp_path: Path
) -> None:
    # Less than all rows and states of narrow banks, and enough for what a batch reads of wide ones.
    cap = 12_000 if isinstance(kinds[0], vm.MoVE | vm.LaVE) else 32_000
    device = trained(model_of(*kinds, bank="device", bank_dtype=dtype), rule)
    for place in ("ram", "disk"):
        other = trained(model_of(*kinds, bank=place, bank_folder=tmp_path, bank_cap=cap, bank_dtype=dtype), rule)
        assert device.keys() == other.keys()
        for name, tensor in device.items():
            assert tensor.dtype == other[name].dtype
            assert torch.equal(tensor, other[name]), (place, name)
    start = whole(model_of(*kinds, bank="device", bank_dtype=dtype))
    assert not all(torch.equal(start[name], device[name]) for name in vm.memories(model_of(*kinds)).banks())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_rows_get_the_gradient_of_the_table_over_two_forwards_before_one_backward(
    kinds: tuple[Kind, ...], checkpointing: bool
) -> None:
    found = []
    for by_rows in (False, True):
        model = model_of(*kinds)
        tiny.shake(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if by_rows:
            vm.RowOptimizer(model, lr=1e-2)
        losses = [model(input_ids=tiny.ids(seed=seed), labels=tiny.ids(seed=seed)).loss for seed in (0, 1)]
        sum(losses).backward()
        backward(model, 2)
        banks = vm.memories(model).banks()
        found.append(gradients(model) if by_rows else {name: bank.weight.grad for name, bank in banks.items()})
        others = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "shared" not in name}
        found[-1] = {**found[-1], **{name: grad for name, grad in others.items() if "bank" not in name}}
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-5, atol=1e-7)


def test_a_forward_without_a_backward_leaves_nothing_behind() -> None:
    model = model_of(vm.MoVE(slots=2))
    rows = vm.RowOptimizer(model, lr=1e-2)
    before = whole(model)
    for seed in range(3):
        model(input_ids=tiny.ids(seed=seed), labels=tiny.ids(seed=seed))
    rows.step()
    assert rows.grad_norms() == []
    assert all(torch.equal(before[name], tensor) for name, tensor in whole(model).items())


@given(batches=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_default_rule_is_rmsprop_of_the_whole_table_although_it_touches_only_what_was_read(
    batches: list[list[int]],
) -> None:
    model = model_of(vm.MoVE(slots=2, bank_std=0.1))
    bank, lr = vm.memories(model).banks()["move.shared.weight"], 1e-3
    rows = vm.RowOptimizer(model, lr=lr)
    table, square = bank.weight.detach().clone().double(), torch.zeros(bank.rows, bank.slots).double()
    for number, batch in enumerate(batches, start=1):
        model(input_ids=torch.tensor([batch])).logits.square().sum().backward()
        grad = gradients(model)["move.shared.weight"].double()
        square = 0.95 * square + 0.05 * grad.square().mean(-1)
        root = (square / (1 - 0.95**number)).sqrt() + 1e-8
        table -= lr * 60 / bank.slots * grad / root.unsqueeze(-1)
        rows.step()
        rows.zero_grad()
    torch.testing.assert_close(bank.weight.detach().double(), table, rtol=1e-4, atol=1e-5)


@given(
    batches=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=3),
    rule=st.sampled_from(sorted(RULES)),
)
def test_rows_that_were_not_read_keep_their_bits_and_their_state(batches: list[list[int]], rule: str) -> None:
    model = model_of(vm.MoVE(slots=2, bank_std=0.1))
    rows = vm.RowOptimizer(model, lr=1e-2, rule=rule)
    before = whole(model)["move.shared.weight"]
    read = torch.zeros(tiny.VOCABULARY, dtype=torch.bool)
    for batch in batches:
        ids = torch.tensor([batch])
        read[ids] = True
        model(input_ids=ids).logits.square().sum().backward()
        rows.step()
        rows.zero_grad()
    after, state = whole(model)["move.shared.weight"], rows.state_dict()
    assert torch.equal(before[~read], after[~read])
    assert (before[read] != after[read]).flatten(1).any(1).all()
    for name, table in state.items():
        assert name == "steps" or not table[~read].any()


class Largest(TorchDispatchMode):
    """The largest tensor that anything made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            # A view is as large as what it shows; only a storage of its own counts.
            given = [a.untyped_storage().data_ptr() for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in given:
                self.numel = max(self.numel, made.numel())
        return out


@pytest.mark.parametrize("rule", RULES)
def test_a_training_step_makes_nothing_of_the_tables_size(rule: str) -> None:
    model = vm.attach(tiny.host("qwen3").requires_grad_(False), vm.MoVE(slots=8)).train()
    bank = vm.memories(model).banks()["move.shared.weight"]
    rows = vm.RowOptimizer(model, lr=1e-2, rule=rule)
    ids = torch.tensor([[3, 4, 3, 5, 4, 3]])
    for _ in range(2):
        with Largest() as seen:
            model(input_ids=ids).logits.sum().backward()
            rows.grad_norms()
            rows.step()
            rows.zero_grad()
    assert 0 < seen.numel < bank.rows * bank.slots * bank.heads * bank.dim / 4


def test_state_goes_through_a_dictionary_and_training_goes_on_as_if_nothing_had_happened() -> None:
    for rule in RULES:
        one, two = model_of(vm.MoVE(slots=2)), model_of(vm.MoVE(slots=2))
        first, second = vm.RowOptimizer(one, lr=1e-2, rule=rule), vm.RowOptimizer(two, lr=1e-2, rule=rule)
        backward(one, 0)
        first.step()
        first.zero_grad()
        vm.memories(two).load_state_dict(vm.memories(one).state_dict())
        second.load_state_dict(first.state_dict())
        for model, rows in ((one, first), (two, second)):
            backward(model, 1)
            rows.step()
        assert all(torch.equal(tensor, whole(two)[name]) for name, tensor in whole(one).items())
        assert second.steps == 2


def test_what_belongs_to_another_memory_or_rule_is_refused() -> None:
    rows = vm.RowOptimizer(model_of(vm.MoVE(slots=2)), lr=1e-2)
    other = vm.RowOptimizer(model_of(vm.MoVE(slots=2)), lr=1e-2, rule="adam")
    with pytest.raises(ValueError, match=r"has 'count/move.shared.weight'"):
        rows.load_state_dict(other.state_dict())
    wider = vm.RowOptimizer(model_of(vm.MoVE(slots=3)), lr=1e-2)
    with pytest.raises(ValueError, match=r"is \[61, 3\], expected \[61, 2\]"):
        rows.load_state_dict(wider.state_dict())
    with pytest.raises(ValueError, match="did you mean 'adam'"):
        vm.RowOptimizer(model_of(vm.LaVE()), lr=1e-2, rule="adamm")


def test_one_optimizer_at_a_time_holds_a_bank_and_gives_it_back() -> None:
    model = model_of(vm.MoVE(slots=2))
    with vm.RowOptimizer(model, lr=1e-2) as rows:
        assert len(rows) == 1
        assert not [name for group in vm.param_groups(model, lr=1e-3) for name in group["names"] if "shared" in name]
        with pytest.raises(ValueError, match=r"release\(\) first"):
            vm.RowOptimizer(model, lr=1e-2)
    backward(model, 0)
    assert vm.memories(model).banks()["move.shared.weight"].weight.grad.any()


def test_a_frozen_bank_on_the_device_is_left_alone() -> None:
    model = model_of(vm.MoVE(slots=2))
    vm.memories(model).requires_grad_(False)
    assert len(vm.RowOptimizer(model, lr=1e-2)) == 0


@given(st.floats(-1e3, 1e3, width=32).filter(lambda x: abs(x) > 1e-30))
def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_on_average(value: float) -> None:
    values = torch.full((20_000,), value)
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    rounded = round_stochastically(values, noise)
    low, high = rounded.float().min(), rounded.float().max()
    step = abs(value) * 2**-7
    assert low <= value <= high
    assert high - low <= step * 1.001
    assert abs(float(rounded.double().mean()) - value) <= 4 * step / 20_000**0.5


def test_what_bf16_holds_exactly_and_what_is_not_finite_come_through() -> None:
    values = torch.tensor([0.0, 1.0, -2.5, float("inf"), float("nan"), 3.38e38])
    noise = torch.full(values.shape, 65535, dtype=torch.int32)
    rounded = round_stochastically(values[:5], noise[:5])
    assert rounded[:4].tolist() == [0.0, 1.0, -2.5, float("inf")]
    assert rounded[4].isnan()


def test_bf16_rows_move_by_steps_far_below_their_resolution() -> None:
    model = model_of(vm.MoVE(slots=1, bank_std=0.0), bank_dtype=torch.bfloat16)
    bank = vm.memories(model).banks()["move.shared.weight"]
    with torch.no_grad():
        bank.weight.fill_(1.0)
    rows = vm.RowOptimizer(model, lr=1e-6)
    for _ in range(200):
        leaf = bank.ledger.lend(torch.arange(61), torch.zeros(61, *bank.row_shape))
        leaf.sum().backward()
        rows.step()
        rows.zero_grad()
    # 200 steps of 6e-5, where the next bf16 below 1 is 4e-3 away: to the nearest, none would ever have moved.
    assert float(bank.weight.float().mean()) == pytest.approx(1 - 200 * 60e-6, abs=1e-3)


def _of_two(folder: Path) -> dict[str, Tensor]:
    import torch.distributed as dist

    model = model_of(vm.MoVE(slots=2), vm.LaVE(layers=[0]), bank="ram")
    rows = vm.RowOptimizer(model, lr=1e-2)
    for step in range(3):
        ids = tiny.ids(batch=4, seed=step)[2 * dist.get_rank() : 2 * dist.get_rank() + 2]
        if step < 2 or dist.get_rank() == 0:
            model(input_ids=ids).logits.square().sum().backward()
        rows.step()
        rows.zero_grad()
    return whole(model)


def test_two_processes_learn_the_same_and_what_one_does(tmp_path: Path) -> None:
    one, two = processes.together(_of_two, tmp_path)
    model = model_of(vm.MoVE(slots=2), vm.LaVE(layers=[0]))
    rows = vm.RowOptimizer(model, lr=1e-2)
    for step in range(3):
        ids = tiny.ids(batch=4, seed=step)
        model(input_ids=ids if step < 2 else ids[:2]).logits.square().sum().mul(0.5).backward()
        rows.step()
        rows.zero_grad()
    for name, tensor in whole(model).items():
        assert torch.equal(one[name], two[name])
        torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-5)
