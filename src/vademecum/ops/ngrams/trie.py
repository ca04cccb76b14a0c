"""A trie over reversed sequences, as three tensors: every token of a batch walks it at once, and most stop at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Trie(NamedTuple):
    """Sequences of ids, last id first; node 0 is the root.

    Attributes:
        first: bool ``[V]`` which ids end a sequence.
        edges: int64 ``[E]`` ``node * V + id`` of every edge, ascending.
        nodes: int64 ``[E]`` the node that each edge leads to.
        ends: int64 ``[nodes]`` the sequence that is complete at a node, or -1.
        depth: ids of the longest sequence.
    """

    first: Tensor
    edges: Tensor
    nodes: Tensor
    ends: Tensor
    depth: int

    def to(self, device: torch.device) -> Trie:
        """The same trie on another device."""
        if self.first.device == device:
            return self
        first, edges, nodes, ends = (one.to(device) for one in (self.first, self.edges, self.nodes, self.ends))
        return Trie(first, edges, nodes, ends, self.depth)


def made(patterns: Sequence[Sequence[int]], vocabulary: int) -> Trie:
    """The trie of distinct, non-empty ``patterns`` of ids below ``vocabulary``."""
    children: dict[int, int] = {}
    ends = [-1]
    for number, pattern in enumerate(patterns):
        node = 0
        for one in reversed(pattern):
            edge = node * vocabulary + one
            if edge not in children:
                children[edge] = len(ends)
                ends.append(-1)
            node = children[edge]
        ends[node] = number
    edges = sorted(children)
    first = torch.zeros(vocabulary, dtype=torch.bool)
    first[[pattern[-1] for pattern in patterns]] = True
    nodes = torch.tensor([children[edge] for edge in edges], dtype=torch.long)
    depth = max(map(len, patterns), default=0)
    return Trie(first, torch.tensor(edges, dtype=torch.long), nodes, torch.tensor(ends), depth)


def match(ids: Tensor, trie: Trie, tokens: int) -> tuple[Tensor, Tensor]:
    """``(places, patterns)``, each ``[P]``: the longest pattern that ends at each of the last ``tokens`` tokens.

    Args:
        ids: ``[B, C + tokens]``, the last ``tokens`` of each row asked about, C that came before; a negative id, or
            one past the vocabulary, matches nothing.
        trie: on the device of ``ids``.
        tokens: T.

    Returns:
        Places in ``[B * T]``, ascending, and the number of the pattern that ends there.
    """
    width, before = ids.shape[1], ids.shape[1] - tokens
    vocabulary = len(trie.first)
    known = (ids >= 0) & (ids < vocabulary)
    asked, real = ids[:, before:], known[:, before:]
    places = (trie.first[torch.where(real, asked, 0)] & real).reshape(-1).nonzero().squeeze(1)
    if not len(places):
        return places, places
    best = torch.full_like(places, -1)
    flat, ok = ids.reshape(-1), known.reshape(-1)
    # Of every token that is still under way: which of the places it is, where it stands in the text, and its node.
    under_way = torch.arange(len(places), device=ids.device)
    at = places % tokens + before
    row = torch.div(places, tokens, rounding_mode="floor") * width
    node = torch.zeros_like(places)
    for _ in range(trie.depth):
        if not len(under_way):
            break
        here = row + at
        edge = node * vocabulary + flat[here]
        found = torch.searchsorted(trie.edges, edge).clamp_(max=len(trie.edges) - 1)
        stays = ((trie.edges[found] == edge) & ok[here]).nonzero().squeeze(1)
        under_way, row, at, node = under_way[stays], row[stays], at[stays], trie.nodes[found[stays]]
        complete = trie.ends[node]
        best[under_way] = torch.where(complete >= 0, complete, best[under_way])
        inside = (at > 0).nonzero().squeeze(1)
        under_way, row, at, node = under_way[inside], row[inside], at[inside] - 1, node[inside]
    hit = (best >= 0).nonzero().squeeze(1)
    return places[hit], best[hit]
