"""MoVE and LaVE: the equation, and what keeps slots apart."""

from __future__ import annotations

import torch

import vademecum as vm
from tests import tiny


def value_of(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, host output and mixed output of layer 0's value site during a forward."""
    site = model.model.layers[0].self_attn.v_proj
    seen = {}
    handles = [
        site.register_forward_hook(lambda m, args, out: seen.update(hidden=args[0], mixed=out)),
        site.host.register_forward_hook(lambda m, args, out: seen.update(plain=out)),
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return seen["hidden"], seen["plain"], seen["mixed"]


def test_move_is_its_equation() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3, scale=0.5))
    tiny.shake(model)
    ids = tiny.ids(1, 6)
    hidden, plain, mixed = value_of(model, ids)
    part = model.model.layers[0].self_attn.v_proj.memory["move"]
    bank = model.vademecum.shared["move"].weight
    gates = 2 * torch.sigmoid(hidden[0] @ part.gate.weight.T).view(6, 2, 4)
    for t in range(6):
        for h in range(2):
            expected = gates[t, h, 0] * plain[0, t].view(2, 8)[h]
            for m in range(3):
                expected = expected + 0.5 * gates[t, h, m + 1] * bank[ids[0, t], m].view(2, 8)[h]
            torch.testing.assert_close(mixed[0, t].view(2, 8)[h], expected, rtol=1e-4, atol=1e-5)


def test_lave_is_its_equation() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.LaVE())
    tiny.shake(model)
    ids = tiny.ids(1, 5)
    hidden, plain, mixed = value_of(model, ids)
    part = model.model.layers[0].self_attn.v_proj.memory["lave"]
    gates = 2 * torch.sigmoid(hidden[0] @ part.gate.weight.T).view(5, 2, 1)
    rows = part.bank.weight[ids[0], 0].view(5, 2, 8)
    torch.testing.assert_close(mixed[0].view(5, 2, 8), plain[0].view(5, 2, 8) + gates * rows, rtol=1e-4, atol=1e-5)


def test_in_latent_attention_the_mix_goes_into_the_latent_and_leaves_the_rotary_key_alone() -> None:
    model = vm.attach(tiny.host("deepseek_v3"), vm.MoVE(slots=2))
    tiny.shake(model)
    site = model.model.layers[0].self_attn.kv_a_proj_with_mqa
    seen = {}
    site.register_forward_hook(lambda m, args, out: seen.update(mixed=out))
    site.host.register_forward_hook(lambda m, args, out: seen.update(plain=out))
    model(input_ids=tiny.ids())
    assert torch.equal(seen["mixed"][..., 16:], seen["plain"][..., 16:])
    assert not torch.equal(seen["mixed"][..., :16], seen["plain"][..., :16])
    assert model.vademecum.shared["move"].weight.shape == (tiny.VOCABULARY, 2, 16)


def test_query_and_key_of_fused_projections_are_untouched() -> None:
    for name, path in (("gpt2", "h"), ("phi3", "layers"), ("gpt_neox", "layers")):
        model = vm.attach(tiny.host(name), vm.MoVE(slots=2))
        tiny.shake(model)
        family = model.vademecum.host.family
        site = model.base_model.get_submodule(path)[0].get_submodule(f"{family.attention}.{family.value}")
        seen = {}
        site.register_forward_hook(lambda m, args, out, seen=seen: seen.update(mixed=out))
        site.host.register_forward_hook(lambda m, args, out, seen=seen: seen.update(plain=out))
        model(input_ids=tiny.ids())
        shape = model.vademecum.shape
        values = family.slice.split(seen["plain"], shape.value_heads, shape.value_dim)
        same = family.slice.join(seen["mixed"], values)
        assert torch.equal(same, seen["plain"]), name
        assert not torch.equal(seen["mixed"], seen["plain"]), name


def test_a_narrow_gate_reads_only_its_channels() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2, gate_width=5))
    part = model.model.layers[0].self_attn.v_proj.memory["move"]
    x = torch.randn(3, 32)
    y = x.clone()
    y[:, 5:] = 0
    assert torch.equal(part.gate(x), part.gate(y))


def test_slots_grow_apart_from_the_default_start() -> None:
    """Zero bank and zero gates would leave all slots equal for ever: one slot under another name."""
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3)).train()
    optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
    for step in range(10):
        ids = tiny.ids(4, 16, seed=step)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    rows = model.vademecum.shared["move"].weight.detach()[1:]
    similarity = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1], dim=-1)
    assert similarity.mean() < 0.999


def test_the_banks_step_is_divided_by_the_number_of_slots() -> None:
    steps = {}
    for slots in (1, 4):
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=slots))
        steps[slots] = next(g["lr"] for g in vm.param_groups(model, lr=1.0) if g["role"] == "bank")
    assert steps[1] == 4 * steps[4]
