"""A host is known again, whatever lies on it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import vademecum as vm
from tests import tiny
from vademecum import editing
from vademecum.editing import fingerprint, overlay


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


LETTERS = {letter: number for number, letter in enumerate(["a", "b", "c", " ", "ab", "bc", "<end>"])}
MERGES = [("a", "b"), ("b", "c")]


def cutting(merges: list[tuple[str, str]] = MERGES, **parts: Any) -> Any:
    """A small tokenizer, one of few words and with ``parts`` of the library's ``Tokenizer``."""
    made = Tokenizer(models.BPE(LETTERS, merges))
    for name, part in parts.items():
        setattr(made, name, part)
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


@pytest.mark.parametrize(
    "other",
    [
        cutting(MERGES[::-1]),
        cutting(normalizer=normalizers.Lowercase()),
        cutting(pre_tokenizer=pre_tokenizers.Whitespace()),
        cutting(post_processor=processors.TemplateProcessing(single="a $A", special_tokens=[("a", 0)])),
    ],
    ids=["merges", "normalizer", "pre-tokenizer", "special tokens"],
)
def test_a_tokenizer_of_the_same_words_that_cuts_otherwise_is_another(other: Any) -> None:
    assert other.get_vocab() == cutting().get_vocab()
    assert any(other(text).input_ids != cutting()(text).input_ids for text in ("abc", "ABC", "a bc"))
    model = tiny.host("qwen3")
    made_for, found = fingerprint.of(model, cutting()), fingerprint.of(model, other)
    with pytest.raises(ValueError, match=r"the file was made for another model: a tokenizer with the same vocabulary"):
        fingerprint.require_same(made_for, found, "the file")


def test_how_a_tokenizer_pads_and_truncates_and_a_way_to_disk_and_back_change_nothing(tmp_path: Path) -> None:
    words = cutting(pre_tokenizer=pre_tokenizers.Whitespace())
    before = fingerprint.of_cuts(words)
    words.pad_token, words.padding_side = words.eos_token, "left"
    words(["a b", "abc"], padding=True, truncation=True, max_length=2)
    assert words.backend_tokenizer.padding is not None
    assert words.backend_tokenizer.truncation is not None
    assert fingerprint.of_cuts(words) == before
    words.save_pretrained(tmp_path)
    assert fingerprint.of_cuts(tf.AutoTokenizer.from_pretrained(tmp_path)) == before


def test_overlays_that_say_nothing_of_how_texts_are_cut_are_read_and_say_it_once_they_are_added_to(
    model: Any, words: Any, edits: Any, tmp_path: Path
) -> None:
    of_before, new = (dataclasses.replace(one, made_for=dict(one.made_for)) for one in edits)
    del of_before.made_for["cuts"]
    overlay.write(of_before, tmp_path / "facts.safetensors")
    found = editing.open_edit(tmp_path / "facts.safetensors", model, words).overlay
    assert "cuts" not in found.made_for
    assert found.joined(new).made_for == new.made_for
    assert new.joined(found).made_for == new.made_for
    other = dataclasses.replace(new, made_for={**new.made_for, "cuts": "0" * 16})
    with pytest.raises(ValueError, match="for another model do not go into one"):
        edits[0].joined(other)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_memories_of_a_models_own_are_told_apart_and_edits_are_none(name: str) -> None:
    model = tiny.host(name)
    assert fingerprint.of_memories(model) == fingerprint.NO_MEMORY
    vm.attach(model, vm.MoVE(slots=2))
    tiny.shake(model)
    one = fingerprint.of_memories(model)
    assert one != fingerprint.NO_MEMORY
    assert fingerprint.of_memories(copy.deepcopy(model)) == one
    tiny.shake(model, seed=7)
    assert fingerprint.of_memories(model) != one
