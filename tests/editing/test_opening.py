"""What is no model's folder with a tokenizer, or no overlay's file, is told in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from vademecum.cli import main

DORNE = ("--subject", "Dorne", "--prompt", "The capital of Dorne is", "--target")


@pytest.fixture(scope="module")
def folder(taught: Any, words: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    taught.save_pretrained(place)
    words.save_pretrained(place)
    return place


def test_a_model_without_a_tokenizer_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, broken, empty = (tmp_path / name for name in ("bare", "broken", "empty"))
    for place, left_out in ((bare, "tokenizer*"), (broken, "nothing"), (empty, "*")):
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(left_out))
    (broken / "tokenizer.json").write_text("{", "utf-8")
    # A family whose tokenizer is made of nothing where there is no file, and reads every text as empty.
    tf.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0).save_pretrained(empty)
    both, one = "tokenizer.json and tokenizer_config.json are missing", "tokenizer.json is missing"

    def refused(place: Path) -> str:
        assert main(["edit", "add", str(place), str(tmp_path / "facts.safetensors"), *DORNE, "Hol"]) == 2
        return capsys.readouterr().err

    for place in (bare, empty):
        said = refused(place)
        assert f"{place} holds a model without a tokenizer that can be read: {both}; write" in " ".join(said.split())
        assert "instantiate" not in said
    shutil.copy(folder / "tokenizer_config.json", bare)
    assert one in " ".join(refused(bare).split())
    assert f"the tokenizer in {broken} cannot be read (" in " ".join(refused(broken).split())


def test_a_model_that_is_cut_off_and_places_that_hold_no_overlay_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    looked = ("inspect", "lookup", "smollm2", "--text", "The capital of Dorne is")
    for words, message in (
        (("edit", "add", broken, tmp_path / "f.safetensors", *DORNE, "Hol"), "cannot be read"),
        (("edit", "add", folder, tmp_path, *DORNE, "Hol"), "is a folder"),
        (("edit", "list", tmp_path), "is a folder"),
        (looked, "has no memory of its own"),
        ((*looked, "--overlay", "x.safetensors", "--arm", "dense"), "the one or the other"),
    ):
        assert main([*map(str, words)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
