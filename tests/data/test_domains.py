"""The seven domains: how each new text is read, how a mixture is made, and the tokens a tokenizer gives of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum import data
from vademecum.data import apidocs, corpus, domains, readers, translations, wheels
from vademecum.data.readers import Document
from vademecum.data.sources import DOMAINS, Source, mixed


def wheel(**members: bytes) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return zipfile.ZipFile(buffer)


CATALOGUE = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"

#. Default: "Events"
msgid "events"
msgstr "Termine"

#, fuzzy
msgid "guess"
msgstr "Vermutung"

msgid "long"
msgstr ""
"Sie <b>sagte</b> "
"\\"ja\\" &amp; ging."

msgid "day"
msgid_plural "days"
msgstr[0] "Tag"
msgstr[1] "Tage"

msgid "untranslated"
msgstr ""
"""


def test_translations_are_read_without_header_guesses_and_gaps() -> None:
    assert list(translations.translations(CATALOGUE)) == [
        *("Termine", 'Sie <b>sagte</b> "ja" &amp; ging.', "Tag", "Tage"),
    ]


def test_a_language_gives_each_translation_once_in_documents_of_a_hundred() -> None:
    many = "".join(f'msgid "m{k}"\nmsgstr "Satz {k % 230}"\n\n' for k in range(300))
    read = wheel(
        **{"p/locales/de/LC_MESSAGES/a.po": CATALOGUE.encode(), "p/locales/de/LC_MESSAGES/b.po": many.encode()},
        **{"p/locales/nl/LC_MESSAGES/a.po": CATALOGUE.encode(), "p/locales/ja/LC_MESSAGES/a.po": CATALOGUE.encode()},
    )
    documents = list(translations.languages(read))
    assert [d.name for d in documents] == ["de/a-0000", "de/b-0000", "de/b-0001", "de/b-0002", "ja/a-0000"]
    assert documents[0].text == 'Termine\nSie sagte "ja" & ging.\nTag\nTage\n'
    assert [len(d.text.splitlines()) for d in documents[1:4]] == [100, 100, 30]


def described(*texts: str) -> bytes:
    shapes = {f"s{k}": {"documentation": text} for k, text in enumerate(texts[1:])}
    return gzip.compress(json.dumps({"shapes": shapes, "documentation": texts[0]}).encode())


def test_a_service_is_read_in_its_newest_version_and_says_nothing_twice() -> None:
    places = {
        "a/2019-01-01": ("old",),
        "a/2020-01-01": ("<p>About&nbsp;a.</p>", "A name.", "The size.", "A name."),
        "b/2020-01-01": ("skipped",),
        "c/2020-01-01": ("skipped",),
        "d/2020-01-01": ("skipped",),
        "e/2020-01-01": ("About e.", "A name."),
    }
    members = {f"botocore/data/{place}/service-2.json.gz": described(*texts) for place, texts in places.items()}
    documents = list(apidocs.apidocs(wheel(**members, **{"botocore/data/a/2021-01-01/paginators-1.json": b"{}"})))
    assert documents == [Document("a", "a\nAbout a.\nA name.\nThe size.\n"), Document("e", "e\nAbout e.\n")]


def source(name: str, sha256: str | None = None) -> Source:
    pinned = wheels.Wheel(package=name, version="1", sha256=sha256, megabytes=1.0) if sha256 else None
    return Source(name=name, what="", licence="", megabytes=1.0, wheel=pinned)


def documents(count: int, size: int = 40, start: int = 0) -> list[Document]:
    return [Document(f"d{k}", f"{k:04d} ".ljust(size, "x")) for k in range(start, start + count)]


def test_a_mixture_takes_the_same_bytes_from_each_part_and_names_them_by_it() -> None:
    parts = {"one": (source("a", "0a"), documents(100)), "two": (source("b", "0b"), documents(100))}
    made = mixed(parts, share=1000)
    assert {name: sum(len(d.text) for d in group) for name, group in made.items()} == {"one": 1000, "two": 1000}
    assert all(d.name.startswith("one/d") for d in made["one"])
    assert [d.name[4:] for d in made["one"]] == [d.name[4:] for d in made["two"]]


def test_what_one_part_took_of_a_wheel_no_other_part_takes() -> None:
    same = [(source("a", "0a"), documents(100)), (source("b", "0a"), documents(100))]
    made = mixed({"prose": same[0], "markup": same[1]}, share=1000)
    taken = [{d.name.split("/")[1] for d in group} for group in made.values()]
    assert len(taken[0]) == len(taken[1]) == 25
    assert taken[0].isdisjoint(taken[1])


@given(st.lists(st.integers(1, 200), max_size=40), st.integers(100, 2000))
def test_no_part_is_larger_than_its_share_and_no_document_weighs_more_than_a_sixteenth(
    sizes: list[int], share: int
) -> None:
    given_ = [Document(f"d{k}", f"{k} ".ljust(size, "x")) for k, size in enumerate(sizes)]
    (group,) = mixed({"p": (source("a", "0a"), given_)}, share=share).values()
    assert sum(len(d.text) for d in group) <= share
    assert all(len(d.text) <= share / 16 for d in group)
    left_out = [d for d in given_ if f"p/{d.name}" not in {g.name for g in group}]
    room = share - sum(len(d.text) for d in group)
    assert all(len(d.text) > min(room, share // 16) for d in left_out)


def test_keys_of_sources_with_a_wheel_or_the_library_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    library = documents(60, 200)
    monkeypatch.setattr(readers, "python", lambda: iter(library))
    known = data.sources()
    assert known["factbook"].content() == "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01"
    made = data.prepare("python", vocab_size=300, progress=False)
    content = hashlib.sha256(json.dumps(library).encode()).hexdigest()
    assert made.key == hashlib.sha256(json.dumps([1, "python", content, 300]).encode()).hexdigest()[:16]


def test_another_library_of_this_python_makes_another_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for start in (0, 0, 1):
        monkeypatch.setattr(readers, "python", lambda start=start: iter(documents(9, start=start)))
        found.append(data.sources()["domains"].content())
    assert found[0] == found[1] != found[2]


def test_each_part_of_a_mixture_is_split_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {name: [Document(f"{name}/{k}", f"{name} {k} " * 40) for k in range(50)] for name in ("one", "two")}
    monkeypatch.setattr(Source, "groups", lambda self, cache=None: groups)
    monkeypatch.setattr(Source, "content", lambda self: "groups")
    made = data.prepare("domains", vocab_size=300, progress=False)
    held = json.loads((made.folder / "corpus.json").read_text())["heldout_documents"]
    assert {name.split("/")[0] for name in held} == {"one", "two"}
    assert sorted(held) == sorted(d.name for group in groups.values() for d in corpus.split(group)[1])


def test_a_mixture_that_cannot_be_fetched_says_so_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: Could not find a version\n")

    monkeypatch.setattr(readers, "python", lambda: iter(documents(60, 200)))
    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.warns(UserWarning, match=r"No domains: .*gensim==4.4.0.*INSTEAD"):
        made = data.prepare("domains", vocab_size=300, progress=False)
    assert made.name == "python"


def test_tokens_of_a_domain_begin_with_what_is_held_out_and_stop_at_the_wanted_number() -> None:
    group = [Document(f"d{k}", " ".join(str(k * n * n) for n in range(40))) for k in range(80)]
    tokenizer = corpus.train_tokenizer([d.text for d in group], 300)
    held = {d.text for d in corpus.split(group)[1]}
    found = domains.cut(group, tokenizer, 0, 2000)
    texts = tokenizer.decode(found.ids.tolist(), skip_special_tokens=False).split(data.END)[1:]
    assert len(found.ids) == 2000
    assert found.ids.dtype == np.int64
    assert set(texts[: len(held)]) == held
    assert found.ids[found.heldout - 1] == 0
    assert data.END + data.END.join(texts[: len(held)]) + data.END == tokenizer.decode(
        found.ids[: found.heldout].tolist(), skip_special_tokens=False
    )
    assert domains.cut(group, tokenizer, 0, 10).heldout == 10


def test_a_number_of_tokens_that_makes_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 or more"):
        data.domain_tokens(corpus.train_tokenizer(["a"], 257), 0, per_domain=1)


@pytest.mark.network
def test_the_seven_domains_are_fetched_and_each_gives_what_was_asked_for(tmp_path: Path) -> None:
    groups = data.sources()["domains"].groups(tmp_path)
    assert list(groups) == list(DOMAINS)
    assert all(750_000 < sum(len(d.text.encode()) for d in group) <= 1_000_000 for group in groups.values())
    titles = [{d.name.split("/", 1)[1] for d in groups[name]} for name in ("prose", "markup")]
    assert titles[0].isdisjoint(titles[1])
    tokenizer = corpus.train_tokenizer([groups["prose"][0].text], 400)
    found = data.domain_tokens(tokenizer, 0, per_domain=3000, cache=tmp_path)
    assert {name: len(part.ids) for name, part in found.items()} == dict.fromkeys(DOMAINS, 3000)
    assert all(part.heldout == 3000 for part in found.values())
