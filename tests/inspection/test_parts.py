"""Windows, words and coloured text."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum.data import DomainTokens, corpus
from vademecum.inspection import coloured, drawing, experts, gather
from vademecum.inspection.coloured import Passage
from vademecum.inspection.words import Words

TEXT = "The lamp über dem Fluß 日本語 हिन्दी.\n\n\nEnd" * 3
WORDS = Words(corpus.train_tokenizer([TEXT], 270))


def test_windows_hold_one_domain_each_and_say_what_truly_follows() -> None:
    texts = {
        "a": DomainTokens(ids=np.arange(100, 150), heldout=12),
        "b": DomainTokens(ids=np.arange(200, 211), heldout=11),
    }
    shown = gather.windows(texts, 5)
    assert shown.inputs.shape == (9 + 2, 5)
    assert shown.domain.tolist() == [0] * 9 + [1] * 2
    assert torch.equal(shown.targets, shown.inputs + 1)
    assert shown.counts() == {"a": 45, "b": 10}
    assert shown.heldout == {"a": 12, "b": 10}


def test_thinned_windows_are_spread_over_each_domain_and_know_their_places() -> None:
    texts = {name: DomainTokens(ids=np.arange(start, start + 41), heldout=9) for name, start in (("a", 0), ("b", 100))}
    shown = gather.windows(texts, 4)
    some, places = shown.thinned(8)
    assert some.domain.tolist() == [0, 0, 1, 1]
    assert some.inputs[:, 0].tolist() == [0, 20, 100, 120]
    assert torch.equal(shown.inputs.flatten()[places], some.inputs.flatten())
    assert torch.equal(some.targets, some.inputs + 1)
    assert len(shown.thinned(1)[0].inputs) == 2
    assert torch.equal(shown.thinned(1000)[0].inputs, shown.inputs)


def test_a_domain_that_gives_no_window_says_how_many_tokens_it_takes() -> None:
    with pytest.raises(ValueError, match="the domain a has 5 tokens, and one window of the model takes 6"):
        gather.windows({"a": DomainTokens(ids=np.arange(5), heldout=5)}, 5)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_pieces_put_together_are_the_text(text: str) -> None:
    ids = WORDS.tokenizer.encode(text).ids
    pieces = WORDS.pieces(ids)
    assert "".join(piece for piece, _ in pieces) == text
    assert [i for _, i in pieces] == sorted({i for _, i in pieces})
    assert not ids or pieces[-1][1] == len(ids) - 1


def test_tokens_that_make_one_letter_are_one_piece() -> None:
    plain = Words(corpus.train_tokenizer(["a"], 257))
    ids = plain.tokenizer.encode("aß日").ids
    assert len(ids) == 6
    assert plain.pieces(ids) == [("a", 0), ("ß", 2), ("日", 5)]


def test_a_token_by_itself_shows_its_blanks_and_its_bytes() -> None:
    number = {text: WORDS.tokenizer.encode(text).ids for text in (" ", "\n", "ह")}
    assert WORDS.show(number[" "][0]) == "␣"
    assert WORDS.show(number["\n"][0]) == "↵"
    half = corpus.train_tokenizer(["a"], 257)
    assert Words(half).show(half.encode("ß").ids[0]) == "Ã"


def seen(ids: torch.Tensor, windows: int, domains: int) -> gather.Seen:
    length = len(ids) // windows
    window = torch.arange(windows).repeat_interleave(length)
    domain = window * domains // windows
    return gather.Seen(tuple("abc"[:domains]), ids, ids, ids, domain, window, {}, {})


def test_a_passage_is_a_window_of_its_own_domain_and_held_out_where_there_is_one() -> None:
    given_ = seen(torch.arange(60), windows=12, domains=2)
    for seed in range(20):
        at = coloured.places(given_, {"a": 10, "b": 30}, seed=seed)
        assert at["a"][0] in (0, 5)  # ten tokens are two windows
        assert 30 <= int(at["b"][0]) < 60
        assert all(len(here) == 5 for here in at.values())


def test_each_token_wears_the_colour_of_its_expert_in_the_legend() -> None:
    passages = [Passage("a", [("one", 3, 1.0), (" <two>", 5, 1.0), ("!", 3, 1.0), ("?", -1, 1.0)])]
    html = coloured.html(passages, part="expert", count=8)
    style = dict(re.findall(r'<span class="t" style="([^"]*)">(\d)</span>', html.split("</p>")[0]))
    colour = {number: hue for hue, number in style.items()}
    assert len(set(colour.values())) == 2
    assert f'<span class="t" style="{colour["3"]}" title="expert 3">one</span>' in html
    assert f'<span class="t" style="{colour["5"]}" title="expert 5"> &lt;two&gt;</span>' in html
    assert '<span class="t grey" title="no expert">?</span>' in html
    assert "2 of 8 appear" in html


def test_beyond_so_many_experts_the_rare_ones_are_grey() -> None:
    pieces = [(str(k), k, 1.0) for k in range(coloured.COLOURS + 3) for _ in range(1 + (k < coloured.COLOURS))]
    html = coloured.html([Passage("a", pieces)], part="expert", count=64)
    assert html.count('class="t grey"') == 1 + 3
    assert 'title="expert 18">18' in html


def test_a_slot_is_the_fuller_the_wider_its_gate() -> None:
    passages = [Passage("a", [("x", 0, 0.2), ("y", 0, 1.0), ("z", 0, 1.8)])]
    html = coloured.html(passages, part="slot", count=2, fade=(0.5, 1.5))
    assert [float(a) for a in re.findall(r"--a:([\d.]+)", html)] == [0.12, 0.56, 1.0]
    assert 'title="slot 0, gate 0.20"' in html


def test_of_several_line_ends_one_breaks_the_line_and_all_leave_a_sign() -> None:
    passages = [Passage("a", [("x\n", 0, 1.0), ("\n\n", 0, 1.0), ("  y\n", 0, 1.0)])]
    text = re.sub(r"<[^>]+>", "", coloured.html(passages, part="slot", count=1).split("</p>")[1])
    assert text == "ax↵\n↵↵  y↵\n"


def test_layers_that_are_drawn_run_from_the_first_to_the_last() -> None:
    assert drawing.shown(list(range(40))) == [0, 13, 26, 39]
    assert drawing.shown([1, 2, 3]) == [1, 2, 3]
    assert [drawing.called(key) for key in ("moe.layers.3", "moe_2.layers.0", "host.layers.11")] == [
        *("layer 3", "layer 0 (moe_2)", "layer 11 (host)"),
    ]


def test_the_typical_tokens_of_an_expert_are_those_it_takes_the_largest_share_of() -> None:
    found = experts.Vocabulary(
        average=0.8,
        ids=torch.tensor([4, 7, 9]),
        counts=torch.tensor([10, 30, 20]),
        shares=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.4, 0.6]]),
    )
    lists = experts.typical(found, 2, top=2)
    assert [(one.id, one.count) for one in lists[0]] == [(7, 30), (4, 10)]
    assert [(one.id, round(one.share, 3)) for one in lists[1]] == [(9, 0.6)]
    assert experts.typical(None, 2) == [[], []]
