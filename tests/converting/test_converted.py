"""Memories converted on disk: what is read back, and that nothing half-written stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

import vademecum as vm
from tests import tiny
from tests.converting.saved import BANK, ROWS, SLOTS, UNREAD, WIDTH, about, bank, everything, original
from vademecum import cli, files
from vademecum.converting import convert
from vademecum.ops import codes as ops
from vademecum.ops.codes import FORMATS
from vademecum.stores import coded, tables

PEAK = """
import json, sys
from pathlib import Path
import torch
from vademecum import files
from vademecum.converting import convert
from vademecum.converting.ids import ids_of_text
from vademecum.stores import base, tables

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

class Rows(base.Store):
    place, rows, row_shape, dtype = "made", 2**16, (4, 64), torch.float32

    def gather(self, ids):
        return (ids % 97).float().view(-1, 1, 1).expand(-1, 4, 64) + torch.arange(64)

    def write(self, ids, values):
        raise ValueError

torch.set_num_threads(1)
base.CHUNK = 2**18
folder = Path(sys.argv[1])
about = {"format": 1, "kinds": [{"kind": "move"}], "host": {"vocabulary": Rows.rows}}

def fill(aside):
    (aside / "memory.json").write_text(json.dumps(about))
    tables.write(aside / "memory.safetensors", {"move.shared.weight": Rows()})

files.write_folder(folder / "large", fill)
convert(folder / "large", folder / "warm", bank="int4", fold=True)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
convert(folder / "large", folder / "small", bank="int4")
print(json.dumps({"extra": status("VmHWM") - before, "bank": Rows().nbytes}))
"""


@pytest.mark.parametrize("name", ["int8", "int4", "int3", "int2"])
def test_a_converted_bank_reads_as_its_rows_encoded_and_all_else_stays(saved: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (done,) = convert(saved, out, bank=name)
    rows = original(saved)
    form = FORMATS[name]
    expected = ops.decode(ops.encode(rows, form), form, SLOTS, WIDTH)
    assert torch.equal(everything(bank(out)), expected)
    files.verify_folder(out)
    assert about(out) == {
        **about(saved),
        "banks": {BANK: {"format": name, "slots": SLOTS, "width": WIDTH, "rows": ROWS}},
    }
    before, after = (load_file(folder / "memory.safetensors") for folder in (saved, out))
    assert after.keys() == before.keys() - {BANK} | {f"{BANK}.codes"}
    assert all(torch.equal(before[key], after[key]) for key in before.keys() - {BANK})
    assert (done.rows, done.stored, done.lost) == (ROWS, ROWS, 0)
    assert done.before == rows.nbytes
    assert done.after == after[f"{BANK}.codes"].nbytes == ROWS * form.row_bytes(SLOTS, WIDTH)
    error = (expected - rows.float()).flatten(1).norm(dim=1) / rows.float().flatten(1).norm(dim=1).clamp_min(1e-9)
    assert done.worst_error == pytest.approx(float(error.max()), rel=1e-4)
    assert 0 < done.mean_error <= done.worst_error


def test_every_layer_of_a_table_per_layer_is_converted(tmp_path: Path) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.LaVE())
    tiny.shake(model)
    vm.save(model, tmp_path / "memory")
    done = convert(tmp_path / "memory", tmp_path / "out", bank="int8")
    assert sorted(one.name for one in done) == ["lave.layers.0.bank.weight", "lave.layers.1.bank.weight"]
    assert set(about(tmp_path / "out")["banks"]) == {one.name for one in done}


def test_folding_stores_equal_rows_once_and_changes_nothing_that_is_read(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "plain", bank="int4")
    (done,) = convert(saved, tmp_path / "folded", bank="int4", fold=True)
    assert torch.equal(everything(bank(tmp_path / "folded")), everything(bank(tmp_path / "plain")))
    # Four rows of zeros became one, and two equal rows another.
    assert done.stored == ROWS - 3 - 1
    assert bank(tmp_path / "folded").nbytes == done.after
    places = load_file(tmp_path / "folded" / "memory.safetensors")[f"{BANK}.index"]
    assert places[8] == places[9]
    assert len({int(places[row]) for row in UNREAD}) == 1


@pytest.mark.parametrize("fold", [False, True])
def test_pruning_drops_rows_of_zeros_alone_and_changes_nothing_that_is_read(
    saved: Path, tmp_path: Path, fold: bool
) -> None:
    convert(saved, tmp_path / "plain", bank="int8")
    (done,) = convert(saved, tmp_path / "pruned", bank="int8", prune=True, fold=fold)
    assert torch.equal(everything(bank(tmp_path / "pruned")), everything(bank(tmp_path / "plain")))
    assert (done.stored, done.lost) == (ROWS - len(UNREAD) - fold, 0)
    places = load_file(tmp_path / "pruned" / "memory.safetensors")[f"{BANK}.index"]
    assert (places == coded.PRUNED).nonzero().flatten().tolist() == list(UNREAD)


def test_pruning_to_ids_keeps_those_and_says_how_many_rows_are_gone(saved: Path, tmp_path: Path) -> None:
    keep = [1, 2, 5, 40]
    (done,) = convert(saved, tmp_path / "out", bank="fp32", prune=True, keep=keep)
    read = everything(bank(tmp_path / "out"))
    rows = original(saved).float()
    assert torch.equal(read[keep], rows[keep])
    gone = [row for row in range(ROWS) if row not in keep]
    assert not read[gone].any()
    # Row 5 is kept and zero; three of the rows that go were zero already.
    assert (done.stored, done.lost) == (4, len(gone) - 3)


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_a_compressed_bank_can_be_written_out_again_and_loads_like_any(saved: Path, tmp_path: Path, name: str) -> None:
    convert(saved, tmp_path / "small", bank="int8", fold=True, prune=True)
    convert(tmp_path / "small", tmp_path / "wide", bank=name)
    assert "banks" not in about(tmp_path / "wide")
    tensor = load_file(tmp_path / "wide" / "memory.safetensors")[BANK]
    assert tensor.dtype == FORMATS[name].dtype
    assert torch.equal(tensor, everything(bank(tmp_path / "small")).to(tensor.dtype))
    model = vm.load(tiny.host("qwen3"), tmp_path / "wide")
    assert torch.equal(vm.memories(model).banks()[BANK].weight.to(tensor.dtype), tensor)


def test_a_bank_of_many_pieces_is_converted_like_one(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(saved, tmp_path / "whole", bank="int4", fold=True, prune=True)
    told: list[tuple[str, int]] = []
    monkeypatch.setattr("vademecum.stores.base.CHUNK", 7 * SLOTS * WIDTH * 4)
    convert(saved, tmp_path / "pieces", bank="int4", fold=True, prune=True, progress=lambda *what: told.append(what))
    whole, pieces = ((tmp_path / name / "memory.safetensors").read_bytes() for name in ("whole", "pieces"))
    assert whole == pieces
    assert {what for what, _ in told} == {f"reading {BANK}", f"writing {BANK}"}
    assert len(told) > 4
    assert told[-1] == (f"writing {BANK}", ROWS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_a_bank_is_never_in_memory_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["extra"] < found["bank"] / 8
    assert bank(tmp_path / "warm").stored.rows == 97


def test_compressing_twice_is_refused(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "once", bank="int8")
    with pytest.raises(ValueError, match="in int8 already, and compressing it again would add the errors of both"):
        convert(tmp_path / "once", tmp_path / "twice", bank="int4")
    assert not (tmp_path / "twice").exists()


def test_a_row_that_is_not_finite_is_named_and_nothing_is_left(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "memory.safetensors")
    tensors[BANK][17, 1, 2] = float("nan")
    files.write_folder(
        tmp_path / "bad",
        lambda aside: (
            (aside / "memory.json").write_text((saved / "memory.json").read_text()),
            tables.write(aside / "memory.safetensors", tensors),
        ),
    )
    with pytest.raises(ValueError, match=rf"{BANK} cannot be converted .*row 17 of 61 holds a value that is NaN"):
        convert(tmp_path / "bad", tmp_path / "out", bank="int8")
    # Pruned or folded away, it would hide that training diverged.
    for options in ({"prune": True, "keep": [1, 2]}, {"prune": True}, {"fold": True}):
        with pytest.raises(ValueError, match=rf"{BANK} cannot be converted: row 17 of 61 holds a value that is NaN"):
            convert(tmp_path / "bad", tmp_path / "out", bank="int8", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "bad"}


def test_a_folder_that_is_damaged_foreign_or_without_a_bank_is_refused(saved: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=r"letter\.txt"):
        convert(saved, foreign, bank="int8")
    assert (foreign / "letter.txt").read_text() == "dear"
    bare = vm.save(vm.attach(tiny.host("qwen3"), vm.MoE(experts=2)), tmp_path / "experts")
    with pytest.raises(ValueError, match=r"\(moe\) has no bank"):
        convert(bare, tmp_path / "out", bank="int8")
    data = bytearray((saved / "memory.safetensors").read_bytes())
    data[-3] ^= 1
    (saved / "memory.safetensors").write_bytes(bytes(data))
    with pytest.raises(files.Damaged, match=r"memory\.safetensors"):
        convert(saved, tmp_path / "out", bank="int8")


def test_ids_that_the_bank_does_not_have_and_an_unknown_format_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"row {ROWS} was to be kept, but {BANK} has rows 0 to {ROWS - 1}"):
        convert(saved, tmp_path / "out", bank="int8", prune=True, keep=[1, ROWS])
    with pytest.raises(ValueError, match="did you mean 'int4'"):
        convert(saved, tmp_path / "out", bank="int44")
    with pytest.raises(ValueError, match="without prune"):
        convert(saved, tmp_path / "out", bank="int4", keep=[1])


def test_the_verb_says_sizes_and_errors(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ids.txt").write_text("1, 2\n3 5\n")
    command = ["convert", str(saved), "--out", str(tmp_path / "out"), "--bank", "int8", "--fold"]
    assert cli.main([*command, "--prune", "--keep-ids", str(tmp_path / "ids.txt")]) == 0
    said = capsys.readouterr().out
    assert f"{BANK}: 61 rows (4 stored)" in said
    assert "relative error" in said
    assert "rows that were not zero are gone" in said
    assert str(tmp_path / "out" / "memory.safetensors") in said
    assert everything(bank(tmp_path / "out"))[[1, 2, 3]].any(-1).all()


def test_rows_that_a_text_reads_are_kept(saved: Path, tmp_path: Path) -> None:
    words = {"<end>": 0, "wheat": 7, "rice": 11, "sea": 40, "?": 60}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("rice\nwheat rice\n")
    command = ["convert", str(saved), "--out", str(tmp_path / "out"), "--bank", "int8", "--prune"]
    assert cli.main([*command, "--read-by", str(tmp_path / "text.txt")]) == 2
    assert cli.main([*command, "--read-by", str(tmp_path / "text.txt"), "--tokenizer", str(tmp_path)]) == 0
    places = load_file(tmp_path / "out" / "memory.safetensors")[f"{BANK}.index"]
    assert (places != coded.PRUNED).nonzero().flatten().tolist() == [0, 7, 11]


def test_a_file_of_ids_with_something_else_in_it_is_refused(saved: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "ids.txt").write_text("1 two 3")
    command = ["convert", str(saved), "--out", str(tmp_path / "out"), "--bank", "int8", "--prune"]
    assert cli.main([*command, "--keep-ids", str(tmp_path / "ids.txt")]) == 2
    assert "holds 'two'; expected a text file with ids of rows" in capsys.readouterr().err
