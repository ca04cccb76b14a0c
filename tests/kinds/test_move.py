"""MoVE and LaVE: the equation, and what keeps slots apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from tests import tiny
from vademecum.lookup import Frame, Lookup
from vademecum.memory.mix import kinship, likeness


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


def test_a_gate_bias_shuts_slots_and_leaves_the_hosts_own_gate_at_one() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3, gate_bias=-2.0, gate_std=0.0, bank_std=0.1))
    gates = model.model.layers[0].self_attn.v_proj.memory["move"].gate(torch.randn(5, 32))
    assert torch.equal(gates[..., 0], torch.ones(5, 2))
    torch.testing.assert_close(gates[..., 1:], torch.full((5, 2, 3), 2 * torch.sigmoid(torch.tensor(-2.0)).item()))


def test_a_gate_bias_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MoVE\(gate_bias=nan\) was given; expected a finite number"):
        vm.MoVE(gate_bias=math.nan)


def frame_of(ids: list[int], mask: list[bool] | None = None) -> Frame:
    return Frame(lookup=Lookup.of(torch.tensor([ids])), mask=None if mask is None else torch.tensor(mask))


def alike(rows: torch.Tensor, frame: Frame) -> float:
    tokens, (slots, heads) = frame.lookup.inverse.numel(), rows.shape[1:3]
    return likeness(kinship(rows, frame), torch.ones(tokens, heads, slots), frame).item()


def test_likeness_is_one_for_copies_zero_for_unrelated_slots_and_lowest_for_slots_that_cancel() -> None:
    copies = torch.ones(1, 3, 2, 4)
    unrelated = torch.eye(3, 8).view(1, 3, 2, 4)
    opposite = torch.stack([torch.ones(2, 4), -torch.ones(2, 4)])[None]
    assert alike(copies, frame_of([5])) == pytest.approx(1, abs=1e-5)
    assert alike(unrelated, frame_of([5])) == pytest.approx(0, abs=1e-6)
    assert alike(opposite, frame_of([5])) == pytest.approx(-1, abs=1e-5)


@given(st.integers(1, 50), st.integers(2, 5), st.integers(0, 2**31))
def test_likeness_is_the_mean_cosine_of_gated_rows_over_every_sixteenth_real_token(
    tokens: int, slots: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4, (tokens,), generator=draw).tolist()
    mask = [True, *(torch.rand(tokens - 1, generator=draw) < 0.6).tolist()]
    frame = frame_of(ids, mask)
    rows = 1 + torch.randn(len(frame.lookup.unique), slots, 2, 3, generator=draw)
    gates = 0.1 + 2 * torch.rand(tokens, 2, slots, generator=draw)
    gated = gates.transpose(1, 2).unsqueeze(-1) * rows[frame.lookup.inverse]
    cosines = [
        torch.nn.functional.cosine_similarity(gated[n, a].flatten(), gated[n, b].flatten(), dim=0)
        for n in range(0, tokens, 16)
        for a in range(slots)
        for b in range(slots)
        if mask[n] and a != b
    ]
    torch.testing.assert_close(
        likeness(kinship(rows, frame), gates, frame), torch.stack(cosines).mean(), rtol=1e-3, atol=1e-4
    )


def test_a_bank_of_zeros_has_a_likeness_with_a_gradient_that_is_a_number() -> None:
    rows = torch.zeros(2, 3, 2, 4, requires_grad=True)
    gates = torch.ones(3, 2, 3, requires_grad=True)
    frame = frame_of([1, 2, 2])
    likeness(kinship(rows, frame), gates, frame).backward()
    assert torch.equal(rows.grad, torch.zeros_like(rows))
    assert torch.equal(gates.grad, torch.zeros_like(gates))


def test_selectivity_joins_the_loss_in_training_alone_and_keeps_slots_apart() -> None:
    def trained(weight: float) -> float:
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3, selectivity=weight)).train()
        optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
        for step in range(10):
            ids = tiny.ids(4, 16, seed=step)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad(), vm.record(model.eval()) as rec:
            model(input_ids=tiny.ids(4, 16, seed=99))
        assert not rec.losses
        rows = model.vademecum.shared["move"].weight.detach()[1:].view(-1, 3, 2, 8)
        return alike(rows, frame_of([row for row in range(len(rows)) for _ in range(16)]))

    assert trained(1.0) < trained(0.0) - 0.1


def test_selectivity_is_a_loss_of_each_layer_and_is_weighed() -> None:
    losses = {}
    for weight in (0.0, 0.1, 0.2):
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3, selectivity=weight)).train()
        tiny.shake(model)
        with vm.record(model) as rec:
            model(input_ids=tiny.ids())
        losses[weight] = {name: value.item() for name, value in rec.losses.items()}
    assert losses[0.0] == {}
    assert set(losses[0.1]) == {"move.layers.0.selectivity", "move.layers.1.selectivity"}
    assert losses[0.2] == pytest.approx({name: 2 * value for name, value in losses[0.1].items()})


def test_a_single_slot_has_no_selectivity() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=1, selectivity=0.1)).train()
    with vm.record(model) as rec:
        model(input_ids=tiny.ids())
    assert not rec.losses
