"""The command line: helpful, and one clear line for a user's error."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from vademecum import cli, files
from vademecum.training import commands

VERBS = ("train", "generate", "compare", "demo", "report", "data", "kinds")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage:" in said
    assert len(said) > 100


def test_the_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vademecum ")


def test_kinds_and_texts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kinds"]) == 0
    assert cli.main(["data"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("move", "lave", "moe", "factbook", "webster"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["compare", "--preset", "dmeo"], "did you mean demo"),
        (["compare", "--arm", "dense", "--arm", "mvoe"], "names no kind"),
        (["compare", "--arm", "move"], "'dense', which the others are compared with"),
        (["compare", "--match", "luck"], "tokens, flops, seconds"),
        (["compare", "--seeds", "0"], "1 or more"),
        (["compare", "--steps", "0"], "steps"),
        (["report", "nowhere"], "no results.json"),
        (["generate", "nowhere"], "nowhere"),
        (["train", "--out", "x", "--host", "qven3"], "did you mean"),
        (["train"], "--out"),
        (["fly"], "fly"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_code_2(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_prompt_is_not_printed_before_there_is_a_run_to_go_on_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["generate", str(tmp_path), "--prompt", "Once upon"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("pieces", "shown"), [([" a", " time"], "Once upon a time\n"), ([], "Once upon\n")])
def test_a_prompt_stands_once_before_what_is_written(
    pieces: list[str], shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: object, write: Callable[[str], object], **__: object) -> None:
        for piece in pieces:
            write(piece)

    monkeypatch.setattr(commands, "generate", generate)
    assert cli.main(["generate", "x", "--prompt", "Once upon"]) == 0
    assert capsys.readouterr().out == shown


def test_the_text_field_reaches_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(commands, "train", lambda **settings: given.update(settings))
    assert cli.main(["train", "--out", "x", "--data", "a.jsonl", "--text-field", "body"]) == 0
    assert given["text_field"] == "body"


def test_compare_runs_the_standard_preset_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vademecum.compare import commands as comparing

    asked: list[str] = []
    monkeypatch.setattr(comparing, "plan_of", lambda preset, **_: asked.append(preset))
    monkeypatch.setattr(comparing, "run", lambda *_, **__: None)
    assert cli.main(["compare"]) == 0
    assert cli.main(["demo"]) == 0
    assert asked == ["standard", "demo"]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--debug", "report", "nowhere"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (files.Damaged("x is damaged."), 2, "x is damaged."),
        (ModuleNotFoundError("run pip install 'vademecum[images]'"), 2, "vademecum: run pip install"),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), 2, "the disk is full while writing x/y"),
        (KeyboardInterrupt("saved; the same command goes on."), 130, "the same command goes on"),
    ],
)
def test_what_goes_wrong_inside_a_verb_is_told(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(commands, "generate", fail)
    assert cli.main(["generate", "x", "--prompt", "y"]) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError("No module named 'a'", name="a")])
def test_an_error_that_is_not_the_users_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(commands, "generate", fail)
    with pytest.raises(type(error)):
        cli.main(["generate", "x"])
