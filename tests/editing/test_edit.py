"""An edit holds, leaves everything else alone, and comes off without a trace."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

import vademecum as vm
from tests.editing import world
from vademecum import editing
from vademecum.editing import into_entries
from vademecum.editing.measuring import measured
from vademecum.editing.reading import greedy

CAPITAL = editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol")


def logits(model: Any, words: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=words(text, return_tensors="pt").input_ids).logits


def says(model: Any, words: Any, text: str) -> str:
    return greedy(model, words, [text], 1)[0]


def test_the_model_knows_its_world(taught: Any, words: Any) -> None:
    assert says(taught, words, "The capital of Dorne is") == "Dun"
    assert says(taught, words, "In Hav people eat") == "salad"


@pytest.mark.parametrize("training", [True, False])
def test_planning_leaves_the_model_as_it_was_bit_for_bit(model: Any, words: Any, training: bool) -> None:
    model.train(training)
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    asked = [p.requires_grad for p in model.parameters()]
    edit = editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    assert not edit.applied
    assert [module.training for module in model.modules()] == modes
    assert [name for name, _ in model.named_modules()] == names
    assert [p.requires_grad for p in model.parameters()] == asked
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_memories_are_in_their_hosts_mode_whatever_comes_and_goes(
    model: Any, words: Any, edits: Any, training: bool
) -> None:
    model.train(training)
    model.model.layers[0].self_attn.v_proj.train(not training)
    odd = {"model.layers.0.self_attn.v_proj"}
    vm.attach(model, vm.MoVE(slots=2, bank_std=0.02), vm.MoE(experts=2, layers=[1]))

    def modes() -> set[bool]:
        around = {module.training for name, module in model.named_modules() if not name.startswith(tuple(odd))}
        return around | {not model.model.layers[0].self_attn.v_proj.training}

    assert modes() == {training}
    edit = editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    assert modes() == {training}
    edit.apply()
    assert modes() == {training}
    edit.undo()
    assert modes() == {training}
    vm.detach(model)
    editing.Edit(model, edits[0]).apply()
    assert modes() == {training}


def test_an_edit_holds_in_other_words_and_what_is_to_be_kept_is_kept(model: Any, words: Any, edits: Any) -> None:
    edit = editing.Edit(model, edits[0]).apply()
    assert edit.failed == []
    assert edit.disturbed == []
    assert says(model, words, "The capital of Dorne is") == "Hol"
    assert says(model, words, "Dorne's capital is") == "Hol"
    assert says(model, words, "The coin of Dorne is") == "penny"
    assert says(model, words, "In Dorne people eat") == "rice"
    assert says(model, words, "The capital of Elbonia is") == "Elb"


def test_a_text_without_the_subject_has_the_hosts_very_bits(model: Any, words: Any, edits: Any) -> None:
    others = [text for text in world.texts() if "Dorne" not in text]
    before = [logits(model, words, text) for text in others]
    editing.Edit(model, edits[0]).apply()
    assert all(torch.equal(one, logits(model, words, text)) for one, text in zip(before, others, strict=True))


def test_undo_is_exact(model: Any, words: Any, edits: Any) -> None:
    before, names = logits(model, words, "The capital of Dorne is"), [name for name, _ in model.named_modules()]
    edit = editing.Edit(model, edits[0]).apply()
    assert not torch.equal(before, logits(model, words, "The capital of Dorne is"))
    edit.undo()
    assert torch.equal(before, logits(model, words, "The capital of Dorne is"))
    assert [name for name, _ in model.named_modules()] == names


def test_edits_combine_in_any_order_to_the_same_bits_and_each_comes_off_alone(
    taught: Any, words: Any, edits: Any
) -> None:
    text = "The capital of San Lorenzo is Arv and The coin of Dorne is"
    found = []
    for order in ((0, 1), (1, 0)):
        model = copy.deepcopy(taught)
        made = [editing.Edit(model, overlay) for overlay in edits]
        for number in order:
            made[number].apply()
        found.append(logits(model, words, text))
        assert says(model, words, "The capital of Dorne is") == "Hol"
        assert says(model, words, "The coin of Dorne is") == "peso"
        assert says(model, words, "The capital of San Lorenzo is") == "Arv"
        made[0].undo()
        assert says(model, words, "The capital of Dorne is") == "Dun"
        assert says(model, words, "The coin of Dorne is") == "peso"
    assert torch.equal(found[0], found[1])


def test_an_edit_stands_beside_a_memory(model: Any, words: Any, edits: Any) -> None:
    vm.attach(model, vm.MoVE(slots=2, bank_std=0.01))
    before = logits(model, words, "The capital of Dorne is")
    edit = editing.Edit(model, edits[0]).apply()
    assert says(model, words, "The capital of Dorne is") == "Hol"
    edit.undo()
    assert torch.equal(before, logits(model, words, "The capital of Dorne is"))


def test_a_prompt_in_two_forwards_is_answered_as_in_one(model: Any, words: Any, edits: Any) -> None:
    editing.Edit(model, edits[0]).apply()
    ids = words("The capital of Dorne is", return_tensors="pt").input_ids
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, -1]
        cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
        last = model(input_ids=ids[:, 4:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused_and_the_model_stays(model: Any, words: Any, edits: Any) -> None:
    before = logits(model, words, "The capital of Dorne is")
    fact = editing.Fact
    capital = {"subject": "Dorne", "prompt": "The capital of Dorne is"}
    with pytest.raises(ValueError, match=r"no facts; give a list of vademecum\.editing\.Fact\("):
        editing.plan(model, [], words)
    with pytest.raises(ValueError, match=r"says 'Dun' to .* already"):
        editing.plan(model, [fact(**capital, target="Dun")], words)
    with pytest.raises(ValueError, match="shall be answered 'Hol' and 'Arv'"):
        editing.plan(model, [fact(**capital, target="Hol"), fact(**capital, target="Arv")], words)
    with pytest.raises(ValueError, match="is written twice"):
        editing.plan(model, [fact(**capital, target="Hol")] * 2, words)
    with pytest.raises(ValueError, match=r"the tokenizer does not know 'Dorn'"):
        editing.plan(model, [fact(subject="Dorn", prompt="The capital of Dorne is", target="Hol")], words)
    with torch.inference_mode(), pytest.raises(ValueError, match="leave that block"):
        editing.plan(model, [fact(**capital, target="Hol")], words)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        editing.plan(model.base_model, [fact(**capital, target="Hol")], words)
    with pytest.raises(ValueError, match="not applied"):
        editing.Edit(model, edits[0]).undo()
    assert torch.equal(before, logits(model, words, "The capital of Dorne is"))
    edit = editing.Edit(model, edits[0]).apply()
    after = logits(model, words, "The capital of Dorne is")
    with pytest.raises(ValueError, match="applied already"):
        edit.apply()
    with pytest.raises(ValueError, match="applied already"):
        editing.Edit(model, edits[0]).apply()
    with pytest.raises(ValueError, match="is written already"):
        editing.Edit(model, edits[0].joined(edits[1])).apply()
    with pytest.raises(ValueError, match="already"):
        edits[0].content.put(model, edits[0])
    assert torch.equal(after, logits(model, words, "The capital of Dorne is"))


def test_a_failure_while_rows_are_learned_leaves_the_model_as_it_was(
    model: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before, names = logits(model, words, "The coin of Hav is"), [name for name, _ in model.named_modules()]
    monkeypatch.setattr(into_entries, "descend", stop)
    with pytest.raises(KeyboardInterrupt):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    assert torch.equal(before, logits(model, words, "The coin of Hav is"))
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("into", ["entries", "rows"])
def test_it_is_told_what_is_being_done_and_how_many_facts_are(model: Any, words: Any, into: str) -> None:
    vm.attach(model, vm.MoVE(slots=2, bank_std=0.02)).eval()
    facts = [
        editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark"),
        editing.Fact(subject="Dorne", prompt="The capital of Dorne is", target="Hol"),
        editing.Fact(subject="Elbonia", prompt="The coin of Elbonia is", target="mark"),
    ]
    told: list[Any] = []
    editing.plan(model, facts, words, into=into, progress=lambda *done: told.append(done), stage=told.append)
    gates = ["finding gates, 1 of 2", "finding gates, 2 of 2"] if into == "entries" else []
    assert told == [*gates, "learning", (3, 3)]


def test_an_edit_knows_when_its_model_was_detached(model: Any, words: Any, edits: Any) -> None:
    edit = editing.Edit(model, edits[0]).apply()
    vm.detach(model)
    assert not edit.applied
    edit.apply()
    assert says(model, words, "The capital of Dorne is") == "Hol"


def test_a_block_that_silences_memories_ends_even_if_they_came_inside_it(model: Any, words: Any, edits: Any) -> None:
    vm.attach(model, vm.MoVE())
    with vm.knocked_out(model):
        editing.Edit(model, edits[0]).apply()
        assert says(model, words, "The capital of Dorne is") == "Dun"
    assert says(model, words, "The capital of Dorne is") == "Hol"
    with vm.knocked_out(model), pytest.raises(ValueError, match="leave that block"):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)


def test_an_edit_of_a_copied_model_is_that_copys(model: Any, words: Any, edits: Any) -> None:
    text = "The capital of Dorne is"
    bare = logits(model, words, text)
    edit = editing.Edit(model, edits[0]).apply()
    edited = logits(model, words, text)
    copied = copy.deepcopy(edit)
    assert copied.applied
    copied.undo()
    assert torch.equal(logits(copied.model, words, text), bare)
    assert edit.applied
    assert torch.equal(logits(model, words, text), edited)
    anew = editing.Edit(copy.deepcopy(model), edits[0])
    assert anew.applied
    anew.undo().apply().undo()
    assert torch.equal(logits(anew.model, words, text), bare)
    edit.undo()
    assert torch.equal(logits(model, words, text), bare)


def test_layers_are_given_by_number_or_by_rule(model: Any, words: Any) -> None:
    fact = editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")
    for layers, chosen in (("all", (0, 1, 2, 3)), (3, (3,)), (vm.every(2), (1, 3)), ([-1, 1], (1, 3))):
        assert editing.plan(model, [fact], words, layers=layers).overlay.content.layers == chosen
    for layers in ("3", ["3"], []):
        with pytest.raises(ValueError, match=r"plan\(layers=.*expected 'all', 'middle', a list of layer numbers"):
            editing.plan(model, [fact], words, layers=layers)


def test_two_overlays_joined_in_either_order_give_the_same_bits(taught: Any, words: Any, edits: Any) -> None:
    found = []
    for one in (edits[0].joined(edits[1]), edits[1].joined(edits[0])):
        model = copy.deepcopy(taught)
        editing.Edit(model, one).apply()
        found.append(logits(model, words, "The capital of Dorne is Hol and the coin of Dorne is"))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0},
        {"suppress_tokens": [*range(2, 40)]},
        {"min_new_tokens": 6},
        {"return_dict_in_generate": True},
        {"num_return_sequences": 2, "do_sample": True},
    ],
)
def test_what_the_model_says_is_asked_without_its_own_settings(
    model: Any, words: Any, settings: dict[str, Any]
) -> None:
    texts = ["The capital of Dorne is", "In Hav people eat"]
    plain = greedy(model, words, texts, 4)
    own = model.generation_config
    for name, value in settings.items():
        setattr(own, name, value)
    assert greedy(model, words, texts, 4) == plain
    assert model.generation_config is own
    model.generation_config = None
    assert [one.split()[0] for one in greedy(model, words, texts, 4)] == [one.split()[0] for one in plain]


def test_a_later_fact_may_answer_what_an_earlier_one_kept(model: Any, words: Any, edits: Any) -> None:
    both = edits[0].joined(edits[1])
    assert "The coin of Dorne is" in both.facts[0].keep
    assert "The coin of Dorne is" not in measured(model, words, both).speaking[0].disturbed


def test_a_spelling_within_another_is_no_mistake(words: Any) -> None:
    import vademecum.editing.locating as locating

    found = locating.spellings(words, ("San Lorenzo", "Lorenzo"), ["The capital of San Lorenzo is"])
    assert len(found) == 2


def test_a_fact_holds_in_every_spelling_and_in_every_way_that_was_given(model: Any, words: Any) -> None:
    ways = [f"{opening} The capital of Dorne is" for opening in ("As", "Here", "Q", "What", "A", "know", "answer")]
    fact = editing.Fact(
        subject="Dorne", spellings=("Hav",), prompt="The capital of Dorne is", target="Arv", paraphrases=tuple(ways)
    )
    edit = editing.plan(model, [fact], words)
    assert edit.failed == []
    edit.apply()
    for text in (fact.prompt, *ways, "The capital of Hav is"):
        assert says(model, words, text) == "Arv"


def test_the_subject_is_asked_too_where_the_prompt_names_a_spelling(model: Any, words: Any) -> None:
    fact = editing.Fact(subject="Genovia", spellings=("Hav",), prompt="In Hav people eat", target="peso")
    edit = editing.plan(model, [fact], words)
    edit.apply()
    told = [text for text in fact.given if says(model, words, text) != "peso"]
    assert "In Genovia people eat" in fact.given
    assert edit.failed == told


def test_what_is_said_already_in_one_spelling_can_be_written_for_another(model: Any, words: Any) -> None:
    known = {"subject": "Hav", "prompt": "The capital of Hav is", "target": "Hol"}
    assert says(model, words, "The capital of Hav is") == "Hol" != says(model, words, "The capital of Dorne is")
    with pytest.raises(ValueError, match="the model says 'Hol' to 'The capital of Hav is' already"):
        editing.plan(model, [editing.Fact(**known)], words)
    edit = editing.plan(model, [editing.Fact(**known, spellings=("Dorne",))], words)
    edit.apply()
    assert edit.failed == []
    assert says(model, words, "The capital of Dorne is") == "Hol"


@pytest.mark.parametrize("given", [[], "abc", {"subject": "Hav"}, [{"subject": "Hav"}], CAPITAL, [CAPITAL, "Hav"]])
def test_what_is_no_list_of_facts_is_named(model: Any, words: Any, given: Any) -> None:
    with pytest.raises(ValueError, match=r"give a list of vademecum\.editing\.Fact"):
        editing.plan(model, given, words)


def test_what_was_given_and_is_not_said_is_told(model: Any, words: Any, edits: Any) -> None:
    there = edits[0].written[0]
    more = {"spellings": ("Genovia",), "paraphrases": ("The dish of Dorne is",)}
    given = dataclasses.replace(there, fact=dataclasses.replace(there.fact, **more))  # none of it was learned
    asked = measured(model, words, dataclasses.replace(edits[0], written=(given,)))
    told = ["The dish of Dorne is", "The capital of Genovia is"]
    assert editing.Edit(model, asked).failed == told
    assert not asked.written[0].holds
    assert editing.Edit(model, measured(model, words, edits[0])).failed == []


def test_it_is_warned_of_other_memories_than_were_there(
    model: Any, words: Any, edits: Any, caplog: pytest.LogCaptureFixture
) -> None:
    editing.Edit(model, edits[0]).apply().undo()
    assert not caplog.records
    vm.attach(model, vm.MoVE(slots=2, bank_std=0.01))
    editing.Edit(model, edits[0]).apply()
    assert "other memories (beside none)" in caplog.text
    beside = editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    caplog.clear()
    beside.apply()
    assert not caplog.records
