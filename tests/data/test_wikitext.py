from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.data.wikitext import plain


@pytest.mark.parametrize(
    ("markup", "prose"),
    [
        ("'''Bold''' and ''slanted''.", "Bold and slanted."),
        ("A [[link]] and [[Page|its label]].", "A link and its label."),
        ("Out {{cite|x={{inner}}}}there.", "Out there."),
        ("One<ref name=a>note [[x]]</ref> two<ref name=a/> three.", "One two three."),
        ("See [http://example.org the site] now.", "See the site now."),
        ("[[File:A.jpg|thumb|A [[cat]] sits]]Text", "Text"),
        ("Text\n[[Category:Cats]]\n[[de:Katze]]", "Text"),
        ("== Life ==\nBorn.\n=== Youth ===\nPlayed.", "Life\nBorn.\nYouth\nPlayed."),
        ("* one\n** two\n# three", "one\ntwo\nthree"),
        ("Before\n{| class=x\n| a || b\n{|\n| c\n|}\n|}\nAfter", "Before\n\nAfter"),
        ("Fish &amp; chips<br/>here<!-- gone -->", "Fish & chipshere"),
        ("Prose.\n== References ==\n* [[x]]", "Prose."),
    ],
)
def test_markup_becomes_prose(markup: str, prose: str) -> None:
    assert plain(markup) == prose


@given(st.text(st.sampled_from("[]{}|='<>ref/ \nab:&;"), max_size=80))
def test_any_nonsense_ends_and_leaves_no_whole_link_or_template(markup: str) -> None:
    prose = plain(markup)
    assert prose == prose.strip()
    assert "\n\n\n" not in prose
