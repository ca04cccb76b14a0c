"""The 77 lattice vectors among which the 32 nearest points to any place are found, once it is folded.

Permutations of coordinates and even numbers of sign changes leave the lattice as it is. They fold a place that is
nearest to the origin into ``a_1 >= ... >= a_7 >= |a_8|``; together with the two faces of the origin's cell that are
left there, ``a_1 + a_2 <= 2`` and ``sum a_i <= 4``, this is a polytope of 21 corners. :func:`derive` finds the vectors
from it; what it finds is written down here, since finding takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Points that a query reads.
NEAREST = 32

_HALF_OF_SHELL = """
++++++++ ++++++-- +++++-+- +++++--+ ++++-++- ++++-+-+ ++++--++ ++++---- +++-+++- +++-++-+ +++-+-++ +++-+--- +++--+++
+++--+-- +++---+- +++----+ ++-++++- ++-+++-+ ++-++-++ ++-++--- ++-+-+++ ++--++++ +-+++++- +-++++-+ +-+++-++ +-+++---
+-++-+++ +-+-++++ +--+++++ -++++++- -+++++-+ -++++-++
"""
_PAIRS = """
12 13 14 15 16 17 18 1-8 1-7 1-6 1-5 1-4 1-3 1-2 23 24 25 26 27 28 2-8 34 35 36 37 38 3-8 45 46 47 4-8 56 57 67
"""
_FAR = (
    (4, 0, 0, 0, 0, 0, 0, 0),
    (3, 1, 1, 1, 1, 1, 1, -1),
    (3, 1, 1, 1, 1, 1, -1, 1),
    (3, 1, 1, 1, 1, -1, 1, 1),
    (2, 2, 2, 2, 0, 0, 0, 0),
    (2, 2, 2, 0, 2, 0, 0, 0),
    (2, 2, 2, 0, 0, 2, 0, 0),
    (2, 2, 0, 2, 2, 0, 0, 0),
    (1, 3, 1, 1, 1, 1, 1, -1),
    (1, 1, 3, 1, 1, 1, 1, -1),
)


@cache
def offsets() -> NDArray[np.int64]:
    """``[77, 8]``: the origin, 66 of the 240 shortest vectors, and 10 of the 2,160 next ones."""
    rows: list[tuple[int, ...]] = [(0,) * 8]
    for pair in _PAIRS.split():
        row = [0] * 8
        row[int(pair[0]) - 1] = 2
        row[int(pair[-1]) - 1] = -2 if "-" in pair else 2
        rows.append(tuple(row))
    rows += [tuple(1 if sign == "+" else -1 for sign in signs) for signs in _HALF_OF_SHELL.split()]
    return np.array([*rows, *_FAR], dtype=np.int64)


@cache
def short_vectors() -> NDArray[np.int64]:
    """``[2401, 8]``: all lattice vectors of squared length 0, 8 and 16.

    A point within reach (sqrt 8) of a place lies within sqrt 8 + 2 of the point nearest to it, so that the difference
    of the two is one of these.
    """
    even, odd = (-4, -2, 0, 2, 4), (-3, -1, 1, 3)
    return np.array([v for values in (even, odd) for v in _vectors((), values) if sum(v) % 4 == 0], dtype=np.int64)


def _vectors(begun: tuple[int, ...], values: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if sum(x * x for x in begun) > 16:
        return
    if len(begun) == 8:
        yield begun
        return
    for x in values:
        yield from _vectors((*begun, x), values)


def corners() -> NDArray[np.float64]:
    """``[21, 8]``: the corners of the polytope that holds every folded place."""
    faces = [np.eye(8)[i + 1] - np.eye(8)[i] for i in range(7)] + [-np.eye(8)[6] - np.eye(8)[7]]
    faces += [np.eye(8)[0] + np.eye(8)[1], np.ones(8)]
    normals, bounds = np.array(faces), np.array([0.0] * 8 + [2.0, 4.0])
    found = set()
    for some in map(list, combinations(range(len(faces)), 8)):
        if abs(np.linalg.det(normals[some])) > 1e-9:
            corner = np.linalg.solve(normals[some], bounds[some])
            if (normals @ corner <= bounds + 1e-9).all():
                found.add(tuple(np.round(corner, 12) + 0.0))
    return np.array(sorted(found))


def derive(places: int = 1_200_000, seed: int = 0) -> NDArray[np.int64]:
    """Find the vectors anew, from the polytope alone.

    A vector that has 32 others at least as near at all corners has them everywhere, distances being compared by linear
    functions: this leaves 97, and that is a proof. Of these, 77 are strictly among the 32 nearest of one of ``places``
    random places, drawn near faces and corners as well as inside; that the other 20 never are was found and not proved.
    """
    vectors, ends = short_vectors(), corners()
    lengths = (vectors**2).sum(1)
    at_ends = lengths[:, None] - 2 * vectors @ ends.T
    nearer = np.array([(at_ends <= one + 1e-9).all(1).sum() - 1 for one in at_ends])
    vectors, lengths = vectors[nearer < NEAREST], lengths[nearer < NEAREST]
    random, ever, piece = np.random.default_rng(seed), np.zeros(len(vectors), bool), 20_000
    for number in range(-(-places // piece)):
        spread = (0.1, 0.3, 1.0, 3.0)[number % 4]
        drawn: Any = random.dirichlet(np.full(len(ends), spread), size=piece) @ ends
        far = lengths - 2 * drawn @ vectors.T
        next_one = np.partition(far, NEAREST, axis=1)[:, NEAREST, None]
        ever |= (far < next_one - 1e-7).any(0)
    return vectors[ever]
