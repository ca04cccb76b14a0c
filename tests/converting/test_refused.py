"""Memories converted on disk: what is refused or answered, with nothing lost."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

import vademecum as vm
from tests import tiny
from tests.converting.saved import BANK, bank
from vademecum import cli, files
from vademecum.converting import convert
from vademecum.converting.ids import ids_of_text


@pytest.fixture
def exported(saved: Path, tmp_path: Path) -> Path:
    """``final`` of a run: a host and the memory in one folder that was written whole."""

    def fill(aside: Path) -> None:
        (aside / "model.safetensors").write_bytes(b"the host")
        shutil.copytree(saved, aside / "memory")

    files.write_folder(tmp_path / "run" / "final", fill)
    return tmp_path / "run" / "final"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("run/final/memory", "is .*final/memory and would be replaced by what is made from it"),
        ("run/final", "holds .*final/memory and would be replaced by what is made from it"),
        ("run", "holds .*final/memory and would be replaced by what is made from it"),
        ("run/final/memory/sub/int4", "int4 lies in .*final/memory, which must stay as it is"),
        ("run/final/int4", r"int4 lies in .*final, whose manifest\.json lists all that belongs there"),
        ("link", "is .*final/memory and would be replaced"),
        ("link/sub", "sub lies in .*final/memory, which must stay"),
        ("above", "holds .*final/memory and would be replaced"),
    ],
)
@pytest.mark.parametrize("through", ["run/final/memory", "link"])
def test_a_result_that_would_take_its_source_with_it_is_refused(
    exported: Path, tmp_path: Path, out: str, said: str, through: str
) -> None:
    (tmp_path / "link").symlink_to(exported / "memory", target_is_directory=True)
    (tmp_path / "above").symlink_to(exported, target_is_directory=True)
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=said.replace("final/memory", "(final/memory|link)")):
        convert(tmp_path / through, tmp_path / out, bank="int4")
    assert contents(tmp_path / "run") == before


def test_only_a_memory_is_ever_replaced(saved: Path, exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "run" / "checkpoints" / "step-00000040"
    files.write_folder(other, lambda aside: (aside / "memory.safetensors").write_bytes(b"a checkpoint"))
    mixed = tmp_path / "mixed"
    files.write_folder(
        mixed,
        lambda aside: [(aside / name).write_bytes(b"{}") for name in ("memory.json", "model.safetensors")],
    )
    for target, named in ((exported, "memory"), (other, "manifest.json"), (mixed, "model.safetensors")):
        before = contents(target)
        with pytest.raises(FileExistsError, match=rf"is not a memory \({named} is in it\)"):
            convert(saved, target, bank="int4")
        assert contents(target) == before
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(FileExistsError, match="letter is a file"):
        convert(saved, tmp_path / "letter", bank="int4")
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        convert(saved, tmp_path / "empty", bank="int4")
        assert bank(tmp_path / "empty").form.name == "int4"


def test_a_run_is_answered_with_the_memory_in_it(exported: Path, tmp_path: Path) -> None:
    for given in (exported, exported.parent):
        with pytest.raises(ValueError, match=rf"{given} is not the folder of a memory but holds one; give .*final/mem"):
            convert(given, tmp_path / "out", bank="int4")
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; give one that vm\.save wrote"):
        convert(tmp_path / "nowhere", tmp_path / "out", bank="int4")
    with pytest.raises(ValueError, match=r"safetensors is a file; give the folder of a memory"):
        convert(exported / "model.safetensors", tmp_path / "out", bank="int4")


def test_a_description_that_is_damaged_though_its_manifest_is_not_is_answered(saved: Path, tmp_path: Path) -> None:
    def fill(aside: Path) -> None:
        shutil.copy(saved / "memory.safetensors", aside)
        (aside / "memory.json").write_text("{")

    files.write_folder(tmp_path / "bad", fill)
    with pytest.raises(files.Damaged, match=r"memory\.json is no JSON"):
        convert(tmp_path / "bad", tmp_path / "out", bank="fp32")


def test_a_memory_of_which_nothing_is_kept_is_read_and_written_out_again(saved: Path, tmp_path: Path) -> None:
    (done,) = convert(saved, tmp_path / "none", bank="int4", prune=True, keep=[])
    assert done.stored == 0
    convert(tmp_path / "none", tmp_path / "wide", bank="fp32")
    assert not load_file(tmp_path / "wide" / "memory.safetensors")[BANK].any()
    ids = tiny.ids()
    for place in ("ram", "disk"):
        model = vm.load(tiny.host("qwen3"), tmp_path / "none", bank=place)
        assert model(input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"99999999999999999999", "holds '99999999999999999999', which is past every vocabulary"),
        (b"9" * 9999, "'..., which is past every vocabulary"),
        (b"1 -3", "holds '-3'; ids of rows count from 0"),
        (b"1 61", f"does not fit .*row 61 was to be kept, but {BANK} has rows 0 to 60"),
        (b"1_000", "holds '1_000'; expected a text file with ids"),
        ("\u0663".encode(), "holds '\u0663'; expected a text file with ids"),
        (b"", "holds no ids"),
        (b" ,\n", "holds no ids"),
        (b"\x00\x01", "expected a text file with ids"),
        (b"\xff\xfe\x80", r"is not in UTF-8 \(.*\); expected a text file with ids"),
    ],
)
def test_ids_that_cannot_be_used_are_answered_with_the_name_of_their_file(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    command = ["convert", str(saved), "--out", str(tmp_path / "out"), "--bank", "int8", "--prune"]
    assert cli.main([*command, "--keep-ids", str(tmp_path / "ids.txt")]) == 2
    told = capsys.readouterr().err
    assert re.search(rf"vademecum: \S*ids\.txt .*{said}", told), told
    assert not (tmp_path / "out").exists()


def test_ids_too_large_for_a_tensor_are_answered_like_any_that_the_bank_lacks(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"row {10**20} was to be kept, but {BANK} has rows 0 to 60"):
        convert(saved, tmp_path / "out", bank="int8", prune=True, keep=[1, 10**20])


def test_files_that_are_missing_or_no_text_or_no_tokenizer_are_named(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("rice")
    (tmp_path / "nothing.txt").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    command = ["convert", str(saved), "--out", str(tmp_path / "out"), "--bank", "int8", "--prune"]

    def told(**options: str) -> str:
        given = [
            word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(tmp_path / value))
        ]
        assert cli.main([*command, *given]) == 2
        return capsys.readouterr().err

    for name, what in {"gone": "is not there", ".": "is a folder", "binary": "is not in UTF-8"}.items():
        path = re.escape(str(tmp_path / name))
        assert re.search(rf"{path} {what}.*expected a text file with ids of rows", told(keep_ids=name))
        assert re.search(
            rf"{path} {what}.*expected a text file in UTF-8", told(read_by=name, tokenizer="tokenizer.json")
        )
    assert "nothing.txt is empty" in told(read_by="nothing.txt", tokenizer="tokenizer.json")
    for name in ("text.txt", "binary"):
        assert f"{name} is no tokenizer that can be read" in told(read_by="text.txt", tokenizer=name)
    assert "gone is no file; give the tokenizer.json" in told(read_by="text.txt", tokenizer="gone")


def test_tokens_that_reach_over_lines_are_kept_too(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "rice": 3, "\n": 4, "\n\n": 5}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("rice\n\nrice\n")
    assert ids_of_text(tmp_path / "text.txt", tmp_path / "tokenizer.json").tolist() == [3, 4, 5]
