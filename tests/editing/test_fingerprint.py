"""A host is known again, whatever lies on it."""

from __future__ import annotations

import pytest
import transformers as tf

import vademecum as vm
from tests import tiny
from vademecum.editing import fingerprint


@pytest.mark.parametrize("name", [*tiny.HOSTS])
def test_a_host_with_a_memory_is_the_host_without(name: str) -> None:
    model = tiny.host(name)
    bare = fingerprint.of_host(model)
    vm.attach(model, vm.MoVE(slots=2))
    tiny.shake(model)
    assert fingerprint.of_host(model) == bare
    vm.detach(model)
    assert fingerprint.of_host(model) == bare
    assert fingerprint.of_host(tiny.host(name, seed=1)) != bare


@pytest.mark.parametrize("tied", [True, False])
def test_so_are_tied_embeddings(tied: bool) -> None:
    numbers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=40, tie_word_embeddings=tied, **numbers))
    bare = fingerprint.of_host(model)
    vm.attach(model, vm.MoVE(slots=2))
    assert fingerprint.of_host(model) == bare
