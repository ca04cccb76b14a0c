"""Experts in a file answer like experts in memory, and no more of them are in memory than fit."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vademecum as vm
from tests import tiny
from vademecum.experts import offloaded
from vademecum.experts.offloaded import ExpertCache, Offloaded
from vademecum.experts.routes import Routes
from vademecum.ops.experts import Networks, run_experts
from vademecum.stores.cache import ENTRY
from vademecum.stores.disk import Disk
from vademecum.stores.ram import Ram

KIND = vm.MoE(experts=4, top_k=2, shared_width=8)


def sparse(name: str = "qwen3", kind: vm.MoE = KIND) -> torch.nn.Module:
    model = vm.attach(tiny.host(name), kind)
    tiny.shake(model)
    return model


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
@pytest.mark.parametrize("room", [1, 3, 8])
def test_the_answer_is_that_of_resident_experts_whatever_fits(
    name: str, room: int, per_layer: bool, tmp_path: Path
) -> None:
    model = sparse(name)
    with torch.no_grad():
        expected = model(input_ids=tiny.ids()).logits
        offloaded.write(model, tmp_path / "experts.safetensors")
        table = Disk(tmp_path / "experts.safetensors", offloaded.TENSOR, cap=0)
        share = 2 if per_layer else 1
        caches = offloaded.offload(model, table, share * room * (table.row_bytes + ENTRY), per_layer=per_layer)
        first = model(input_ids=tiny.ids()).logits
        again = model(input_ids=tiny.ids()).logits
    assert len(caches) == share
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, first)
    assert table.bytes_read == sum(cache.misses for cache in caches) * table.row_bytes
    assert all(cache.nbytes <= room * (table.row_bytes + ENTRY) for cache in caches)


def test_nothing_of_the_experts_stays_in_memory_but_what_every_token_visits(tmp_path: Path) -> None:
    model = sparse()
    offloaded.write(model, tmp_path / "experts.safetensors")
    offloaded.offload(model, Disk(tmp_path / "experts.safetensors", offloaded.TENSOR, cap=0), 10**6)
    experts = offloaded.experts_of(model)
    assert len(experts) == 2
    assert all(parameter.is_meta for each in experts for parameter in each.parameters())
    assert not any(p.is_meta for name, p in model.named_parameters() if ".experts." not in name)


class Watched(Ram):
    """Counts the rows it gave that are still somewhere."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        self.alive, self.most = weakref.WeakSet[Tensor](), 0

    def gather(self, ids: Tensor) -> Tensor:
        given = super().gather(ids)
        self.alive.add(given)
        self.most = max(self.most, len({one.untyped_storage().data_ptr() for one in self.alive}))
        return given


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 7))
def test_the_least_recently_used_expert_goes_first_and_no_more_are_kept_than_fit(asked: list[int], room: int) -> None:
    table = Ram(torch.arange(12.0).view(6, 2))
    cache = ExpertCache(table, room * (table.row_bytes + ENTRY))
    kept: list[int] = []
    hits = 0
    for row in asked:
        hits += row in kept
        assert (row in cache) == (row in kept)
        assert cache.take(row).tolist() == [2.0 * row, 2.0 * row + 1]
        kept = [*(other for other in kept if other != row), row][-min(room, 6) :]
        assert cache.nbytes == len(kept) * (table.row_bytes + ENTRY)
    assert (cache.hits, cache.misses) == (hits, len(asked) - hits)


def test_a_layer_holds_no_expert_beside_those_in_the_cache(tmp_path: Path) -> None:
    model = sparse(kind=vm.MoE(experts=4, top_k=2))
    offloaded.write(model, tmp_path / "experts.safetensors")
    disk = Disk(tmp_path / "experts.safetensors", offloaded.TENSOR, cap=0)
    table = Watched(disk.gather(torch.arange(disk.rows)))
    offloaded.offload(model, table, 2 * (table.row_bytes + ENTRY))
    with torch.no_grad():
        model(input_ids=tiny.ids())
    assert table.most == 2


def test_experts_that_are_here_come_before_those_that_would_push_them_out() -> None:
    model = sparse(kind=vm.MoE(experts=4, top_k=2))
    experts = offloaded.experts_of(model)[0]
    rows = torch.cat([experts.up.flatten(1), experts.down.flatten(1)], 1)
    cache = ExpertCache(Ram(rows), 2 * (rows[0].numel() * 4 + ENTRY))
    for expert in (2, 3):
        cache.take(expert)
    chosen, ones = torch.tensor([[0, 2], [3, 1]]), torch.ones(2, 2)
    networks = Networks(experts.up, experts.down, None, None, experts.act, experts.gated)
    with torch.no_grad():
        Offloaded(cache, 0)(torch.randn(2, 32), Routes(chosen, ones, ones, ones), networks)
    assert (cache.hits, cache.misses) == (2, 4)


@pytest.mark.parametrize("room", [1, 3, 8])
def test_a_visit_asks_for_what_a_forward_of_those_choices_asks_for(room: int) -> None:
    experts = offloaded.experts_of(sparse(kind=vm.MoE(experts=4, top_k=2)))[0]
    rows = torch.cat([experts.up.flatten(1), experts.down.flatten(1)], 1)
    networks = Networks(experts.up, experts.down, None, None, experts.act, experts.gated)
    caches = [ExpertCache(Ram(rows), room * (rows[0].numel() * 4 + ENTRY)) for _ in range(2)]
    ones = torch.ones(2, 2)
    for chosen in ([[0, 2], [3, 1]], [[1, 2], [1, 2]], [[3, 0], [2, 3]]):
        with torch.no_grad():
            Offloaded(caches[0], 0)(torch.randn(2, 32), Routes(torch.tensor(chosen), ones, ones, ones), networks)
        Offloaded(caches[1], 0).visit(sorted({number for row in chosen for number in row}))
        forward, visit = ((cache.hits, cache.misses, [row in cache for row in range(4)]) for cache in caches)
        assert visit == forward


def test_tokens_that_no_expert_took_get_nothing() -> None:
    experts = offloaded.experts_of(sparse(kind=vm.MoE(experts=4, top_k=2)))[0]
    rows = torch.cat([experts.up.flatten(1), experts.down.flatten(1)], 1)
    networks = Networks(experts.up, experts.down, None, None, experts.act, experts.gated)
    chosen, weights = torch.tensor([[0, 2], [-1, -1], [3, -1]]), torch.tensor([[0.3, 0.7], [0.0, 0.0], [0.9, 0.0]])
    hidden, routes = torch.randn(3, 32), Routes(chosen, weights, weights, weights)
    with torch.no_grad():
        done = Offloaded(ExpertCache(Ram(rows), 10**6), 0)(hidden, routes, networks)
        torch.testing.assert_close(done, run_experts(hidden, chosen, weights, networks), rtol=1e-4, atol=1e-6)
    assert done[1].eq(0).all()


def test_training_a_cap_below_one_expert_and_a_foreign_table_are_refused(tmp_path: Path) -> None:
    model = sparse()
    offloaded.write(model, tmp_path / "experts.safetensors")
    table = Disk(tmp_path / "experts.safetensors", offloaded.TENSOR, cap=0)
    with pytest.raises(ValueError, match=f"expected {table.row_bytes + ENTRY} or more"):
        offloaded.offload(model, table, table.row_bytes)
    with pytest.raises(ValueError, match="the table is"):
        offloaded.offload(model, Ram(torch.zeros(3, 3)), 10**6)
    with pytest.raises(ValueError, match="0 layers of experts"):
        offloaded.experts_of(tiny.host("qwen3"))
    offloaded.offload(model, table, 10**6)
    with pytest.raises(ValueError, match=r"inside torch.no_grad\(\)"):
        model(input_ids=tiny.ids())
