"""Distances between two sets of pictures by their features, and how near a sample lies to what was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
_ROWS = 512


def frechet(real: Features, made: Features) -> float:
    """Squared Frechet distance between Gaussians fitted to features [N, D] and [M, D] (arXiv:1706.08500, eq. 6).

    It falls with the number of pictures on either side: compare it at equal counts alone.

    Raises:
        ValueError: fewer than two rows, or unequal widths.
    """
    _require(real, made, 2)
    (mean_a, cov_a), (mean_b, cov_b) = _moments(real), _moments(made)
    # tr (A B)^1/2 through the symmetric A^1/2 B A^1/2, which has the same eigenvalues and no complex ones.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    between = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    apart = float(((mean_a - mean_b) ** 2).sum())
    return max(0.0, apart + float(np.trace(cov_a) + np.trace(cov_b) - 2 * between))


def _moments(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = np.asarray(features, dtype=np.float64)
    return wide.mean(0), np.cov(wide, rowvar=False).reshape(wide.shape[1], wide.shape[1])


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: share of made pictures that lie within the real ones; recall: share of real ones within the made."""

    precision: float
    recall: float


def precision_recall(real: Features, made: Features, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (arXiv:1904.06991, eq. 1 and 2).

    A point lies within a set where it is no further from one of its members than that member's ``k``-th nearest other
    member.

    Raises:
        ValueError: a set has no more than ``k`` rows, or widths differ.
    """
    _require(real, made, k + 1)
    return PrecisionRecall(_within(made, real, _radii(real, k)), _within(real, made, _radii(made, k)))


def _radii(points: Features, k: int) -> NDArray[np.float64]:
    """Squared distance from each point to its k-th nearest other one."""
    found = [np.partition(part, k, axis=1)[:, k] for part in _distances(points, points)]
    return np.concatenate(found)


def _within(points: Features, members: Features, radii: NDArray[np.float64]) -> float:
    inside = sum(int((part <= radii[None]).any(1).sum()) for part in _distances(points, members))
    return inside / len(points)


def nearest(made: Features, train: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number of the nearest row of ``train`` for each of ``made``, and the distance to it."""
    _require(train, made, 1)
    numbers, distances = [np.zeros(0, np.int64)], [np.zeros(0)]
    for part in _distances(made, train):
        first = part.argmin(1)
        numbers.append(first)
        distances.append(np.sqrt(part[np.arange(len(part)), first]))
    return np.concatenate(numbers), np.concatenate(distances)


def copied(made: Features, heldout: Features, train: Features, share: float = 0.05) -> float:
    """Share of ``made`` that lie nearer to a training row than all but ``share`` of the held-out rows do.

    A model that draws as one draws new pictures has about ``share`` of them; one that repeats its training has many.
    """
    limit = np.quantile(nearest(heldout, train)[1], share)
    return float((nearest(made, train)[1] < limit).mean())


def _distances(points: Features, others: Features) -> Iterator[NDArray[np.float64]]:
    """Squared distances [rows, len(others)], some rows of ``points`` at a time, so that they need little memory."""
    wide = np.asarray(others, dtype=np.float64)
    # Around the mean, so that the squares do not swallow small differences.
    centre = wide.mean(0)
    wide = wide - centre
    norms = (wide**2).sum(1)
    for start in range(0, len(points), _ROWS):
        part = np.asarray(points[start : start + _ROWS], dtype=np.float64) - centre
        yield np.clip((part**2).sum(1)[:, None] + norms - 2 * part @ wide.T, 0, None)


def _require(real: Features, made: Features, least: int) -> None:
    for what, features in (("real", real), ("made", made)):
        if features.ndim != 2 or len(features) < (least if what == "real" or least > 1 else 0):
            raise ValueError(
                f"{what} features of shape {list(features.shape)} were given; expected [N, D], N of {least} or more."
            )
    if real.shape[1] != made.shape[1]:
        raise ValueError(f"features are {real.shape[1]} and {made.shape[1]} wide; both must come from one extractor.")
