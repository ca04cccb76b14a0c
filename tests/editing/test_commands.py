"""The verbs of ``vademecum edit`` on a model's folder and an overlay file."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from vademecum import editing, files
from vademecum.cli import main
from vademecum.editing import commands, overlay
from vademecum.editing.telling import said_in


@pytest.fixture(scope="module")
def folder(taught: Any, words: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    taught.save_pretrained(place)
    words.save_pretrained(place)
    return place


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["edit", *map(str, words)]) == 0
    return capsys.readouterr().out


DORNE = ("--subject", "Dorne", "--prompt", "The capital of Dorne is", "--target")


def test_facts_are_written_changed_removed_and_brought_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    said = run(capsys, "add", folder, file, *DORNE, "Hol")
    assert "holds    The capital of Dorne is \u2192 Hol  (was 'Dun" in said
    assert "1 fact; 1 written in" in said
    lines = tmp_path / "more.jsonl"
    lines.write_text(json.dumps({"subject": "Hav", "prompt": "The coin of Hav is", "target": "mark"}) + "\n", "utf-8")
    assert "2 facts" in run(capsys, "add", folder, file, "--facts", lines)
    assert "\u2192 Arv" in run(capsys, "change", folder, file, *DORNE, "Arv")
    listed = run(capsys, "list", file)
    assert "\u2192 Arv" in listed
    assert "\u2192 Hol" not in listed
    assert "2 facts, 1 silent" in listed
    assert "removed  The coin of Hav" in run(capsys, "remove", file, "--subject", "hav")
    assert "taken back: remove" in run(capsys, "undo", file)
    assert "taken back: change" in run(capsys, "undo", file)
    exported = [json.loads(line) for line in run(capsys, "export", file).splitlines()]
    assert [fact["target"] for fact in exported] == ["Hol", "mark"]
    small = tmp_path / "small.safetensors"
    run(capsys, "export", file, "--overlay", "--out", small)
    assert small.stat().st_size < file.stat().st_size
    asked = run(capsys, "ask", folder, small, "--prompt", "Dorne's capital is", "--tokens", 1)
    assert asked.splitlines() == ["Dorne's capital is", "  without  'Dun'", "  with     'Hol'"]
    journal = run(capsys, "list", file, "--journal").splitlines()
    assert [line.split()[1] for line in journal] == ["add", "add", "change", "remove", "undo", "undo"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("add", "{folder}", "{file}", "--subject", "Dorne"), "--prompt, --target missing"),
        (("add", "{file}", "{file}", *DORNE, "Hol"), "holds no config.json"),
        (("add", "{folder}", "{file}", *DORNE, "Dun"), "already"),
        (("change", "{folder}", "{file}", *DORNE, "Hol"), "nothing to change"),
        (("list", "{file}"), "is no file"),
        (("remove", "{file}", "--subject", "Dorne"), "is no file"),
    ],
)
def test_an_error_says_what_to_write_and_leaves_no_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "facts.safetensors"
    assert main(["edit", *(word.format(folder=folder, file=file) for word in given)]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_fact_that_contradicts_the_overlay_is_refused_and_the_file_stays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    before = file.read_bytes()
    assert main(["edit", "add", str(folder), str(file), *DORNE, "Arv"]) != 0
    assert "vademecum edit change" in " ".join(capsys.readouterr().err.split())
    assert file.read_bytes() == before


def test_where_an_entry_asks_the_same_in_other_words_its_prompt_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    run(capsys, "add", folder, file, "--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")

    def refused(verb: tuple[object, ...], subject: str, prompt: str) -> str:
        target = ("--target", "Arv") if verb[0] == "change" else ()
        assert main(["edit", *map(str, verb), "--subject", subject, "--prompt", prompt, *target]) == 2
        return " ".join(capsys.readouterr().err.split())

    same = "'The capital of Dorne is' (of 'Dorne') asks the same: give that prompt and subject."
    for verb in (("change", folder, file), ("remove", file)):
        assert same in refused(verb, "Dorne", "dorne's capital is" if verb[0] == "remove" else "Dorne's capital is")
        # Where no words are known that would ask the same, the subject's own entries are named, not the first ones.
        assert "written of 'Hav' are 'The coin of Hav is'." in refused(verb, "Hav", "In Hav people pay with")
        both = "written are 'The capital of Dorne is', 'The coin of Hav is'."
        assert both in refused(verb, "Elbonia", "The coin of Elbonia is")


def test_an_entry_asked_for_by_a_spelling_and_a_change_in_another_order_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol", "--spelling", "Hav", "--spelling", "Elbonia")
    assert main(["edit", "remove", str(file), "--subject", "Hav"]) == 2
    assert "that is a spelling of 'Dorne': give that subject" in " ".join(capsys.readouterr().err.split())
    assert run(capsys, "list", file).startswith("holds")
    again = (*DORNE, "Hol", "--spelling", "Elbonia", "--spelling", "Hav")
    assert main(["edit", "change", str(folder), str(file), *again]) == 2
    assert "already, and it holds" in " ".join(capsys.readouterr().err.split())


def test_what_moves_a_terminal_is_spelled_out() -> None:
    fact = editing.Fact(subject="Hav", prompt="In Hav\nthey \x1b[31m eat", target="p\tie")
    assert said_in(fact) == "In Hav\\nthey \\x1b[31m eat \u2192 p\\tie"


def test_the_bar_says_what_is_being_done(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "add", str(folder), str(tmp_path / "facts.safetensors"), *DORNE, "Hol"]) == 0
    shown = capsys.readouterr().err
    assert "finding gates, 1 of 1:   0%" in shown
    assert shown.index("finding gates") < shown.index("learning:")


def test_what_another_wrote_meanwhile_is_not_lost(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, edits: Any
) -> None:
    from vademecum.editing import commands

    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    planned = commands._planned

    def meanwhile(*given: Any) -> Any:
        run(capsys, "remove", file, "--subject", "Dorne")
        return planned(*given)

    monkeypatch.setattr(commands, "_planned", meanwhile)
    coin = ("--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")
    assert main(["edit", "add", str(folder), str(file), *coin]) != 0
    assert "changed by another meanwhile" in " ".join(capsys.readouterr().err.split())
    assert run(capsys, "list", file).startswith("0 facts, 1 silent")


def test_an_overlay_is_not_written_over_by_its_own_export(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    assert main(["edit", "export", str(file), "--out", str(file)]) != 0
    assert "is the overlay itself" in capsys.readouterr().err
    run(capsys, "list", file)


def test_two_that_take_out_at_once_both_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, lines = tmp_path / "facts.safetensors", tmp_path / "facts.jsonl"
    facts = [("Dorne", "Hol"), ("Hav", "Arv"), ("Elbonia", "Bor"), ("Genovia", "Cas")]
    lines.write_text(
        "\n".join(json.dumps({"subject": s, "prompt": f"The capital of {s} is", "target": t}) for s, t in facts),
        "utf-8",
    )
    run(capsys, "add", folder, file, "--facts", lines)
    code = "import sys; from vademecum.cli import main; sys.exit(main(sys.argv[1:]))"
    going = [
        subprocess.Popen([sys.executable, "-c", code, "edit", "remove", str(file), "--subject", subject])
        for subject, _ in facts[:3]
    ]
    assert [one.wait(120) for one in going] == [0, 0, 0]
    assert "1 fact, 3 silent" in run(capsys, "list", file)
    assert len(overlay.read(file).journal) == 4


def test_what_came_while_it_was_asked_whether_to_write_is_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    made = commands._planned

    def meanwhile(*given: Any) -> Any:
        edit = made(*given)
        commands.remove(file, "Dorne", None, echo=lambda _: None)
        return edit

    monkeypatch.setattr(commands, "_planned", meanwhile)
    hav = ("--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")
    assert main(["edit", "add", str(folder), str(file), *hav]) == 2
    assert "changed by another meanwhile" in capsys.readouterr().err
    assert "0 facts, 1 silent" in run(capsys, "list", file)


def test_whether_a_fact_holds_is_brought_back_by_undo(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    real = commands.measured

    def spoilt(model: Any, tokenizer: Any, whole: overlay.Overlay) -> overlay.Overlay:
        found = real(model, tokenizer, whole)
        return found.said_now([dataclasses.replace(found.written[0], after="Arv ."), *found.written[1:]])

    monkeypatch.setattr(commands, "measured", spoilt)
    hav = ("--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")
    said = run(capsys, "add", folder, file, *hav)
    assert "FAILS    The capital of Dorne" in said
    assert "1 of 2 facts do not hold" in said
    assert "FAILS    The capital of Dorne" in run(capsys, "list", file)
    assert "asked before the last removal" not in run(capsys, "list", file)
    run(capsys, "undo", file)
    assert "holds    The capital of Dorne" in run(capsys, "list", file)


def test_prompts_that_nobody_gave_are_told_to_begin_as_before_or_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "facts.safetensors"
    said = run(capsys, "add", folder, file, *DORNE, "Hol")
    assert "; 3 others asked, as before)" in said
    assert "other prompts asked: 3 of 3 begin as before\n" in said
    # Those of the facts that are written are told; the list tells them of all.
    hav = ("--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")
    said = run(capsys, "add", folder, file, *hav)
    there = overlay.read(file)
    moved = there.written[1].moved
    not_as_before = f"; not {', '.join(map(repr, moved))}" if moved else ""
    assert f"other prompts asked: {3 - len(moved)} of 3 begin as before{not_as_before}\n" in said
    overlay.write(
        dataclasses.replace(there, written=tuple(dataclasses.replace(one, moved=one.asked) for one in there.written)),
        file,
    )
    listed = run(capsys, "list", file)
    names = ", ".join(map(repr, there.written[0].asked))
    assert f"; 3 others asked, moves {names})" in listed
    assert f"other prompts asked: 0 of 6 begin as before; not {names} and 3 more\n" in listed
    none = tuple(dataclasses.replace(one, asked=()) for one in there.written)
    overlay.write(dataclasses.replace(there, written=none), file)
    assert "other" not in run(capsys, "list", file)


def test_after_a_removal_the_list_says_when_it_was_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    hav = ("--subject", "Hav", "--prompt", "The coin of Hav is", "--target", "mark")
    run(capsys, "add", folder, file, *hav)
    run(capsys, "remove", file, "--subject", "Hav")
    assert "asked before the last removal" in run(capsys, "list", file)
    assert "asked before the last removal" in run(capsys, "export", file, "--overlay", "--out", tmp_path / "small")
    run(capsys, "undo", file)
    assert "asked before the last removal" not in run(capsys, "list", file)


def test_a_change_that_contradicts_what_stays_is_told_before_anything_is_learned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    run(capsys, "add", folder, file, "--subject", "Dorne", "--prompt", "The coin of Dorne is", "--target", "mark")
    monkeypatch.setattr(commands, "opened", lambda *_: pytest.fail("the model was read"))
    other = ("--paraphrase", "The capital of Dorne is")
    words = ("--subject", "Dorne", "--prompt", "The coin of Dorne is", "--target", "peso", *other)
    assert main(["edit", "change", str(folder), str(file), *words]) == 2
    assert "answered 'Hol' and 'peso'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [(EOFError(), 2, "nothing was written to"), (KeyboardInterrupt(), 130, "stopped; nothing was written")],
)
def test_where_nobody_answers_it_is_said_that_nothing_was_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: BaseException,
    code: int,
    said: str,
) -> None:
    file = tmp_path / "facts.safetensors"

    def ask(*_: Any, confirm: Any, **__: Any) -> None:
        if not confirm():
            raise ValueError(f"nothing was written to {file}.")

    def nobody(_: str) -> str:
        raise answer

    monkeypatch.setattr(commands, "add", ask)
    monkeypatch.setattr(f"{typer.confirm.__module__}.visible_prompt_func", nobody)
    assert main(["edit", "add", "model", str(file), *DORNE, "Hol"]) == code
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_an_overlay_waits_for_others_by_whatever_name_it_goes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    file, link = tmp_path / "here" / "facts.safetensors", tmp_path / "facts.safetensors"
    link.symlink_to(file)
    held: list[Path] = []
    real = files.held
    monkeypatch.setattr(files, "held", lambda place: held.append(place) or real(place))
    run(capsys, "add", folder, link, *DORNE, "Hol")
    run(capsys, "remove", link, "--subject", "Dorne")
    run(capsys, "undo", link)
    assert held == [file.parent.resolve()] * 3
    assert link.is_symlink()


def test_who_may_read_an_overlay_stays_as_it_was(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facts.safetensors"
    run(capsys, "add", folder, file, *DORNE, "Hol")
    file.chmod(0o600)
    run(capsys, "remove", file, "--subject", "Dorne")
    assert file.stat().st_mode & 0o777 == 0o600


def test_mistakes_that_are_told_before_anything_is_learned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, lines = tmp_path / "facts.safetensors", tmp_path / "facts.jsonl"
    fact = {"subject": "Dorne", "prompt": "The capital of Dorne is", "target": "Hol"}
    lines.write_text(json.dumps(fact) + "\n", "utf-8")
    for words, message in (
        (("add", folder, file, "--facts", lines, "--keep", "The coin of Dorne is"), "--keep belong to one fact"),
        (("add", folder, lines / "facts.safetensors", *DORNE, "Hol"), "is a file"),
        (("add", folder, file, *DORNE, "Hol", "--device", "meta"), "expected cpu"),
    ):
        assert main(["edit", *map(str, words)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    run(capsys, "add", folder, file, "--facts", lines)
    for words, message in (
        (("export", file, "--out", lines), "is there already"),
        (("change", folder, file, *DORNE, "Hol"), "already, and it holds"),
        (("ask", folder, file, "--prompt", " "), "is empty"),
    ):
        assert main(["edit", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    run(capsys, "remove", file, "--subject", "Dorne")
    for words in (("export", file), ("remove", file, "--subject", "Dorne")):
        assert main(["edit", *map(str, words)]) == 2
        assert "nothing" in capsys.readouterr().err
    lines.write_text('{"subject": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "utf-8")
    assert main(["edit", "add", str(folder), str(file), "--facts", str(lines)]) == 2
    assert "line 1" in capsys.readouterr().err


def test_a_fact_that_is_new_in_the_case_of_letters_alone_is_written_with_a_warning(
    taught: Any, words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, spoken = copy.deepcopy(taught), copy.deepcopy(words)
    spoken.add_tokens(["dun"])
    host.resize_token_embeddings(len(spoken))
    host.save_pretrained(tmp_path)
    spoken.save_pretrained(tmp_path)
    file, lines = tmp_path / "facts.safetensors", tmp_path / "facts.jsonl"
    facts = [("Dorne", "dun"), ("Hav", "Arv")]
    lines.write_text(
        "\n".join(json.dumps({"subject": s, "prompt": f"The capital of {s} is", "target": t}) for s, t in facts),
        "utf-8",
    )
    said = run(capsys, "add", tmp_path, file, "--facts", lines)
    assert "2 facts; 2 written" in said
    assert "only the case of letters is new in 'dun' to 'The capital of Dorne is': the model said the same" in said
    assert "'Arv' to" not in said
    assert "case of letters" not in run(capsys, "change", tmp_path, file, *DORNE, "Hol")
