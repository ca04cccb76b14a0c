"""What is said of a model's pictures: distance from held-out ones, variety, likeness to the class asked for, copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum.images.fidelity import copied, frechet, nearest, precision_recall
from vademecum.images.judge import Extractor, Judge
from vademecum.images.pictures import Pictures

DRAWS = 20
MEANING: Mapping[str, str] = {
    "frechet": "Frechet distance of features from held-out pictures; lower is better",
    "precision": "share of made pictures that lie within the held-out ones",
    "recall": "share of held-out pictures that lie within the made ones",
    "agreement": "share of made pictures that the classifier takes for the class asked for",
    "copied": "share of made pictures nearer to a training picture than 95 % of the held-out ones are",
}


@dataclass(frozen=True)
class Verdict:
    """Numbers of :data:`MEANING` for ``count`` pictures; ``spread`` is the standard error of each over sample draws.

    The spread comes from drawing the made pictures again with replacement (a bootstrap of :data:`DRAWS` draws): what
    other draws from the same model would change. What another training would change is for seeds to tell.
    """

    count: int
    frechet: float
    precision: float
    recall: float
    agreement: float | None
    copied: float
    spread: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Bench:
    """What pictures are judged against: held-out and training features, once computed for all models."""

    pictures: Pictures
    judge: Judge
    extractor: Extractor
    heldout: NDArray[np.float32]
    train: NDArray[np.float32]

    @classmethod
    def of(cls, pictures: Pictures, judge: Judge, extractor: Extractor | None = None) -> Bench:
        """Compute the features; ``extractor`` is the judge itself where None."""
        extractor = extractor or judge
        return cls(pictures, judge, extractor, extractor.features(pictures.heldout), extractor.features(pictures.train))

    def verdict(self, made: NDArray[np.uint8], labels: NDArray[np.int64], seed: int = 0) -> Verdict:
        """Judge ``made`` [N, H, W, C], drawn for ``labels`` [N]."""
        agreed = self.judge.labels(made) == labels
        return self._of(self.extractor.features(made), agreed, seed)

    def floor(self, count: int, seed: int = 0) -> Verdict:
        """The same numbers for real pictures: ``count`` training pictures, their labels their own.

        No model can be expected below. Its share of copies is 1, since they are what they are compared with.
        """
        chosen = np.random.default_rng(seed).permutation(len(self.train))[:count]
        agreed = self.judge.labels(self.pictures.train[chosen]) == self.pictures.train_labels[chosen]
        return self._of(self.train[chosen], agreed, seed)

    def neighbours(self, made: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The training picture nearest to each of ``made``, by pixels."""
        flat = made.reshape(len(made), -1).astype(np.float32)
        numbers, _ = nearest(flat, self.pictures.train.reshape(len(self.train), -1).astype(np.float32))
        return self.pictures.train[numbers]

    def _of(self, features: NDArray[np.float32], agreed: NDArray[np.bool_], seed: int) -> Verdict:
        def numbers(chosen: NDArray[np.int64]) -> tuple[float, float, float, float]:
            part = features[chosen]
            both = precision_recall(self.heldout, part)
            return frechet(self.heldout, part), both.precision, both.recall, float(agreed[chosen].mean())

        every = np.arange(len(features))
        generator = np.random.default_rng(seed)
        draws = np.array([numbers(generator.integers(0, len(every), len(every))) for _ in range(DRAWS)])
        names = ("frechet", "precision", "recall", "agreement")
        found = dict(zip(names, numbers(every), strict=True))
        spread = dict(zip(names, draws.std(0, ddof=1).tolist(), strict=True))
        return Verdict(count=len(features), **found, copied=copied(features, self.heldout, self.train), spread=spread)
