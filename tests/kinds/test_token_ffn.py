"""Token-indexed feed-forward: the equation of either mode, what is gone from the host, and that it comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vademecum as vm
from tests import tiny
from vademecum.analysis.cost import flops_per_token
from vademecum.memory.base import Need

GATED = [name for name in tiny.HOSTS if Need.GATED not in tiny.LACKS.get(name, ())]
UNGATED = ["gpt2", "gpt_neox", "nanochat"]


def bank_of(model: Any, layer: int) -> torch.Tensor:
    return vm.memories(model).banks()[f"token_ffn.layers.{layer}.bank.weight"].weight.flatten(1)


def run(model: Any, layer: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of a layer's feed-forward."""
    seen = []
    mlp = vm.memories(model).host.module(layer, "feed_forward")
    handle = mlp.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return seen[0]


def test_replace_is_the_papers_equation() -> None:
    model, ids = vm.attach(tiny.host("llama"), vm.TokenFFN()), tiny.ids()
    hidden, out = run(model, 1, ids)
    mlp = model.model.layers[1].mlp
    expected = F.linear(F.silu(mlp.gate_proj(hidden)) * bank_of(model, 1)[ids], mlp.down_proj.weight)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_multiply_is_the_hosts_feed_forward_with_rows_before_the_last_map(name: str) -> None:
    bare, model, ids = tiny.host(name), vm.attach(tiny.host(name), vm.TokenFFN(mode="multiply")), tiny.ids()
    tiny.shake(model)
    hidden, out = run(model, 0, ids)
    seen = []
    host = vm.memories(model).host
    mlp = vm.hosts.find(bare).module(0, "feed_forward")
    down = mlp.get_submodule(host.family.names.down)
    handle = down.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mlp(hidden)
    handle.remove()
    torch.testing.assert_close(out, down(seen[0] * bank_of(model, 0)[ids]))


@pytest.mark.parametrize("name", [*GATED[:3], *UNGATED, "phi3"])
def test_rows_of_ones_are_the_start_of_multiply_and_leave_every_bit(name: str) -> None:
    bare, model = tiny.host(name), vm.attach(tiny.host(name), vm.TokenFFN(mode="multiply"))
    assert bool((bank_of(model, 0) == 1).all())
    with torch.no_grad():
        assert torch.equal(bare(input_ids=tiny.ids()).logits, model(input_ids=tiny.ids()).logits)


@pytest.mark.parametrize("name", GATED)
def test_the_up_projection_is_gone_from_parameters_and_operations(name: str) -> None:
    bare, model = tiny.host(name), vm.attach(tiny.host(name), vm.TokenFFN(layers=[1]))
    names, hidden = vm.memories(model).host.family.names, 32
    up = bank_of(model, 1).shape[1] * hidden
    counts = [sum(p.numel() for p in one.parameters()) for one in (bare, model)]
    assert counts[0] - up + bank_of(model, 1).numel() == counts[1]
    assert flops_per_token(vm.attach(bare, vm.NoMemory()), length=8) - flops_per_token(model, length=8) == 2 * up
    assert names.gated


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_a_host_that_learns_meanwhile_has_learned_when_it_is_detached(name: str) -> None:
    model = vm.attach(tiny.host(name), vm.TokenFFN()).train()
    before = copy.deepcopy(tiny.host(name).state_dict())
    optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
    model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    optimizer.step()
    vm.detach(model)
    moved = {key for key, one in model.state_dict().items() if not torch.equal(one, before[key])}
    up = {"llama": "mlp.up_proj.weight", "phi3": "mlp.gate_up_proj.weight"}[name]
    gate = {"llama": "mlp.gate_proj.weight", "phi3": "mlp.gate_up_proj.weight"}[name]
    assert f"model.layers.0.{gate}" in moved
    if name == "llama":
        assert f"model.layers.0.{up}" not in moved
    else:
        width = model.config.intermediate_size
        fused = model.state_dict()[f"model.layers.0.{up}"]
        assert torch.equal(fused[width:], before[f"model.layers.0.{up}"][width:])
        assert not torch.equal(fused[:width], before[f"model.layers.0.{up}"][:width])


def test_a_fused_map_that_was_cast_or_moved_keeps_its_tie_to_the_host() -> None:
    model = vm.attach(tiny.host("phi3"), vm.TokenFFN()).to(torch.bfloat16)
    rest = model.model.layers[0].mlp.gate_up_proj.host
    with torch.no_grad():
        rest.weight.add_(1.0)
    expected = rest.weight.detach().t().clone()
    vm.detach(model)
    weight = model.model.layers[0].mlp.gate_up_proj.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight[: len(expected)], expected)


def test_a_fused_maps_remaining_part_that_was_given_other_memory_is_put_back() -> None:
    model = vm.attach(tiny.host("phi3"), vm.TokenFFN())
    rest = model.model.layers[0].mlp.gate_up_proj.host
    rest.weight.data = rest.weight.detach().clone() + 1.0
    expected = rest.weight.detach().t().clone()
    vm.detach(model)
    assert torch.equal(model.model.layers[0].mlp.gate_up_proj.weight[: len(expected)], expected)


@pytest.mark.parametrize("name", ["phi3", "llama"])
def test_a_checkpoint_of_the_attached_model_is_one_of_the_host(name: str) -> None:
    model = vm.attach(tiny.host(name), vm.TokenFFN(), vm.LookupExperts(experts=2, width=8))
    tiny.shake(model)
    state = {key: one.clone() for key, one in model.state_dict().items()}
    own = {key: one for key, one in state.items() if ".memory." not in key and "vademecum" not in key}
    assert own.keys() == tiny.host(name).state_dict().keys()
    other = vm.attach(tiny.host(name, seed=5), vm.TokenFFN(), vm.LookupExperts(experts=2, width=8))
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(input_ids=tiny.ids()).logits, other(input_ids=tiny.ids()).logits)
    vm.detach(other)
    assert all(torch.equal(one, own[key]) for key, one in other.state_dict().items())


def test_silenced_it_multiplies_by_nothing() -> None:
    bare, model = tiny.host("llama"), vm.attach(tiny.host("llama"), vm.TokenFFN(mode="multiply"))
    tiny.shake(model)
    with torch.no_grad(), vm.knocked_out(model):
        assert torch.equal(bare(input_ids=tiny.ids()).logits, model(input_ids=tiny.ids()).logits)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gpt2", vm.TokenFFN(), "gpt2 host has none.*write mode='multiply'"),
        ("mixtral", vm.TokenFFN(mode="multiply"), "layer 0 of this mixtral host has a MixtralSparseMoeBlock"),
        ("deepseek_v3_sparse", vm.TokenFFN(), "DeepseekV3MoE, which is no such thing; leave that layer out"),
    ],
)
def test_hosts_that_lack_what_it_needs_are_refused_and_unchanged(name: str, kind: vm.TokenFFN, message: str) -> None:
    model = tiny.host(name)
    names = [one for one, _ in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        vm.attach(model, kind)
    assert [one for one, _ in model.named_modules()] == names


def test_experts_in_the_same_feed_forward_are_refused_and_in_another_layer_are_not() -> None:
    with pytest.raises(
        ValueError, match="token_ffn and moe want each other's place, or one inside of it, at layer 1's"
    ):
        vm.attach(tiny.host("qwen3"), vm.TokenFFN(layers=[1]), vm.MoE(experts=2))
    with pytest.raises(ValueError, match="moe and token_ffn"):
        vm.attach(tiny.host("qwen3"), vm.MoE(experts=2), vm.TokenFFN(mode="multiply"))
    vm.attach(tiny.host("qwen3"), vm.TokenFFN(layers=[1]), vm.MoE(experts=2, layers=[0]))


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode='add'.*'replace', 'multiply'"):
        vm.TokenFFN(mode="add")
