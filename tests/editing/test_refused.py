"""What cannot be planned or applied is refused before anything is changed, and says what to do instead."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import transformers as tf

import vademecum as vm
from tests import tiny
from vademecum import editing
from vademecum.editing import planning
from vademecum.editing.reading import greedy


@pytest.mark.parametrize("where", ["model.embed_tokens", "model.layers.3.mlp.down_proj", "lm_head"])
def test_a_model_that_says_no_numbers_is_refused(model: Any, words: Any, where: str) -> None:
    model.get_submodule(where).weight.data[words.convert_tokens_to_ids("Hav") % 60] = float("nan")
    with pytest.raises(ValueError, match=r"'The coin of Hav is' are not numbers \(NaN\).*not finite"):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    assert not hasattr(model, "vademecum")


def test_a_target_that_the_tokenizer_does_not_know_is_refused(model: Any, words: Any) -> None:
    with pytest.raises(ValueError, match="does not know the target 'Lyon'"):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="Lyon")], words)
    assert not hasattr(model, "vademecum")


@pytest.mark.parametrize("texts", [[], "a string", [1]])
def test_texts_to_measure_damage_on_are_some_or_none(model: Any, words: Any, texts: Any) -> None:
    fact = editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")
    with pytest.raises(ValueError, match=r"plan\(texts=.*expected a list of one or more texts"):
        editing.plan(model, [fact], words, texts=texts)


def test_a_cache_that_the_edit_did_not_see_filled_is_refused_in_plain_words(model: Any, words: Any, edits: Any) -> None:
    ids = words("The capital of Dorne is", return_tensors="pt").input_ids
    cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    editing.Edit(model, edits[0]).apply()
    with pytest.raises(RuntimeError, match="this memory, which looks back to the beginning of the text, saw no ids"):
        model(input_ids=ids[:, 4:], past_key_values=cache)


def test_a_compiled_model_is_refused(model: Any, words: Any, edits: Any) -> None:
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match=r"compile afterwards"):
        editing.plan(compiled, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    with pytest.raises(ValueError, match=r"compile afterwards"):
        editing.Edit(compiled, edits[0]).apply()
    assert not hasattr(model, "vademecum")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_an_edit_is_not_applied_where_nothing_could_be_trained_afterwards(model: Any, words: Any, edits: Any) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"apply was called within torch.inference_mode"):
        editing.Edit(model, edits[0]).apply()
    assert not hasattr(model, "vademecum")
    with torch.no_grad():
        editing.Edit(model, edits[0]).apply()
    ids = words("The capital of Dorne is Hol", return_tensors="pt").input_ids
    model(input_ids=ids, labels=ids).loss.backward()


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("into", ["entries", "rows"])
def test_a_text_that_is_longer_than_the_hosts_places_is_refused(model: Any, words: Any, into: str) -> None:
    numbers = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    few = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=len(words), n_positions=40, **numbers)).eval()
    vm.attach(few, vm.MoVE(slots=2, bank_std=0.02))
    short, long = " ".join(["In Hav people eat"] * 9), " ".join(["In Hav people eat"] * 12)
    fact = editing.Fact(subject="Hav", prompt="The capital of Hav is", target="Arv")
    before = hooks(few)
    for one, texts in (
        (dataclasses.replace(fact, prompt=long), None),
        (dataclasses.replace(fact, prompt=short), None),  # too long with what is made of it
        (dataclasses.replace(fact, keep=(long,)), None),
        *([(fact, [long])] if into == "rows" else []),
    ):
        with pytest.raises(ValueError, match=r"a text of \d+ tokens is to be read .* has places for 40"):
            editing.plan(few, [one], words, into=into, texts=texts)
        assert hooks(few) == before
    with pytest.raises(ValueError, match="has places for 40"):
        greedy(few, words, [short], 6)
    assert greedy(few, words, [short], 5)
    # A host that turns by places reads on beyond those it was trained on.
    assert greedy(model, words, [" ".join([long] * 2)], 1)


def test_a_subject_longer_than_any_name_is_refused_at_once(model: Any, words: Any) -> None:
    long = " ".join(["Hav"] * 65)
    fact = editing.Fact(subject=long, prompt=f"The coin of {long} is", target="mark")
    spelled = editing.Fact(subject="Hav", spellings=(long,), prompt="The coin of Hav is", target="mark")
    for one in (fact, spelled):
        with pytest.raises(ValueError, match=r"is 6\d tokens long, and an entry stands under 64 at most"):
            editing.plan(model, [one], words)


def test_one_error_names_five_facts_and_counts_the_others() -> None:
    facts = [editing.Fact(subject=name, prompt=f"The coin of {name} is", target="mark") for name in "ABCDEFG"]
    with pytest.raises(ValueError, match=r"says 'mark' .*of E is', and 1 of the other 2 facts already; leave") as told:
        planning._require_news(None, None, facts, ["mark"] * 6 + ["peso"])
    assert "of F is" not in str(told.value)
    with pytest.raises(ValueError, match=r"of E is' already; leave"):
        planning._require_news(None, None, facts, ["mark"] * 5 + ["peso"] * 2)


def test_an_edit_of_another_host_leaves_the_model_bare(taught: Any, edits: Any) -> None:
    alike = copy.deepcopy(taught)
    with torch.no_grad():
        alike.get_input_embeddings().weight.mul_(1.5)
    for other, why in ((tiny.host("qwen3"), "hidden"), (alike, "other weights of the same shape")):
        with pytest.raises(ValueError, match=f"this edit was made for another model: .*{why}"):
            editing.Edit(other, edits[0]).apply()
        assert not hasattr(other, "vademecum")
