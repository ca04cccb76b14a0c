"""Exact sequences of ids: the trie finds what the specification finds, whatever came before."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum.ops import ngrams
from vademecum.ops.ngrams import naive

ids = st.integers(0, 3)
patterns = st.lists(st.lists(ids, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8, unique=True)


@given(
    wanted=patterns,
    texts=st.integers(1, 9).flatmap(
        lambda length: st.lists(st.lists(st.integers(-1, 4), min_size=length, max_size=length), min_size=1, max_size=3)
    ),
    data=st.data(),
)
def test_the_trie_finds_what_the_specification_finds(
    wanted: list[tuple[int, ...]], texts: list[list[int]], data: st.DataObject
) -> None:
    tokens = data.draw(st.integers(1, len(texts[0])))
    places, numbers = ngrams.match(torch.tensor(texts), ngrams.made(wanted, 4), tokens)
    assert list(zip(places.tolist(), numbers.tolist(), strict=True)) == naive.match(texts, wanted, tokens)


def test_the_longest_sequence_wins_and_reaches_back_before_the_tokens_asked_about() -> None:
    trie = ngrams.made([(2,), (1, 2), (3, 1, 2)], 5)
    assert [one.tolist() for one in ngrams.match(torch.tensor([[3, 1, 2]]), trie, 1)] == [[0], [2]]
    assert [one.tolist() for one in ngrams.match(torch.tensor([[4, 1, 2]]), trie, 1)] == [[0], [1]]
    assert [one.tolist() for one in ngrams.match(torch.tensor([[2]]), trie, 1)] == [[0], [0]]


def test_no_token_is_asked_about() -> None:
    places, numbers = ngrams.match(torch.zeros(2, 0, dtype=torch.long), ngrams.made([(1,)], 3), 0)
    assert places.tolist() == numbers.tolist() == []
