"""Distances between two sets of pictures by their features, and how near a sample lies to what was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating] | NDArray[np.integer]
_ROWS = 512
_TRAIN = 4096


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian fitted to features: ``mean`` [D] and ``root`` [D, D], the symmetric root of the covariance."""

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> Gaussian:
        """Fit it to [N, D]; N may be below D. Raises ValueError for fewer than two rows, or one that is not finite."""
        _require("real", features, 2)
        mean, scattered = _scattered(features)
        # Singular values of the rows are roots of eigenvalues of the covariance: taken here, no root doubles the noise.
        _, values, axes = np.linalg.svd(scattered, full_matrices=False)
        return cls(mean, (axes.T * values) @ axes)

    def distance(self, made: Features) -> float:
        """Squared Frechet distance to a Gaussian fitted to ``made`` [M, D]: what :func:`frechet` gives."""
        _require("made", made, 2)
        _require_width(self.mean.shape[0], made.shape[1])
        mean, scattered = _scattered(made)
        # Their squares are the eigenvalues of the symmetric A^1/2 B A^1/2, which are those of A B.
        between = np.linalg.svd(scattered @ self.root, compute_uv=False).sum()
        spreads = (self.root**2).sum() + (scattered**2).sum()
        return max(0.0, float(((self.mean - mean) ** 2).sum() + spreads - 2 * between))


def frechet(real: Features, made: Features) -> float:
    """Squared Frechet distance between Gaussians fitted to features [N, D] and [M, D] (arXiv:1706.08500, eq. 6).

    It falls with the number of pictures on either side: compare it at equal counts alone.

    Raises:
        ValueError: fewer than two rows, a row that is not finite, or unequal widths.
    """
    return Gaussian.of(real).distance(made)


def _scattered(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D], and rows less the mean [N, D], scaled so that their squares add up to the covariance."""
    wide = np.asarray(features, dtype=np.float64)
    mean = wide.mean(0)
    return mean, (wide - mean) / np.sqrt(len(wide) - 1)


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
        ValueError: a set has no more than ``k`` rows, a row is not finite, or widths differ.
    """
    if k < 1:
        raise ValueError(f"k={k} was given; expected the number of a neighbour, 1 or more, such as 3.")
    _require("real", real, k + 1)
    _require("made", made, k + 1)
    _require_width(real.shape[1], made.shape[1])
    return PrecisionRecall(_within(made, real, _radii(real, k)), _within(real, made, _radii(made, k)))


def _radii(points: Features, k: int) -> NDArray[np.float64]:
    """Squared distance from each point to its k-th nearest other one."""
    # Copied, since a view of one column would keep all the distances.
    found = [np.partition(part, k, axis=1)[:, k].copy() for part in _distances(points, points)]
    return np.concatenate(found)


def _within(points: Features, members: Features, radii: NDArray[np.float64]) -> float:
    inside = sum(int((part <= radii[None]).any(1).sum()) for part in _distances(points, members))
    return inside / len(points)


def nearest(made: Features, train: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number of the nearest row of ``train`` [N, D] for each of ``made`` [M, D], and its distance.

    Both are taken a few rows at a time, so whole pictures as bytes can be given, and the distance of a copy is zero.

    Raises:
        ValueError: ``train`` is empty, a row is not finite, or widths differ.
    """
    _require("made", made, 0)
    _require("training", train, 1)
    _require_width(train.shape[1], made.shape[1])
    numbers, least = np.zeros(len(made), np.int64), np.full(len(made), np.inf)
    for first in range(0, len(train), _TRAIN):
        start = 0
        for part in _distances(made, train[first : first + _TRAIN]):
            here, own = part.argmin(1), slice(start, start + len(part))
            found = part[np.arange(len(part)), here]
            closer = found < least[own]
            numbers[own] = np.where(closer, first + here, numbers[own])
            least[own] = np.where(closer, found, least[own])
            start += len(part)
    exact = [np.zeros(0)]
    for start in range(0, len(made), _ROWS):
        own = slice(start, start + _ROWS)
        exact.append(np.linalg.norm(np.subtract(made[own], train[numbers[own]], dtype=np.float64), axis=1))
    return numbers, np.concatenate(exact)


def copied(made: Features, heldout: Features, train: Features, share: float = 0.05) -> float:
    """Share of ``made`` that lie nearer to a training row than all but ``share`` of the held-out rows do.

    A model that draws as one draws new pictures has about ``share`` of them; one that repeats its training has many.
    A model of plain, typical pictures has some more than ``share`` without copying: look at the pairs as well.

    Raises:
        ValueError: one of the three is empty, a row is not finite, widths differ, or ``share`` is none.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share:g} was given; expected a share of held-out rows between 0 and 1, such as 0.05.")
    _require("made", made, 1)
    _require("held-out", heldout, 1)
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
        apart = (-2 * part) @ wide.T
        apart += (part**2).sum(1)[:, None]
        apart += norms
        yield np.maximum(apart, 0, out=apart)


def _require(what: str, features: Features, least: int) -> None:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"{what} features of shape {list(features.shape)} were given; expected [N, D], N of {least} or more."
        )
    # Bytes are finite as they are; of the rest, one that is not would turn a distance into a perfect zero unnoticed.
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(1).sum())
        raise ValueError(
            f"{bad} of {len(features)} {what} features are not finite: the extractor or its input is broken."
        )


def _require_width(real: int, made: int) -> None:
    if real != made:
        raise ValueError(f"features are {real} and {made} wide; both must come from one extractor.")
