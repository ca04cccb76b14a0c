"""What cannot be planned or applied is refused before anything is changed, and says what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vademecum import editing


@pytest.mark.parametrize("where", ["model.embed_tokens", "model.layers.3.mlp.down_proj", "lm_head"])
def test_a_model_that_says_no_numbers_is_refused(model: Any, words: Any, where: str) -> None:
    model.get_submodule(where).weight.data[words.convert_tokens_to_ids("Hav") % 60] = float("nan")
    with pytest.raises(ValueError, match=r"'The coin of Hav is' are not numbers \(NaN\).*not finite"):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
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
