import pytest
import torch

import vademecum as vm
from vademecum.analysis import cost
from vademecum.training import presets

OWN_EXPERTS = {"deepseek_v3_moe": "deepseek_v3", "mixtral": "llama", "olmoe": "olmo2", "qwen3_moe": "qwen3"}
"""Presets with experts of their family's own, and the dense preset that each costs as much as."""

LATENT = ("deepseek_v3", "deepseek_v3_moe")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_builds_trains_and_takes_a_memory(name):
    model = vm.attach(presets.build_host(name, size=2, vocab_size=64, length=16), vm.MoVE(slots=2))
    ids = torch.arange(24).reshape(2, 12)
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    assert output.logits.shape == (2, 12, 64)
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_dial_sets_layers_and_width(name):
    model = presets.build_host(name, size=3, vocab_size=64, length=16)
    assert model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 96
    assert model.config.num_attention_heads == 3


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_head_has_weights_of_its_own(name):
    """A tied host would gain from any memory merely by getting an input table of its own (decision 0004)."""
    model = presets.build_host(name, size=1, vocab_size=64, length=16)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_width_given_for_the_feed_forward_is_taken(name):
    count = [
        sum(p.numel() for p in presets.build_host(name, size=1, vocab_size=64, length=16, ffn_width=width).parameters())
        for width in (32, 64, 96)
    ]
    assert count[2] - count[1] == count[1] - count[0] > 0


def test_gated_widths_are_eight_thirds_rounded_up_to_32():
    assert [presets.PRESETS["qwen3"].ffn_width(hidden) for hidden in (32, 96, 128)] == [96, 256, 352]
    assert presets.PRESETS["gpt2"].ffn_width(32) == 128


def test_equal_random_states_give_equal_hosts():
    hosts = []
    for _ in range(2):
        torch.manual_seed(3)
        hosts.append(presets.build_host("qwen3", size=1, vocab_size=64, length=16))
    assert all(torch.equal(a, b) for a, b in zip(hosts[0].parameters(), hosts[1].parameters(), strict=True))


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'qwen3'"):
        presets.build_host("qwen", size=1, vocab_size=64, length=16)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_size_below_one_or_not_whole_is_refused(size):
    with pytest.raises(ValueError, match="size="):
        presets.build_host("qwen3", size=size, vocab_size=64, length=16)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_size_runs(name, size):
    model = presets.build_host(name, size=size, vocab_size=64, length=16)
    assert torch.isfinite(model(input_ids=torch.arange(12)[None]).logits).all()


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("name", "dense"), OWN_EXPERTS.items())
def test_own_experts_cost_a_token_what_the_dense_preset_costs(name, dense, size):
    own, plain = (presets.build_host(each, size=size, vocab_size=64, length=16) for each in (name, dense))
    own.set_experts_implementation("eager")  # the profiler knows no grouped product
    assert cost.flops_per_token(own, length=16) == pytest.approx(cost.flops_per_token(plain, length=16), rel=0.05)
    assert sum(p.numel() for p in own.parameters()) > sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("kind", [vm.MoVE(slots=2, bank_std=0.3), vm.LaVE(bank_std=0.3)])
def test_a_memory_in_the_latent_is_as_wide_as_the_latent_and_changes_what_is_put_out(name, kind):
    torch.manual_seed(0)
    model = presets.build_host(name, size=2, vocab_size=64, length=16).eval()
    ids = torch.arange(12)[None]
    before = model(input_ids=ids).logits
    vm.attach(model, kind)
    assert vm.memories(model).host.shape.value_heads * vm.memories(model).host.shape.value_dim == 32
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)


@pytest.mark.parametrize("name", ["deepseek_v3", *OWN_EXPERTS])
@pytest.mark.parametrize("kind", [vm.MoVE(slots=2, bank_std=0.3), vm.LaVE(bank_std=0.3)])
def test_decoding_token_by_token_equals_one_pass(name, kind):
    torch.manual_seed(0)
    model = vm.attach(presets.build_host(name, size=2, vocab_size=64, length=16), kind).eval()
    ids = torch.randint(0, 64, (2, 10))
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        past, steps = None, []
        for t in range(ids.shape[1]):
            output = model(input_ids=ids[:, t : t + 1], past_key_values=past, use_cache=True)
            past = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


def test_experts_that_a_dense_preset_is_given_stand_in_every_layer_of_a_latent_host():
    model = vm.attach(presets.build_host("deepseek_v3", size=2, vocab_size=64, length=16), vm.MoE(experts=4, top_k=2))
    assert len([part for _, site, part in vm.memories(model).parts() if part.site == "feed_forward"]) == 2
