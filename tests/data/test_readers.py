from __future__ import annotations

import bz2
import io
import json
import sqlite3
import zipfile
from pathlib import Path

import pytest

from vademecum.data import readers, sources


def wheel(**members: bytes) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return zipfile.ZipFile(buffer)


def test_a_country_is_rendered_under_its_name_with_its_fields_and_parts() -> None:
    facts = {
        "Geography": {
            "Area": {"total ": {"text": "84 sq km"}, "note": "<strong>note:</strong> small"},
            "Climate": {"text": "mild &amp; wet"},
            "Nothing": {"text": ""},
        },
        "Government": {"Country name": {"conventional short form": {"text": "Atlantis"}}},
        "Empty": {"Gone": {"text": " "}},
    }
    (document,) = readers.factbook(wheel(**{"d/at.json": json.dumps(facts).encode(), "d/__init__.py": b""}))
    assert document.text == (
        "Atlantis\n\nGeography\n\nArea:\n- total: 84 sq km\n- note: note: small\nClimate: mild & wet\n"
        "\nGovernment\n\nCountry name:\n- conventional short form: Atlantis\n"
    )


def test_articles_are_read_without_redirects() -> None:
    space = 'xmlns="http://www.mediawiki.org/xml/export-0.10/"'
    page = "<page><title>{}</title>{}<revision><text>{}</text></revision></page>"
    pages = page.format("Cat", "", "A [[feline]].") + page.format("Kat", "<redirect/>", "x")
    dump = f"<mediawiki {space}>{pages}</mediawiki>"
    member = {"g/enwiki-p000000010p000030302-shortened.bz2": bz2.compress(dump.encode())}
    assert list(readers.wikipedia(wheel(**member))) == [readers.Document("Cat", "Cat\n\nA feline.\n")]
    assert list(readers.markup(wheel(**member))) == [readers.Document("Cat", "Cat\n\nA [[feline]].\n")]


def test_dictionary_entries_of_one_headword_share_a_line_and_a_document_holds_a_hundred(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "d.db")
    connection.execute("create table entries (word, wordtype, definition)")
    rows = [
        ("ant", "n.", "An insect."),
        ("ant", "n.", "A second\n sense."),
        ("ape", "v. t.", "To mimic."),
        ("b", "", None),
    ]
    connection.executemany("insert into entries values (?, ?, ?)", rows + [(f"w{k:03}", "n.", "x") for k in range(150)])
    connection.commit()
    connection.close()
    documents = list(readers.webster(wheel(**{"src/data/dictionary.db": (tmp_path / "d.db").read_bytes()})))
    assert [len(d.text.splitlines()) for d in documents] == [100, 52]
    assert documents[0].text.splitlines()[:2] == ["ant (n.) An insect. A second sense.", "ape (v. t.) To mimic."]


def test_the_standard_library_is_read_without_its_tests() -> None:
    documents = {document.name: document.text for document in readers.python()}
    assert "import" in documents["json/decoder.py"]
    assert len(documents) > 200
    assert not any(part in name.split("/") for name in documents for part in ("test", "tests", "site-packages"))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "documents", "says"),
    [
        ("factbook", 256, "sq km"),
        ("wikipedia", 106, "The"),
        ("webster", 1116, "(n.)"),
        ("markup", 106, "[["),
        ("apidocs", 110, "request"),
        ("languages", 209, "\n"),
    ],
)
def test_each_pinned_source_is_fetched_and_read(name: str, documents: int, says: str, tmp_path: Path) -> None:
    source = sources()[name]
    read = source.documents(tmp_path)
    size = sum(len(document.text.encode()) for document in read)
    assert len(read) == documents
    assert sum(says in document.text for document in read) > 0.8 * documents
    assert round(size / 1e6, 1) == source.megabytes
    assert len({document.name for document in read}) == documents
