"""What memory.json says, and what is answered where it is not so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vademecum as vm
from tests import tiny
from vademecum import about, files, kinds
from vademecum.about import Form
from vademecum.converting import convert

BANK = "move.shared.weight"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3), vm.MoE(experts=2))
    return vm.save(model, tmp_path_factory.mktemp("plain") / "memory")


@pytest.fixture(scope="module")
def coded(plain: Path) -> Path:
    convert(plain, plain.parent / "coded", bank="int4")
    return plain.parent / "coded"


def changed(folder: Path, out: Path, change: Change | str | bytes) -> Path:
    shutil.copytree(folder, out)
    text = (out / "memory.json").read_text()
    if callable(change):
        change = json.dumps(change(json.loads(text)))
    (out / "memory.json").write_bytes(change.encode() if isinstance(change, str) else change)
    return out


def bank(**changes: object) -> Change:
    return lambda data: {**data, "banks": {BANK: {**data["banks"][BANK], **changes}}}


def test_what_was_saved_is_read(plain: Path, coded: Path) -> None:
    found = about.read(plain)
    assert [kinds.from_dict(kind) for kind in found.kinds] == [vm.MoVE(slots=3), vm.MoE(experts=2)]
    assert found.vocabulary == tiny.VOCABULARY
    assert found.host["family"] == "qwen3"
    assert found.banks == {}
    assert about.read(coded).banks == {BANK: Form("int4", 3, 16, tiny.VOCABULARY)}


def test_what_was_read_is_written_as_it_was(plain: Path, coded: Path) -> None:
    for folder in (plain, coded):
        assert about.read(folder).to_json() == (folder / "memory.json").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "is no JSON"),
        ("", "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", r"holds \[\] where a JSON object was expected"),
        ("null", "holds None where a JSON object was expected"),
        (lambda data: {**data, "kinds": None}, "holds None where 'kinds' was expected"),
        (lambda data: {**data, "kinds": []}, r"holds \[\] where 'kinds' was expected"),
        (lambda data: {key: data[key] for key in data if key != "kinds"}, "holds None where 'kinds' was expected"),
        (lambda data: {**data, "kinds": ["move"]}, "holds 'move' where one of its 'kinds' was expected"),
        (lambda data: {**data, "kinds": [{"slots": 3}]}, "where one of its 'kinds' was expected"),
        (lambda data: {**data, "kinds": [{"kind": "zz"}]}, "cannot be made here: unknown kind 'zz'"),
        (lambda data: {**data, "kinds": [{"kind": "move", "slots": "3"}]}, "cannot be made here: .*slots='3'"),
        (lambda data: {**data, "kinds": [{"kind": "move", "layers": {}}]}, "cannot be made here"),
        (lambda data: {key: data[key] for key in data if key != "host"}, "holds None where 'host' was expected"),
        (lambda data: {**data, "host": {}}, "holds None where 'vocabulary' of its 'host' was expected"),
        (lambda data: {**data, "host": {"vocabulary": "many"}}, "holds 'many' where 'vocabulary'"),
        (lambda data: {**data, "host": {"vocabulary": True}}, "holds True where 'vocabulary'"),
        (lambda data: {**data, "host": {"vocabulary": 5}}, f"a vocabulary of 5 where '{BANK}' has 61 rows"),
    ],
)
def test_a_description_that_is_damaged_is_answered_in_a_sentence(
    plain: Path, tmp_path: Path, change: Change | str | bytes, said: str
) -> None:
    with pytest.raises(files.Damaged, match=rf"memory\.json .*{said}"):
        about.read(changed(plain, tmp_path / "bad", change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: {**data, "banks": [1]}, r"holds \[1\] where 'banks' was expected"),
        (lambda data: {**data, "banks": None}, "holds None where 'banks' was expected"),
        (lambda data: {key: data[key] for key in data if key != "banks"}, f"says nothing of '{BANK}'"),
        (lambda data: {**data, "banks": {BANK: 7}}, f"holds 7 where '{BANK}' of its 'banks' was expected"),
        (bank(format="zz"), f"holds 'zz' where 'format' of '{BANK}' was expected to be one of .*int4"),
        (bank(format=4), "holds 4 where 'format'"),
        (bank(slots=-3), f"holds -3 where 'slots' of '{BANK}' was expected to be a whole number from 1 on"),
        (bank(slots=0), "holds 0 where 'slots'"),
        (bank(slots="three"), "holds 'three' where 'slots'"),
        (bank(width=16.0), "holds 16.0 where 'width'"),
        (bank(rows=None), "holds None where 'rows'"),
        (bank(rows=60), f"a vocabulary of 61 where '{BANK}' has 60 rows"),
    ],
)
def test_a_compressed_bank_that_is_described_wrongly_is_answered_in_a_sentence(
    coded: Path, tmp_path: Path, change: Change, said: str
) -> None:
    with pytest.raises(files.Damaged, match=rf"memory\.json .*{said}"):
        about.read(changed(coded, tmp_path / "bad", change))


def test_a_bank_that_is_listed_but_not_there_is_named(coded: Path, plain: Path, tmp_path: Path) -> None:
    listed = json.loads((coded / "memory.json").read_text())["banks"]
    with pytest.raises(files.Damaged, match=rf"holds no tensor '{BANK}\.codes', which memory\.json lists"):
        about.read(changed(plain, tmp_path / "bad", lambda data: {**data, "banks": listed}))


@pytest.mark.parametrize("name", ["memory.json", "memory.safetensors"])
def test_a_file_that_is_missing_is_named(plain: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(plain, tmp_path / "part")
    (tmp_path / "part" / name).unlink()
    with pytest.raises(ValueError, match=rf"part holds no {name}; give a folder that vm\.save wrote"):
        about.read(tmp_path / "part")


@pytest.mark.parametrize("given", [2, None, "1"])
def test_another_versions_memory_is_not_called_damaged(plain: Path, tmp_path: Path, given: object) -> None:
    folder = changed(plain, tmp_path / "other", lambda data: {**data, "format": given})
    with pytest.raises(ValueError, match=f"has memory format {given!r}, this version reads 1; load it with") as raised:
        about.read(folder)
    assert not isinstance(raised.value, files.Damaged)
