from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.data import user

text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n \r"), max_size=900)


@given(text, st.integers(1, 60))
def test_pieces_join_to_the_text_again_and_none_is_longer_than_twice_the_limit(text: str, limit: int) -> None:
    parts = user.pieces(text, limit)
    assert "".join(parts) == text
    assert all(len(part) <= 2 * limit for part in parts)


def test_pieces_are_cut_at_blank_lines_where_there_are_any() -> None:
    parts = user.pieces("\n\n".join("word " * 10 for _ in range(40)), 200)
    assert len(parts) > 5
    assert all(part.endswith("\n\n") for part in parts[:-1])


@given(text.filter(lambda t: t.strip() and not t.startswith("\ufeff")))
def test_a_txt_file_gives_back_its_text(text: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "a.txt"
        path.write_bytes(text.encode())
        documents = user.documents(path)
        assert "".join(d.text for d in documents if d.text.strip()).split() == text.split()


@given(st.lists(text.filter(str.strip), min_size=user.FEW, max_size=user.FEW + 3))
def test_a_jsonl_file_gives_one_document_per_line(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "a.jsonl"
        path.write_text("\n".join(json.dumps({"body": t, "id": 1}) for t in texts), encoding="utf-8")
        assert [d.text for d in user.documents(path, "body")] == texts


def test_a_folder_is_read_recursively_and_other_kinds_of_file_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "deep/b.md").write_text("two")
    (tmp_path / "deep/er/c.py").write_text("three = 3")
    (tmp_path / "deep/er/d.jsonl").write_text('{"text": "four"}\n\n{"text": "five"}\n')
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    documents = user.documents(tmp_path)
    assert [d.text for d in documents] == ["one", "two", "three = 3", "four", "five"]
    assert documents[4].name == "deep/er/d.jsonl:3"


def test_one_long_file_becomes_enough_documents_for_a_split(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("\n\n".join(f"Paragraph {k} of a long book." for k in range(300)))
    assert len(user.documents(tmp_path / "long.txt")) >= 15


def test_a_byte_order_mark_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert user.documents(tmp_path / "a.txt")[0].text == "hello"


@given(st.text(st.characters(codec="ascii"), max_size=50), st.sampled_from([b"\xff", b"\xe9t\xe9", b"\x80"]))
def test_a_file_that_is_not_utf8_names_the_offset_and_the_remedy(before: str, bad: bytes) -> None:
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "latin.txt"
        path.write_bytes(before.encode() + bad)
        with pytest.raises(ValueError, match=rf"latin\.txt is not UTF-8.*offset {len(before)} .*iconv"):
            user.documents(path)


def test_the_offset_counts_from_the_start_of_the_file_also_after_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(ValueError, match="offset 5 "):
        user.documents(tmp_path / "a.txt")


@pytest.mark.parametrize("content", ["", "  \n\t\n"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_an_empty_file_is_refused_by_name(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / f"blank{suffix}").write_text(content)
    with pytest.raises(ValueError, match=rf"blank\{suffix} is empty"):
        user.documents(tmp_path / f"blank{suffix}")


def test_empty_files_in_a_folder_are_skipped_and_counted(tmp_path: Path) -> None:
    for name, content in {"a.txt": "one", "b.py": "", "c.jsonl": "\n", "d.md": "two"}.items():
        (tmp_path / name).write_text(content)
    with pytest.warns(UserWarning, match=r"2 of the 4 files .* are empty and were skipped"):
        documents = user.documents(tmp_path)
    assert [d.text for d in documents] == ["one", "two"]


def test_a_folder_of_empty_files_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text(" ")
    with pytest.raises(ValueError, match=r"Every file in .* is empty \(2\)"):
        user.documents(tmp_path)


def test_a_json_line_without_the_field_names_the_line_the_field_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y", "id": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 has no text in the field 'text' \(it has: body, id\)"):
        user.documents(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "it has: list"),
        ('{"text": 3}', "no text in the field"),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_spoilt_json_line_is_refused_with_its_number(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line)
    with pytest.raises(ValueError, match=rf"line 2.*{says}"):
        user.documents(tmp_path / "a.jsonl")


def test_a_missing_file_an_empty_folder_and_an_unknown_kind_are_three_different_sentences(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        user.documents(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="holds no"):
        user.documents(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="kind that cannot be read"):
        user.documents(tmp_path / "a.docx")
