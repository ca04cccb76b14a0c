"""Which tokens come when: training windows as a pure function of (seed, step), and fixed held-out windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
_Words = NDArray[np.uint64]
_ROUNDS = 6


def batch(tokens: NDArray[Any], *, seed: int, step: int, batch: int, length: int) -> Ids:
    """Cut the training windows of one step: [batch, length + 1] token ids (inputs and targets overlap by one).

    Nothing is kept between calls: the same arguments give the same windows. An epoch cuts the text into windows of
    ``length`` and visits each once, in an order and from an offset of its own. Costs time and memory of one batch.

    Raises:
        ValueError: the text is shorter than one window, or an argument is out of range.
    """
    if batch < 1 or length < 1 or step < 0:
        raise ValueError(f"batch and length must be at least 1 and step at least 0, got {batch}, {length} and {step}.")
    count = windows(len(tokens), length)
    index = np.arange(batch, dtype=np.int64) + step * batch
    epoch, position = index // count, index % count
    key = _scramble(_scramble(_words(seed)) + epoch.astype(np.uint64))
    slack = min(length, len(tokens) - count * length)  # offsets that still leave room for every window
    offset = (_scramble(key ^ _words(0x0FF5E7)) % _words(slack)).astype(np.int64)
    start = offset + length * permuted(position, count, key)
    return np.asarray(tokens[start[:, None] + np.arange(length + 1)], dtype=np.int64)


def rows(count: int, *, seed: int, step: int, batch: int) -> Ids:
    """Which of ``count`` whole examples come in one step: [batch] numbers below ``count``, each once an epoch.

    Like :func:`batch`, a function of its arguments alone.
    """
    if batch < 1 or count < 1 or step < 0:
        raise ValueError(f"count and batch must be at least 1 and step at least 0, got {count}, {batch} and {step}.")
    index = np.arange(batch, dtype=np.int64) + step * batch
    return permuted(index % count, count, _scramble(_scramble(_words(seed)) + (index // count).astype(np.uint64)))


def chances(*, seed: int, step: int, batch: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each example of a step: [batch], a function of the arguments alone."""
    index = np.arange(batch, dtype=np.uint64) + _words(step * batch)
    words = _scramble(_scramble(_words(seed) ^ _words(0xC1A55)) + index)
    return (words >> _words(11)).astype(np.float64) * 2.0**-53


def windows(tokens: int, length: int) -> int:
    """Count the training windows of an epoch over so many tokens. Raises ValueError where there is not one."""
    if tokens < length + 1:
        raise ValueError(
            f"The text has {tokens} tokens, and one window of length {length} needs {length + 1}: "
            f"give more text or a smaller length."
        )
    return max(1, (tokens - length) // length)


def heldout_windows(tokens: NDArray[Any], length: int, limit: int | None = None) -> Ids:
    """Cut held-out text into windows [n, length + 1] whose targets (all but the first id) never overlap.

    Every token after the first is a target once; a tail shorter than ``length`` is left out. ``limit`` keeps so many
    windows, spread evenly over the text, always the same ones.
    """
    if length < 1 or (limit is not None and limit < 1):
        raise ValueError(f"length and limit must be at least 1, got {length} and {limit}.")
    if len(tokens) < length + 1:
        raise ValueError(
            f"The held-out text has {len(tokens)} tokens, and one window of length {length} needs {length + 1}: "
            f"give more text or a smaller length."
        )
    count = (len(tokens) - 1) // length
    chosen = np.arange(count) if limit is None or limit >= count else np.arange(limit) * count // limit
    return np.asarray(tokens[chosen[:, None] * length + np.arange(length + 1)], dtype=np.int64)


def permuted(position: Ids, count: int, key: _Words) -> Ids:
    """Map positions 0 <= p < count one to one onto 0 <= q < count, by the permutation that each ``key`` picks.

    A Feistel network permutes the next power of four; values that fall outside walk on until they fall inside, which
    keeps the map one to one. Over few values such a network favours some of them by a few percent, so the result is
    rotated by a keyed amount. ``position`` and ``key`` are arrays of one shape.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask, shift = _words((1 << half) - 1), _words(half)
    value = position.astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right, keys = value[outside] >> shift, value[outside] & mask, key[outside]
        for number in range(_ROUNDS):
            left, right = right, left ^ (_scramble(right + _scramble(keys + _words(number))) & mask)
        value[outside] = (left << shift) | right
        outside = value >= count
    return ((value + _scramble(key ^ _words(0x707A7E)) % _words(count)) % _words(count)).astype(np.int64)


def _words(number: int) -> _Words:
    return np.asarray([number % 2**64], dtype=np.uint64)


def _scramble(words: _Words) -> _Words:
    """Mix all bits of each 64-bit word (the finaliser of the splitmix64 generator)."""
    words = words + _words(0x9E3779B97F4A7C15)
    words = (words ^ (words >> _words(30))) * _words(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> _words(27))) * _words(0x94D049BB133111EB)
    return words ^ (words >> _words(31))
