"""Bank of Values and Memory Attention: values are looked up, and what made them is gone and comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import vademecum as vm
from tests import tiny
from vademecum.analysis.cost import flops_per_token
from vademecum.editing.rows import banks_of
from vademecum.memory.base import Kind, Need

HOSTS = [name for name in tiny.HOSTS if Need.VALUES not in tiny.LACKS.get(name, ())]
FUSED = ["gpt2", "gpt_neox", "phi3"]
KINDS = {"bank_of_values": vm.BankOfValues(), "memory_attention": vm.MemoryAttention()}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def site_of(model: Any, layer: int) -> Any:
    return next(site for name, at, site in vm.memories(model).sites() if (name, at) == ("value", layer))


def put_out(model: Any, layer: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Input of the value site of ``layer``, and the value that it puts out ``[B, T, H, D]``."""
    seen, site = [], site_of(model, layer)
    handle = site.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    hidden, out = seen[0]
    return hidden, site.where.split(out, site.heads, site.dim)


@pytest.mark.parametrize("name", HOSTS)
def test_the_value_projection_is_gone_from_parameters_and_operations(name: str) -> None:
    for kind in (vm.BankOfValues(layers=[1]), vm.MemoryAttention(layers=[1])):
        bare, model = tiny.host(name), vm.attach(tiny.host(name), kind)
        shape, memory = vm.memories(model).shape, vm.memories(model).cost().params
        width = shape.value_heads * shape.value_dim
        bias = width if getattr(site_of(model, 1).original(), "bias", None) is not None else 0
        counts = [sum(p.numel() for p in one.parameters()) for one in (bare, model)]
        assert counts[1] - memory == counts[0] - width * shape.hidden - bias
        saved = flops_per_token(vm.attach(bare, vm.NoMemory()), length=8) - flops_per_token(model, length=8)
        assert saved == 2 * width * shape.hidden


@pytest.mark.parametrize("name", FUSED)
def test_queries_and_keys_of_a_fused_map_are_what_they_were(name: str) -> None:
    bare, model, ids = tiny.host(name), vm.attach(tiny.host(name), vm.BankOfValues(layers=[0])), tiny.ids()
    seen, site = [], site_of(model, 0)
    site.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        model(input_ids=ids)
        hidden, out = seen[0]
        whole = vm.hosts.find(bare).module(0, "value")(hidden)
    mine, theirs = (site.where.rest(one, site.heads, site.dim) for one in (out, whole))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", HOSTS)
def test_aligned_rows_are_the_hosts_own_values_of_bare_embeddings(name: str) -> None:
    bare, model = tiny.host(name), vm.attach(tiny.host(name), vm.BankOfValues(layers=[1]))
    ids = torch.arange(tiny.VOCABULARY)[None]
    host = vm.hosts.find(bare)
    with torch.no_grad():
        hidden = bare.get_input_embeddings()(ids)
        if host.family.norm:
            hidden = host.layers[1].get_submodule(host.family.norm)(hidden)
        own = host.family.slice.split(host.module(1, "value")(hidden), host.shape.value_heads, host.shape.value_dim)
    _, value = put_out(model, 1, ids[:, :40])
    torch.testing.assert_close(value, own[:, :40], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral"])
def test_aligned_in_the_first_layer_step_0_is_the_host(name: str) -> None:
    """There the layer's input is the bare embedding, so nothing changes but rounding."""
    bare, model = tiny.host(name), vm.attach(tiny.host(name), vm.BankOfValues(layers=[0]))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=tiny.ids()).logits, bare(input_ids=tiny.ids()).logits)


def test_bank_of_values_is_gamma_times_the_row() -> None:
    model, ids = vm.attach(tiny.host("qwen3"), vm.BankOfValues()), tiny.ids()
    tiny.shake(model)
    part = site_of(model, 1).memory["bank_of_values"]
    _, value = put_out(model, 1, ids)
    torch.testing.assert_close(value.flatten(-2), part.scale.weight * part.bank.weight[ids, 0])


@pytest.mark.parametrize("name", HOSTS)
def test_memory_attention_adds_a_normalised_row_to_the_plain_key(name: str) -> None:
    model, ids = vm.attach(tiny.host(name), vm.MemoryAttention()), tiny.ids()
    tiny.shake(model)
    part, site, host = site_of(model, 1).memory["memory_attention"], site_of(model, 1), vm.memories(model).host
    hidden, value = put_out(model, 1, ids)
    with torch.no_grad():
        if host.family.key is not None:
            key = host.attention(1).get_submodule(host.family.key)(hidden)
            key = key.view(*key.shape[:-1], site.heads, site.dim)
        else:
            key = site.where.key(site.host(hidden), site.heads, site.dim)
    rows = part.bank.weight[ids, 0].view(*ids.shape, site.heads, site.dim)
    normed = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-6) * part.scale.weight
    torch.testing.assert_close(value, key + normed)


@every_kind
@pytest.mark.parametrize("name", ["qwen3", *FUSED])
def test_a_host_that_learns_meanwhile_has_learned_when_it_is_detached(name: str, kind: Kind) -> None:
    model = vm.attach(tiny.host(name), kind).train()
    before = copy.deepcopy(tiny.host(name).state_dict())
    optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
    model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    optimizer.step()
    where, shape = vm.memories(model).host.family.slice, vm.memories(model).shape
    path = next(key for key, one in model.named_modules() if one is site_of(model, 0)) + ".weight"
    vm.detach(model)

    def slices(weight: Tensor) -> tuple[Tensor, Tensor]:
        out = weight if name == "gpt2" else weight.t()
        return where.rest(out, shape.value_heads, shape.value_dim), where.split(
            out.contiguous(), shape.value_heads, shape.value_dim
        )

    (rest, value), (old_rest, old_value) = slices(model.state_dict()[path]), slices(before[path])
    assert torch.equal(value, old_value), "what rested is what it was"
    assert name == "qwen3" or not torch.equal(rest, old_rest), "what remained has learned"


@every_kind
def test_other_value_memories_stand_beside_it(kind: Kind) -> None:
    model = vm.attach(tiny.host("gpt2"), kind, vm.MoVE(slots=2), vm.LaVE())
    tiny.shake(model)
    with torch.no_grad():
        before = model(input_ids=tiny.ids()).logits
        for bank in vm.memories(model).banks().values():
            kept = bank.weight.clone()
            bank.weight.add_(1.0 + torch.arange(bank.weight.numel()).view_as(bank.weight).remainder(3))
            assert not torch.equal(before, model(input_ids=tiny.ids()).logits)
            bank.weight.copy_(kept)


@every_kind
def test_a_twin_of_a_fused_host_does_not_share_its_weights(kind: Kind) -> None:
    model = vm.attach(tiny.host("gpt_neox"), kind)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        site_of(twin, 0).host.weight.add_(1.0)
    before = tiny.host("gpt_neox").state_dict()
    vm.detach(model)
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    vm.detach(twin)
    assert not torch.equal(
        twin.gpt_neox.layers[0].attention.query_key_value.weight,
        model.gpt_neox.layers[0].attention.query_key_value.weight,
    )


def test_silenced_a_value_is_nothing_or_the_key_alone() -> None:
    for kind, expected in ((vm.BankOfValues(), "zeros"), (vm.MemoryAttention(), "key")):
        model = vm.attach(tiny.host("qwen3"), kind)
        tiny.shake(model)
        with vm.knocked_out(model):
            hidden, value = put_out(model, 0, tiny.ids())
        key = model.model.layers[0].self_attn.k_proj(hidden).view_as(value)
        torch.testing.assert_close(value, torch.zeros_like(value) if expected == "zeros" else key)


def test_rows_of_values_can_be_edited_and_rows_elsewhere_cannot() -> None:
    kinds = (vm.BankOfValues(), vm.LaVE(), vm.TokenFFN(), vm.LookupExperts(tabulated=True), vm.NGram(rows=61))
    model = vm.attach(tiny.host("qwen3"), *kinds)
    assert {name.split(".")[0] for name in banks_of(model)} == {"bank_of_values", "lave"}


@every_kind
def test_latent_attention_is_refused_with_the_reason(kind: Kind) -> None:
    with pytest.raises(ValueError, match="deepseek_v3 host: keys are made from the same latent as values"):
        vm.attach(tiny.host("deepseek_v3"), kind)


def test_two_that_want_the_values_are_refused() -> None:
    with pytest.raises(
        ValueError, match="bank_of_values and memory_attention both want to take the place of layer 0's"
    ):
        vm.attach(tiny.host("qwen3"), vm.BankOfValues(), vm.MemoryAttention())
    vm.attach(tiny.host("qwen3"), vm.BankOfValues(layers=[1]), vm.MemoryAttention(layers=[0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vm.BankOfValues(aligned=False, bank_std=0.0), "values of zero"),
        (lambda: vm.MemoryAttention(bank_std=0.0), "a number above 0"),
        (lambda: vm.BankOfValues(bank_std=-1.0), "expected 0 or more"),
    ],
)
def test_starts_that_learn_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
