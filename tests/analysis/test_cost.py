"""Costs measured on real models agree with hand counts and with what the memories declare."""

from __future__ import annotations

import pytest

import vademecum as vm
from vademecum.analysis import cost, knockout
from vademecum.training import presets

LENGTH = 32


def host(ffn_width: int | None = None):
    return presets.build_host("qwen3", size=2, vocab_size=300, length=LENGTH, ffn_width=ffn_width)


def test_flops_of_a_dense_host_equal_the_count_by_hand() -> None:
    model, d, vocab, ffn = host(), 64, 300, 192
    per_layer = 2 * (4 * d * d + 3 * d * ffn) + 2 * 2 * LENGTH * d
    rotary = 0
    by_hand = 2 * per_layer + 2 * d * vocab + rotary
    assert cost.flops_per_token(model, length=LENGTH) == pytest.approx(by_hand, rel=0.01)


def test_declared_flops_of_a_memory_are_those_measured() -> None:
    bare = cost.flops_per_token(host(), length=LENGTH)
    model = vm.attach(host(), vm.MoVE(slots=3))
    declared = vm.memories(model).cost().flops_per_token
    assert cost.flops_per_token(model, length=LENGTH) - bare == pytest.approx(declared, rel=0.05)


def test_tables_count_as_one_row_each_when_active() -> None:
    model = vm.attach(host(), vm.MoVE(slots=3))
    found = cost.measure(model, length=LENGTH)
    assert found.total_params - found.active_params == 299 * 3 * 64 + 299 * 64
    assert found.bytes_per_token == found.active_params * 4


def test_bytes_read_follow_the_type_the_weights_are_held_in() -> None:
    import torch

    full, half = cost.measure(vm.attach(host(), vm.NoMemory()), length=LENGTH), vm.attach(host(), vm.NoMemory())
    assert cost.measure(half.to(torch.bfloat16), length=LENGTH).bytes_per_token * 2 == full.bytes_per_token


def test_an_arm_with_two_of_eight_experts_is_matched_to_dense() -> None:
    dense = cost.measure(vm.attach(host(), vm.NoMemory()), length=LENGTH)
    experts = cost.measure(vm.attach(host(), vm.MoE(experts=8, top_k=2)), length=LENGTH)
    assert experts.flops_per_token == pytest.approx(dense.flops_per_token, rel=0.03)
    assert experts.active_params == pytest.approx(dense.active_params, rel=0.03)
    assert experts.total_params > 2 * dense.total_params


def test_measuring_leaves_mode_and_attention_as_they_were() -> None:
    model = host().train()
    before = model.config._attn_implementation
    cost.flops_per_token(model, length=LENGTH)
    assert model.training
    assert model.config._attn_implementation == before


def test_knock_out_silences_the_memory_only_while_it_evaluates() -> None:
    import torch

    model = vm.attach(host(), vm.MoVE(slots=2, bank_std=1.0)).eval()
    ids = torch.arange(20)[None]

    def evaluate() -> float:
        with torch.no_grad():
            return float(model(input_ids=ids).logits.sum())

    bare, silenced = evaluate(), knockout.knockout(model, evaluate)
    assert silenced != bare
    assert evaluate() == bare
    vm.detach(model)
    assert evaluate() == silenced
