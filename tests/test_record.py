"""Recording: the routers of hosts that bring experts along, light recordings, attached experts."""

from __future__ import annotations

import pytest
import torch

import vademecum as vm
from tests import tiny
from vademecum.analysis import experts

PER_TOKEN, ONCE = {"experts", "weights"}, {"load", "entropy", "probability", "dropped"}


@pytest.mark.parametrize("name", tiny.SPARSE)
def test_a_bare_sparse_host_reports_its_own_routers_like_attached_ones(name: str) -> None:
    model, ids = tiny.host(name), tiny.ids()
    with vm.record(model) as rec, torch.no_grad():
        before = model(input_ids=ids).logits
    assert rec.layers() == ["host.layers.0", "host.layers.1"]
    assert all(set(rec.forwards[0][key]) == PER_TOKEN | ONCE for key in rec.layers())
    assert torch.equal(torch.cat(rec.ids), ids.reshape(-1))
    chosen, weights = rec.all("host.layers.0", "experts"), rec.all("host.layers.0", "weights")
    assert chosen.shape == weights.shape == (ids.numel(), 2)
    assert (weights[:, 0] >= weights[:, 1]).all()
    load = rec.all("host.layers.0", "load")[0]
    counts = torch.bincount(chosen.reshape(-1), minlength=len(load))
    torch.testing.assert_close(load, counts / counts.sum())
    torch.testing.assert_close(rec.all("host.layers.0", "probability")[0].sum(), torch.tensor(1.0))
    assert set(experts.loads(rec.forwards)) == set(rec.layers())
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3_sparse"])
def test_what_is_reported_is_what_the_host_computes(name: str) -> None:
    model, ids = tiny.host(name), tiny.ids()
    seen = []
    block = model.model.layers[1].mlp
    handle = block.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    hidden, out = seen[0][0].reshape(-1, 32), seen[0][1]
    out = out[0] if isinstance(out, tuple) else out
    chosen, weights = rec.all("host.layers.1", "experts"), rec.all("host.layers.1", "weights")
    with torch.no_grad():
        rebuilt = block.experts(hidden, chosen, weights)
        if hasattr(block, "shared_experts"):
            rebuilt = rebuilt + block.shared_experts(hidden)
    torch.testing.assert_close(rebuilt, out.reshape(-1, 32), rtol=1e-4, atol=1e-5)


def test_padding_counts_in_no_share_of_a_bare_host() -> None:
    model, ids = tiny.host("mixtral"), tiny.ids(1, 6)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1)
    mask = torch.ones(1, 10, dtype=torch.long)
    mask[:, :4] = 0
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0))
        model(input_ids=ids)
    for name in ONCE:
        with_padding, without = rec.all("host.layers.0", name)
        torch.testing.assert_close(with_padding, without, rtol=1e-4, atol=1e-5)


def test_a_sparse_host_with_a_memory_reports_both() -> None:
    model = vm.attach(tiny.host("olmoe"), vm.MoVE(slots=2))
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=tiny.ids())
    assert rec.layers() == ["host.layers.0", "host.layers.1", "move.layers.0", "move.layers.1"]
    assert rec.all("move.layers.0", "gates").shape == (20, 2, 3)


def test_experts_that_took_the_place_of_a_hosts_are_not_reported_twice() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=4))
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=tiny.ids())
    assert rec.layers() == ["moe.layers.0", "moe.layers.1"]
    assert set(rec.forwards[0]["moe.layers.0"]) == PER_TOKEN | ONCE


def test_a_light_recording_keeps_nothing_per_token() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=4, capacity=0.5), vm.MoVE(slots=2, selectivity=0)).train()
    with vm.record(model, tokens=False) as rec:
        model(input_ids=tiny.ids(), labels=tiny.ids())
    assert rec.layers() == ["moe.layers.0", "moe.layers.1"]
    assert set(rec.forwards[0]["moe.layers.0"]) == ONCE
    assert rec.ids == []
    assert 0.4 <= rec.all("moe.layers.0", "dropped").item() < 1
    assert set(rec.losses) == {f"moe.layers.{layer}.{name}" for layer in (0, 1) for name in ("balance", "z")}


def test_rows_of_experts_that_choose_are_filled_up_over_forwards() -> None:
    model = vm.attach(tiny.host("llama"), vm.MoE(experts=4, choice="expert", balance=None, layers=[0])).train()
    with vm.record(model) as rec, torch.no_grad():
        for seed in range(4):
            model(input_ids=tiny.ids(seed=seed))
    chosen, weights = rec.all("moe.layers.0", "experts"), rec.all("moe.layers.0", "weights")
    assert chosen.shape == weights.shape
    assert (weights[chosen < 0] == 0).all()
    assert torch.bincount(chosen[chosen >= 0], minlength=4).tolist() == [40] * 4


def test_a_host_with_neither_memory_nor_experts_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"has no memory; attach one with vm.attach"), vm.record(tiny.host("llama")):
        pass
