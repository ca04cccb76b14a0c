"""What is said of a model's pictures: distance from held-out ones, variety, likeness to the class asked for, copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vademecum.images import judge as judging
from vademecum.images.fidelity import Gaussian, nearest, precision_recall
from vademecum.images.judge import Extractor, Judge
from vademecum.images.pictures import Pictures

DRAWS = 100
NEIGHBOURS = 3
COPIES = 0.05
_DRAWN = 1000
_ALONE = 5  # pictures; smaller classes are drawn again together, as one picture has no spread of its own
MEANING: Mapping[str, str] = {
    "frechet": "Frechet distance of features from held-out pictures; lower is better",
    "precision": "share of made pictures that lie within the held-out ones",
    "recall": "share of held-out pictures that lie within the made ones",
    "agreement": "share of made pictures that the classifier takes for the class asked for",
    "copied": "share of made pictures nearer, by pixels, to a training picture than 95 % of the held-out ones are",
    "apart": "middle distance to the nearest training picture, root mean square over pixels in levels of 255",
}


@dataclass(frozen=True)
class Verdict:
    """Numbers of :data:`MEANING` for ``count`` pictures; ``spread`` is the standard error of each over sample draws.

    The spread comes from drawing the made pictures again with replacement, within the classes asked for, since those
    are no chance (a bootstrap of :data:`DRAWS` draws; of shares of pictures it has a closed form; of more than 1,000
    pictures, draws of 1,000 are scaled by the root of the counts' ratio): what other draws from the same model would
    change. Against independent draws of 500 pictures it was right to a third, but for recall near the floor, where it
    is half as wide again, since draws hold copies. What another training would change is for seeds to tell. ``apart``
    has none.
    """

    count: int
    frechet: float
    precision: float
    recall: float
    agreement: float | None
    copied: float
    apart: float
    spread: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Bench:
    """What pictures are judged against, once computed for all models.

    ``heldout`` [M, D] are features, and ``gaussian`` is fitted to them. ``kept`` [M] is the distance by pixels that
    each held-out picture keeps from training ones, ``limit`` what all but 5 % of them keep. Copies are looked for by
    pixels, not by features: the noise of a codec moves a copy further in features than another picture of the same
    animal is, and by pixels hardly at all. A copy that was moved by a pixel or two is not found.
    """

    pictures: Pictures
    judge: Judge
    extractor: Extractor
    heldout: NDArray[np.float32]
    gaussian: Gaussian
    kept: NDArray[np.float64]
    limit: float
    _floors: dict[tuple[int, int], Verdict] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        pictures: Pictures,
        judge: Judge,
        extractor: Extractor | None = None,
        through: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> Bench:
        """Compute them; ``extractor`` is the judge itself where None.

        ``through`` is the way of pictures through a codec and back, whose blur all made pictures have: held-out ones
        take it too before it is asked how near they are to training pictures.

        Raises:
            ValueError: the pictures cannot be judged (:func:`require`).
        """
        require(pictures)
        extractor = extractor or judge
        heldout = extractor.features(pictures.heldout)
        alike = pictures.heldout if through is None else through(pictures.heldout)
        _, kept = nearest(_flat(alike), _flat(pictures.train))
        limit = float(np.quantile(kept, COPIES))
        return cls(pictures, judge, extractor, heldout, Gaussian.of(heldout), kept, limit)

    def verdict(self, made: NDArray[np.uint8], labels: NDArray[np.int64], seed: int = 0) -> Verdict:
        """Judge ``made`` [N, H, W, C], drawn for ``labels`` [N].

        Raises:
            ValueError: pictures of another shape than the held-out ones, another count of labels, or too few of them.
        """
        if made.ndim != 4 or made.shape[1:] != self.pictures.heldout.shape[1:] or len(made) <= NEIGHBOURS:
            raise ValueError(
                f"made pictures of shape {list(made.shape)} were given; expected [N, "
                f"{', '.join(str(size) for size in self.pictures.heldout.shape[1:])}], N of {NEIGHBOURS + 1} or more."
            )
        if labels.shape != (len(made),):
            raise ValueError(
                f"labels of shape {list(labels.shape)} were given for {len(made)} pictures: give the class of each."
            )
        _, apart = nearest(_flat(made), _flat(self.pictures.train))
        return self._of(self.extractor.features(made), self.judge.labels(made) == labels, apart, _strata(labels), seed)

    def floor(self, count: int, seed: int = 0) -> Verdict:
        """The same numbers for real pictures, which no model can be expected to better.

        Distance, precision and recall are of ``count`` training pictures (all, where there are fewer: compare at equal
        counts alone). The judge knows those by heart and they are no new pictures, so agreement, copies and ``apart``
        are of the held-out ones; their share of copies is 5 % by its definition.
        """
        if count <= NEIGHBOURS:
            raise ValueError(f"count={count} was given; expected {NEIGHBOURS + 1} or more, as many as are made.")
        if (count, seed) not in self._floors:
            train = self.pictures.train[np.random.default_rng(seed).permutation(len(self.pictures.train))[:count]]
            agreed = self.judge.labels(self.pictures.heldout) == self.pictures.heldout_labels
            self._floors[count, seed] = self._of(self.extractor.features(train), agreed, self.kept, None, seed)
        return self._floors[count, seed]

    def neighbours(self, made: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The training picture nearest to each of ``made``, by pixels."""
        numbers, _ = nearest(_flat(made), _flat(self.pictures.train))
        return self.pictures.train[numbers]

    def _of(
        self,
        features: NDArray[np.float32],
        agreed: NDArray[np.bool_],
        apart: NDArray[np.float64],
        strata: NDArray[np.int64] | None,
        seed: int,
    ) -> Verdict:
        def numbers(part: NDArray[np.float32]) -> dict[str, float]:
            both = precision_recall(self.heldout, part, NEIGHBOURS)
            return {"frechet": self.gaussian.distance(part), "precision": both.precision, "recall": both.recall}

        count, generator = len(features), np.random.default_rng(seed)
        drawn = min(count, _DRAWN)
        within = np.zeros(count, np.int64) if strata is None else strata
        draws = [numbers(features[_again(within, drawn, generator)]) for _ in range(DRAWS)]
        copies = apart < self.limit
        shares = {"agreement": agreed, "copied": copies}
        return Verdict(
            count=count,
            **numbers(features),
            agreement=float(agreed.mean()),
            copied=float(copies.mean()),
            apart=float(np.median(apart)) / float(np.sqrt(self.pictures.heldout[0].size)),
            spread={
                name: float(np.std([draw[name] for draw in draws], ddof=1) * np.sqrt(drawn / count))
                for name in draws[0]
            }
            | {name: _error(each, strata) for name, each in shares.items()},
        )


def require(pictures: Pictures) -> None:
    """Refuse pictures that no bench can be made of, before anything is trained on them.

    Raises:
        ValueError: they are too small for a judge, or too few are held out.
    """
    judging.require_side(pictures.side)
    if len(pictures.heldout) <= NEIGHBOURS:
        raise ValueError(
            f"{pictures.name} holds out {len(pictures.heldout)} pictures, and {NEIGHBOURS + 1} are needed to judge "
            "others by: give more pictures (of each class 5 % are held out, at least 1)."
        )


def _strata(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is drawn again within itself, [N]: the class, or -1 for all classes of few pictures together."""
    _, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.where(counts[own] < _ALONE, -1, labels)


def _again(strata: NDArray[np.int64], drawn: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of ``drawn`` pictures, with replacement, from each stratum as many as its share."""
    ordered = np.argsort(strata, kind="stable")
    _, starts, own, counts = np.unique(strata[ordered], return_index=True, return_inverse=True, return_counts=True)
    chosen = own[np.arange(drawn) * len(strata) // drawn]
    return ordered[starts[chosen] + (generator.random(drawn) * counts[chosen]).astype(np.int64)]


def _error(each: NDArray[np.bool_], strata: NDArray[np.int64] | None) -> float:
    """Standard error of a share, its pictures drawn within strata."""
    groups = [each] if strata is None else [each[strata == stratum] for stratum in np.unique(strata)]
    return float(np.sqrt(sum(len(group) * group.var() for group in groups)) / len(each))


def _flat(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images.reshape(len(images), -1)
