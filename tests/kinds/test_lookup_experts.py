"""Lookup experts: computed from the embedding in training, the same as a table afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vademecum as vm
from tests import tiny


def trained(name: str = "qwen3", *beside: Any, **settings: Any) -> Any:
    model = vm.attach(tiny.host(name), vm.LookupExperts(**{"experts": 3, "width": 8} | settings), *beside).train()
    optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-2))
    for step in range(3):
        model(input_ids=tiny.ids(seed=step), labels=tiny.ids(seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny.ids(seed=9)).logits


def test_the_papers_equation() -> None:
    model, ids = trained(), tiny.ids()
    site = model.model.layers[0].mlp
    part = site.memory["lookup_experts"]
    seen = []
    site.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        model(input_ids=ids)
        hidden, out = seen[0]
        embedded = model.model.embed_tokens(ids)
        embedded = embedded * torch.rsqrt(embedded.square().mean(-1, keepdim=True) + 1e-6)
        expected, weights = site.host(hidden), F.linear(hidden, part.router.weight).softmax(-1)
        for n in range(3):
            gate, up = (embedded @ part.experts.up[n]).chunk(2, -1)
            expected = expected + weights[..., n : n + 1] * ((F.silu(gate) * up) @ part.experts.down[n])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "replace"),
    [(name, replace) for name in tiny.HOSTS for replace in (False, True) if not (replace and name in tiny.SPARSE)],
)
def test_the_table_says_what_the_experts_said(name: str, replace: bool) -> None:
    model = trained(name, replace=replace, out_std=0.02)
    parts = {layer: part for _, layer, part in vm.memories(model).parts()}
    before = logits(model)
    with torch.no_grad():
        rows = {layer: part.vectors(torch.arange(tiny.VOCABULARY)) for layer, part in parts.items()}
    vm.tabulate(model)
    for layer, expected in rows.items():
        bank = vm.memories(model).banks()[f"lookup_experts.layers.{layer}.bank.weight"]
        torch.testing.assert_close(bank.weight, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)
    assert not [one for one in model.modules() if type(one).__name__ == "Experts"]


@pytest.mark.parametrize("place", ["device", "ram", "disk"])
def test_a_table_is_placed_and_trained_like_any_other(place: str) -> None:
    model = trained()
    expected = logits(model)
    vm.tabulate(model, bank=place, bank_cap=40_000)
    assert {bank.where for bank in vm.memories(model).banks().values()} == {place}
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
    rows = vm.RowOptimizer(model.train(), lr=1e-3)
    before = logits(model)
    model(input_ids=tiny.ids(seed=9), labels=tiny.ids(seed=9)).loss.backward()
    rows.step()
    assert not torch.equal(before, logits(model))


def test_what_was_saved_of_a_table_is_loaded_to_the_bit_onto_the_host_it_was_made_with(tmp_path: Path) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.LookupExperts(experts=2, width=8))
    tiny.shake(model)
    vm.tabulate(model)
    vm.save(model, tmp_path / "memory")
    assert torch.equal(logits(vm.load(tiny.host("qwen3"), tmp_path / "memory")), logits(model))


def test_memories_beside_it_are_the_very_objects_that_they_were() -> None:
    model = trained("qwen3", vm.MoVE(slots=2), vm.MoE(experts=2, layers=[1]), layers=[0])
    before = {key: one for key, one in vm.memories(model).named().items() if "lookup" not in key}
    torch.manual_seed(3)
    draw = torch.get_rng_state()
    vm.tabulate(model)
    assert torch.equal(draw, torch.get_rng_state())
    assert all(vm.memories(model).named()[key] is one for key, one in before.items())
    vm.detach(model)


def test_the_norm_of_memory_attention_is_worked_into_its_rows(tmp_path: Path) -> None:
    model = vm.attach(tiny.host("gpt2"), vm.MemoryAttention(), bank="disk", bank_folder=tmp_path)
    tiny.shake(model)
    before = logits(model)
    vm.tabulate(model, bank="disk", bank_folder=tmp_path)
    assert [kind.folded for kind in vm.memories(model).kinds.values()] == [True]
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


def test_operations_go_and_a_tokens_rows_stay() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.LookupExperts(experts=3, width=8))
    before = vm.memories(model).cost()
    vm.tabulate(model)
    after = vm.memories(model).cost()
    assert before.flops_per_token - after.flops_per_token == 2 * 2 * 3 * (32 * 16 + 8 * 32)
    assert after.active_params == 2 * (3 * 32 + 3 * 32)


def test_what_cannot_be_tabulated_is_refused_and_the_model_unchanged() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE())
    with pytest.raises(ValueError, match=r"nothing of move is computed from the token alone.*lookup_experts"):
        vm.tabulate(model)
    model = trained()
    before = logits(model)
    with vm.record(model), pytest.raises(ValueError, match="being recorded"):
        vm.tabulate(model)
    assert torch.equal(before, logits(model))
    vm.tabulate(model)
    with pytest.raises(ValueError, match="nothing of lookup_experts"):
        vm.tabulate(model)
    model = vm.attach(tiny.host("qwen3"), vm.MemoryAttention())
    vm.RowOptimizer(model, lr=1e-3)
    with pytest.raises(ValueError, match="call its release"):
        vm.tabulate(model)


@pytest.mark.parametrize("settings", [{"experts": 0}, {"width": 0}, {"out_std": -0.1}])
def test_settings_that_make_no_experts_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was given; expected"):
        vm.LookupExperts(**settings)


def test_experts_read_the_embedding_that_the_host_has_now() -> None:
    model, ids = vm.attach(tiny.host("qwen3"), vm.LookupExperts(experts=2, width=8, out_std=0.5)), tiny.ids()
    other = copy.deepcopy(model.get_input_embeddings())
    torch.nn.init.normal_(other.weight)
    fresh = vm.attach(tiny.host("qwen3"), vm.NoMemory())
    fresh.set_input_embeddings(other)
    vm.detach(fresh)
    vm.attach(fresh, vm.LookupExperts(experts=2, width=8, out_std=0.5))
    state = {name: value for name, value in model.state_dict().items() if "embed_tokens" not in name}
    fresh.load_state_dict(state, strict=False)
    model.set_input_embeddings(other)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, fresh(input_ids=ids).logits)


def test_an_id_outside_the_vocabulary_is_named() -> None:
    model, ids = vm.attach(tiny.host("qwen3"), vm.LookupExperts(experts=2, width=8)), tiny.ids()
    embeds = model.get_input_embeddings()(ids)
    ids[0, 1] = 61
    with pytest.raises(ValueError, match="61"):
        model(inputs_embeds=embeds, memory_ids=ids)


def test_a_copy_of_a_model_reads_the_embedding_of_the_copy() -> None:
    model, ids = vm.attach(tiny.host("qwen3"), vm.LookupExperts(experts=2, width=8, out_std=0.5)), tiny.ids()
    other = copy.deepcopy(model)
    before = logits(other)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    assert torch.equal(logits(other), before)
    part = next(part for _, _, part in vm.memories(other).parts())
    assert part.vectors(ids[0]).shape[0] == ids.shape[1]
    assert part._embedding() is other.get_input_embeddings()
