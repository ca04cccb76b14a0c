"""The path-star task: a graph that lies in the weights, and what follows from its edges without being among them.

Paper: arXiv:2510.26745. From a root go d disjoint paths of l edges. A model learns every edge in both directions, and
for three leaves of four the whole path from the root to the leaf. Asked for the path to a leaf it never saw a path of,
the first step is the hard one: edges looked up one after another lead from the root to all d paths alike (chance 1/d),
and only what places a leaf near its own path, a geometry, tells them apart. All later steps are single edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vademecum.studies.memory_probe import IGNORED, Batch

Ids = NDArray[np.int64]

#: Tokens that are no nodes: an edge away from the root follows, one towards it, a path, and time to think.
FORWARD, BACKWARD, PATH, PAUSE = range(4)
SPECIAL = 4
#: Of the leaves: those whose path is kept from the model.
HELD = 0.25


@dataclass(frozen=True, kw_only=True)
class Star:
    """A path-star graph as token ids; nodes are numbered at random, so that a number says nothing.

    Attributes:
        degree: d, paths.
        length: l, edges of a path, so that there are d * l nodes and the root.
        seed: of the numbering and of the leaves that are held out.
        pauses: tokens between the leaf and the path.
    """

    degree: int
    length: int
    seed: int
    pauses: int = 2

    def __post_init__(self) -> None:
        if self.degree < 4 or self.length < 2 or self.pauses < 0:
            raise ValueError(
                f"degree={self.degree}, length={self.length}, pauses={self.pauses} were given; expected 4 paths or "
                f"more (one of four is held out), of 2 edges or more, and 0 pauses or more."
            )

    @property
    def vocab_size(self) -> int:
        """Nodes and what is no node."""
        return SPECIAL + self.degree * self.length + 1

    @property
    def width(self) -> int:
        """Tokens of a row: PATH, leaf, pauses, root, and the l nodes of its path."""
        return 3 + self.pauses + self.length

    @property
    def _numbers(self) -> Ids:
        numbers: Ids = SPECIAL + np.random.default_rng([self.seed, 0]).permutation(self.degree * self.length + 1)
        return numbers

    @property
    def root(self) -> int:
        """The root's id."""
        return int(self._numbers[0])

    @property
    def nodes(self) -> Ids:
        """``[d, l]`` ids of the paths' nodes, from the first after the root to the leaf."""
        return self._numbers[1:].reshape(self.degree, self.length)

    @property
    def held(self) -> Ids:
        """Numbers of the paths that are never seen as paths: a quarter of them, rounded, at least one."""
        count = max(1, round(HELD * self.degree))
        return np.sort(np.random.default_rng([self.seed, 1]).permutation(self.degree)[:count])

    @property
    def seen(self) -> Ids:
        """Numbers of the other paths."""
        return np.setdiff1d(np.arange(self.degree), self.held)

    def edges(self) -> Ids:
        """``[2 d l, 3]``: FORWARD, a node, the next one outwards; and BACKWARD, a node, the next one inwards."""
        whole = np.concatenate([np.full((self.degree, 1), self.root), self.nodes], 1)
        pairs = np.stack([whole[:, :-1].ravel(), whole[:, 1:].ravel()], 1)
        ahead, back = np.full((len(pairs), 1), FORWARD), np.full((len(pairs), 1), BACKWARD)
        return np.concatenate([np.hstack([ahead, pairs]), np.hstack([back, pairs[:, ::-1]])])

    def clear_edges(self) -> Ids:
        """Edges with one right answer: all but those from the root outwards."""
        every = self.edges()
        clear: Ids = every[~((every[:, 0] == FORWARD) & (every[:, 1] == self.root))]
        return clear

    def paths(self, which: Ids) -> Ids:
        """``[n, width]``: PATH, leaf, pauses, root, and the path to the leaf."""
        nodes = self.nodes[which]
        parts = [np.full((len(which), 1), PATH), nodes[:, -1:], np.full((len(which), self.pauses), PAUSE)]
        return np.concatenate([*parts, np.full((len(which), 1), self.root), nodes], 1)

    @property
    def first(self) -> int:
        """Place of the first step in a row of :meth:`paths`."""
        return 3 + self.pauses

    def batch(self, step: int, rows: int) -> Batch:
        """Training rows of one step: half of them paths, half several edges each, drawn by seed and step.

        The root and the path are learned, and the end of every edge.
        """
        draw = np.random.default_rng([self.seed, 2, step])
        half = max(1, rows // 2)
        walks = self.paths(draw.choice(self.seen, half))
        each = self.width // 3
        every = self.edges()
        some = every[draw.integers(len(every), size=(max(1, rows - half), each))]
        lines = np.full((len(some), self.width), PAUSE)
        lines[:, : 3 * each] = some.reshape(len(some), -1)
        ids = np.concatenate([walks, lines])
        labels = np.full_like(ids, IGNORED)
        labels[:half, self.first - 1 :] = walks[:, self.first - 1 :]
        labels[half:, 2 : 3 * each : 3] = lines[:, 2 : 3 * each : 3]
        return Batch(ids, labels)
