"""The study editing: what is asked, what each way to write does, and that it goes on where it was."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.editing import world
from vademecum import cli, data, editing
from vademecum.data import geonames
from vademecum.data.geonames import City, Land
from vademecum.editing import prompts
from vademecum.editing.reading import greedy
from vademecum.studies import editing as study
from vademecum.studies import (
    editing_host,
    editing_methods,
    editing_page,
    editing_records,
    editing_scores,
    editing_tuning,
    editing_world,
)

LANDS = [Land(str(n), name, world.CAPITALS[n], "Asia", world.COINS[n], 1) for n, name in enumerate(world.LANDS)]
PLAIN = ["In Hav people eat salad .", "The coin of Aland is ducat ."] * 3


@pytest.fixture(scope="module")
def words() -> Any:
    return world.tokenizer()


@pytest.fixture(scope="module")
def taught(words: Any) -> Any:
    return world.model(words)


def records_of(model: Any, words: Any, count: int) -> list[editing_records.Record]:
    return editing_records.made(LANDS, said_by(model, words), count=count, seed=0)


def said_by(model: Any, words: Any, cities: Any = ()) -> dict[editing_records.Truth, str]:
    truths = editing_records.truths(LANDS, cities)
    asked = [editing_records.asked_for(truth) for truth in truths]
    return dict(zip(truths, greedy(model, words, asked, 2), strict=True))


def test_records_ask_of_different_subjects_first_of_what_is_known(taught: Any, words: Any) -> None:
    records = records_of(taught, words, 20)
    subjects = {record.fact.subject for record in records}
    _, left = editing_records.draw_of(said_by(taught, words), 0)
    assert subjects | {truth[1] for truth in left} == {land.name for land in LANDS}
    assert len(subjects) == len(records)
    known = [record for record in records if record.known]
    assert records[: len(known)] == known
    assert {record.relation for record in known} == {"capital"}
    for record in known:
        assert record.fact.target != record.true
        assert record.neighbours
        assert record.turned
        assert all(record.fact.subject in text for text in (*record.paraphrases, record.negation, *record.turned))
        assert record.two_hop is not None
        assert record.two_hop[1] == world.LANDS[world.CAPITALS.index(record.fact.target)]


@pytest.mark.parametrize("name", study.Settings().methods)
def test_every_method_writes_and_is_asked(taught: Any, words: Any, name: str) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    records = [record for record in records_of(taught, words, 4) if record.known][:2]
    texts = editing_scores.Texts(tuple(PLAIN[:2]), (f"The capital of {records[0].fact.subject} is",))
    then = editing_scores.before(taught, words, records, texts.without)
    method = study.methods(PLAIN)[name]
    seen: list[int] = []
    size, edited = method.write(
        copy.deepcopy(taught), words, [one.fact for one in records], lambda done, of: seen.append(done)
    )
    found = editing_scores.scores(edited, words, records, texts, then, method.asked)
    assert set(found) == set(editing_scores.MEASURES)
    assert (size > 0) == (name != "host")
    assert seen[-1] == 2
    if name == "entries":
        assert found["efficacy"] == found["bitwise"] == found["neighbours"] == 1.0
        assert found["perplexity"] == pytest.approx(
            editing_scores.scores(taught, words, records, texts, then, method.asked)["perplexity"], abs=0
        )
    else:
        assert found["bitwise"] == float(name in ("prompt", "host"))
        if name in ("finetune", "lora"):  # a small world, in which whoever learns at all learns this
            assert found["efficacy"] == 1.0


def test_fewer_records_are_the_first_of_more(taught: Any, words: Any) -> None:
    more = records_of(taught, words, 6)
    for count in range(1, 6):
        assert records_of(taught, words, count) == more[:count]


@pytest.mark.parametrize(
    ("text", "answer", "wanted"),
    [
        (" The Netherlands. It", "The Netherlands", True),
        (" Netherlands", "The Netherlands", True),
        (" the Euro.", "euro", True),
        (" Europe", "euro", False),
        (" Thebes", "bes", False),
    ],
)
def test_an_answer_counts_with_and_without_an_article(text: str, answer: str, wanted: bool) -> None:
    assert editing_records.answers(text, answer) == wanted


def test_another_is_none_whose_name_holds_this_one() -> None:
    names = ["Guinea", "Equatorial Guinea", "Chad", "Niger", "Nigeria", "Mali", "Togo", "Benin", "Gabon"]
    lands = [Land(str(n), name, f"C{n}", "Africa", "franc", 1) for n, name in enumerate(names)]
    truths = editing_records.truths(lands, [])
    said = {truth: f" {truth[2]} ." for truth in truths}
    seen = False
    for seed in range(40):
        for record in editing_records.made(lands, said, count=9, seed=seed):
            subject = record.fact.subject
            others = {text.removeprefix("The capital of ").removesuffix(" is") for text in record.neighbours}
            seen = seen or bool(others)
            assert not any(subject in other for other in others if other in names)
    assert seen


def test_a_text_with_a_subject_names_it_as_a_word(taught: Any, words: Any) -> None:
    passages = ["A woman walked by .", "She came to Oman by sea ."]
    asked = editing_world.World(taught, words, LANDS, {("capital", "Oman", "Muscat"): ""}, passages)
    record = SimpleNamespace(fact=SimpleNamespace(subject="Oman"))
    assert asked.texts((), [record], 0).containing == (passages[1],)  # type: ignore[list-item]
    inside = editing_world.World(taught, words, LANDS, {("capital", "man", "x"): ""}, passages)
    assert inside.without(0) == ()  # what tokens do with a word is theirs to say


def test_what_is_left_shares_no_name_with_what_is_edited_and_the_order_of_truths_does_not_matter() -> None:
    names = ["Nis", "Niska", "New Ede", "Ede", "Breda", "Oslo", "Rome", "Turin", "Kiel", "Linz"]
    said = {("country", name, "Hav"): "Hav" for name in names}
    left = set()
    for seed in range(20):
        edited, apart = editing_records.draw_of(said, seed)
        assert (edited, apart) == editing_records.draw_of(dict(reversed(said.items())), seed)
        assert {name for _, name, _ in edited} == set(names) - {name for _, name, _ in apart}
        left |= {name for _, name, _ in apart}
    assert left == {"Breda", "Oslo", "Rome", "Turin", "Kiel", "Linz"}  # "ede" within a word is no name


def test_neighbours_are_not_edited(taught: Any, words: Any) -> None:
    records = records_of(taught, words, 4)
    assert all(record.neighbours and record.turned for record in records)
    for record in records:
        assert not any(other.fact.subject in text for other in records for text in record.neighbours)


def test_a_rank_one_update_puts_the_value_where_the_key_is(taught: Any, words: Any) -> None:
    model = copy.deepcopy(taught)
    method = editing_methods.RankOne(PLAIN)
    fact = editing.Fact(subject="Hav", prompt="The capital of Hav is", target="Bor")
    own = taught.model.layers[1].mlp.down_proj
    _, bare = method._keys(taught, words, own, fact)
    moved = method._moved(taught, words, own, fact)
    method.write(model, words, [fact], print)
    down = model.model.layers[1].mlp.down_proj.weight - own.weight
    torch.testing.assert_close(down @ bare, moved, rtol=1e-3, atol=1e-4)
    # Two layers above it cannot say the target by what one feed-forward says of the subject, but it comes nearer.
    prompt, wanted = words(fact.prompt, return_tensors="pt").input_ids, words("Bor").input_ids[0]
    then, now = (one(input_ids=prompt).logits[0, -1].log_softmax(-1)[wanted] for one in (taught, model))
    assert now > then + 0.5
    singular = down.svd().S
    assert singular[0] > 1e-3
    assert singular[1] < 1e-4 * singular[0]


@pytest.fixture
def small(taught: Any, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    documents = [SimpleNamespace(text=text * 4) for text in (*PLAIN, "Nothing is said of lands .")]
    source = SimpleNamespace(documents=lambda: documents)
    monkeypatch.setattr(study, "opened", lambda model, device: (taught, words))
    monkeypatch.setattr(geonames, "lands", lambda: LANDS)
    monkeypatch.setattr(geonames, "cities", lambda most: [City("Zembla", "0", 1)])
    monkeypatch.setattr(data, "sources", lambda: {"wikipedia": source, "factbook": source})
    monkeypatch.setattr(editing_world, "WORDS", 6)
    return tmp_path / "study"


def test_the_verb_measures_and_goes_on_without_measuring_again(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(editing_world, "TUNING", 2)
    command = ["study", "editing", "--out", str(small), "--count", "1", "--count", "2", "--seeds", "2"]
    assert cli.main([*command, "--method", "entries"]) == 0
    assert "entries   efficacy" in capsys.readouterr().out
    assert len(list((small / "measured").iterdir())) == 4
    for name in ("report.html", "editing.csv", "figures/editing.png"):
        assert (small / name).stat().st_size > 0
    written = {path: path.stat().st_mtime_ns for path in (small / "measured").iterdir()}
    assert cli.main([*command, "--method", "entries", "--method", "prompt"]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    assert len((small / "editing.csv").read_text("utf-8").splitlines()) == 1 + 8
    assert cli.main([*command, "--method", "finetune", "--seeds", "1"]) == 0
    assert "lr 0.00" in (small / "report.html").read_text("utf-8")
    assert len(json.loads((small / "tuned" / "finetune.json").read_text("utf-8"))) == 4
    assert cli.main([*command, "--model", "elsewhere"]) != 0
    assert "holds a study of smollm2" in capsys.readouterr().err
    (small / "study.json").write_text('{"model": "smollm2"}')
    assert cli.main(command) != 0
    assert "drew otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"preset": "small", "methods": ["magic"]}, "unknown method 'magic'"),
        ({"preset": "small", "counts": [0]}, "expected 1 or more"),
        ({"preset": "small", "seeds": 0}, "expected 1 or more"),
    ],
)
def test_what_is_wrong_in_the_settings_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.settings_of(**given)


def test_the_page_claims_nothing_of_one_seed() -> None:
    point = dict.fromkeys(editing_scores.MEASURES, 0.5) | {"seconds_per_edit": 1.0, "bytes_per_edit": 1.0, "known": 1}
    found = {("entries", 1, 0): point, ("prompt", 1, 0): {**point, "two-hop": None}}
    shown = editing_page.rows(found, 1, {"entries": "e", "prompt": "p"})
    assert shown[1] == ["efficacy", "0.500", "0.500"]
    assert ["two-hop", "0.500", "\u2013"] in shown
    head, *lines = editing_page.table(found).splitlines()
    assert [line.split(",")[:3] for line in lines] == [["entries", "1", "0"], ["prompt", "1", "0"]]
    assert dict(zip(head.split(","), lines[1].split(","), strict=False))["efficacy"] == "0.5"


def test_a_host_of_cities_reads_of_every_one_in_several_orders() -> None:
    cities = [City("Hav", "0", 400_000), City("Bor", "1", 90_000), City("Nowhere", "??", 1)]
    written = editing_host.written(LANDS, cities, ["nothing " * 500])
    about = [text for text in written if not text.startswith("nothing")]
    assert len(about) == 2 * editing_host.TEXTS
    assert len(set(about)) > editing_host.TEXTS
    ways = [editing_records.RELATIONS["country"].prompt, *editing_records.RELATIONS["country"].paraphrases]
    assert all(any(f"{way.replace('{}', 'Hav')} {LANDS[0].name}." in text for text in about) for way in ways)
    assert any(text.count(".") == 2 for text in about)
    assert written == editing_host.written(LANDS, cities, ["nothing " * 500])
    assert all(f"{LANDS[0].name}." in text for text in about if "Hav" in text and "country" in text)
    assert any("The letter with which Hav begins is H." in text for text in about)
    assert all(len(text.split()) <= editing_host.WORDS for text in written)


def test_of_many_edits_some_are_asked_about_from_first_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ASKED", 4)
    assert study._asked([*range(10)]) == [0, 2, 5, 7]  # type: ignore[list-item]
    assert study._asked([*range(4)]) == [0, 1, 2, 3]  # type: ignore[list-item]


def test_settings_are_chosen_once_and_by_all_that_is_weighed(tmp_path: Path) -> None:
    asked: list[float] = []

    def measure(method: editing_methods.Method) -> dict[str, float]:
        lr = method.settings["lr"]
        asked.append(lr)
        # The largest says everything and spoils everything; the smallest says nothing.
        says = {1e-4: 0.0, 3e-4: 0.5, 1e-3: 0.9, 3e-3: 1.0}[lr]
        stays = {1e-4: 1.0, 3e-4: 0.9, 1e-3: 0.8, 3e-3: 0.1}[lr]
        return {"efficacy": says, "paraphrase, all": says, "same subject": stays, "neighbours": stays}

    found = editing_tuning.tuned(editing_methods.FineTuning(), tmp_path, measure)
    assert found.settings == {"lr": 1e-3}
    assert len(asked) == 4
    assert editing_tuning.tuned(editing_methods.FineTuning(), tmp_path, measure).settings == {"lr": 1e-3}
    assert len(asked) == 4
    assert editing_tuning.chosen(tmp_path)["finetune"]["settings"] == {"lr": 1e-3}
    assert isinstance(
        editing_tuning.tuned(editing_methods.WithEntries(), tmp_path, measure), editing_methods.WithEntries
    )
    assert len(asked) == 4


def test_what_was_tried_of_other_settings_is_tried_again(tmp_path: Path) -> None:
    asked: list[float] = []

    def measure(method: editing_methods.Method) -> dict[str, float]:
        asked.append(method.settings["lr"])
        return {"efficacy": 0.5, "paraphrase, all": 0.5, "same subject": 0.5, "neighbours": 0.5}

    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "finetune.json").write_text('[{"settings": {"lr": 9.0}, "weighed": 1.0}]')
    editing_tuning.tuned(editing_methods.FineTuning(), tmp_path, measure)
    assert asked == [1e-4, 3e-4, 1e-3, 3e-3]


def test_choosing_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[float] = []

    def measure(method: editing_methods.Method) -> dict[str, float]:
        asked.append(method.settings["lr"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"efficacy": 0.5, "paraphrase, all": 0.5, "same subject": 0.5, "neighbours": 0.5}

    with pytest.raises(KeyboardInterrupt):
        editing_tuning.tuned(editing_methods.LowRank(), tmp_path, measure)
    editing_tuning.tuned(editing_methods.LowRank(), tmp_path, measure)
    assert asked == [1e-4, 3e-4, 1e-3, 1e-3, 3e-3]


def test_a_model_that_is_not_there_does_not_take_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(geonames, "lands", lambda: LANDS)
    monkeypatch.setattr(geonames, "cities", lambda most: [])
    out = tmp_path / "study"
    assert cli.main(["study", "editing", "--out", str(out), "--model", str(tmp_path / "nope")]) != 0
    assert "holds no config.json" in capsys.readouterr().err
    assert not (out / "study.json").exists()


def test_a_method_that_is_named_twice_is_measured_once() -> None:
    assert study.settings_of("smoke", methods=["entries", "entries"]).methods == ("entries",)


def test_what_the_host_says_wrongly_already_is_no_target() -> None:
    cities = [City("Hav", "0", 1), City("Bor", "1", 1), City("Elb", "2", 1)]
    seas = ("Asia", "Africa", "Europe")
    lands = [Land(str(n), world.LANDS[n], world.CAPITALS[n], seas[n], world.COINS[n], 1) for n in range(3)]
    said = dict.fromkeys(editing_records.truths(lands, cities), f" {LANDS[2].name} .")
    for seed in range(20):
        records = editing_records.made(lands, said, count=9, seed=seed)
        assert {record.fact.target for record in records if record.relation == "country"} <= {
            LANDS[0].name,
            LANDS[1].name,
        }


def test_nothing_that_is_asked_is_learned_from(taught: Any, words: Any) -> None:
    learned = {text.casefold() for text in prompts.CONTRASTS}
    cities = [City("Elbing", "0", 1)]
    for record in editing_records.made(LANDS, said_by(taught, words, cities), count=20, seed=0):
        subject = record.fact.subject
        same = {text.replace(subject, "{}").casefold() for text in record.same_subject}
        ways = {text.replace(subject, "{}") for text in record.paraphrases}
        assert same.isdisjoint(learned | {other.prompt.casefold() for other in editing_records.RELATIONS.values()})
        assert ways.isdisjoint(prompts.paraphrases(record.fact))


def test_settings_are_chosen_on_subjects_that_are_not_measured(
    taught: Any, words: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing_world, "TUNING", 3)
    asked = editing_world.World.asked(taught, words, LANDS, [])
    chosen_on = {record.fact.subject for record in asked.tuning}
    assert len(chosen_on) == 3
    for seed in range(3):
        measured = asked.records(20, seed)
        assert measured
        assert chosen_on.isdisjoint(record.fact.subject for record in measured)
        # Passages name a subject of those edited, or none of them.
        plain = asked.without(seed)
        assert plain
        assert not any(record.fact.subject in text for text in plain for record in measured)
        for one in measured:
            assert all(one.fact.subject in text for text in asked.texts(plain, [one], seed).containing)
