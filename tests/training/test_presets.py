import pytest
import torch

import vademecum as vm
from vademecum.training import presets


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
