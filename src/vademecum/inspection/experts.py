"""What the experts learned: every number of the page, computed from what the model reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vademecum.analysis import specialisation as spec
from vademecum.analysis.specialisation import Information, Repetition, Vocabulary
from vademecum.inspection.gather import Seen

IDS = ("input id", "true next id", "predicted next id")


@dataclass(frozen=True)
class Layer:
    """One layer's experts.

    Attributes:
        key: the record's, such as "moe.layers.3".
        count: experts E.
        kept: experts a token uses on average (k, less what was dropped).
        dropped: share of the K places of a token that hold no expert.
        domains: ``[E, D]`` domain specialisation.
        vocabulary: by name of the id, vocabulary specialisation; None where no id occurs often enough.
        chance: the same after a shuffle.
        coactivation: ``[E, E]``.
        domain: mutual information of first expert and domain; ``token``: and input id; ``beyond``: and domain where
            the input id is known.
        repetition: of the first expert in consecutive tokens.
        first: ``[N]`` first expert of each token.
    """

    key: str
    count: int
    kept: float
    dropped: float
    domains: Tensor
    vocabulary: Mapping[str, Vocabulary | None]
    chance: Mapping[str, float | None]
    coactivation: Tensor
    domain: Information | None
    token: Information | None
    beyond: Information | None
    repetition: Repetition
    first: Tensor

    @property
    def even(self) -> float:
        """Share of a domain's tokens that use an expert where routing is even: k / E."""
        return self.kept / self.count

    @property
    def even_pair(self) -> float:
        """Co-activation where routing is even: (k - 1) / (E - 1)."""
        return max(self.kept - 1, 0.0) / max(self.count - 1, 1)


@dataclass(frozen=True)
class Findings:
    """All layers, and router saturation by step of an earlier checkpoint and layer key (empty with one checkpoint).

    ``saturation_tokens`` is over how many tokens that is, ``skipped`` are the steps of damaged checkpoints.
    """

    seen: Seen
    layers: Sequence[Layer]
    saturation: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    saturation_tokens: int = 0
    final_step: int | None = None
    skipped: Sequence[int] = ()


def layers_of(seen: Seen, *, seed: int) -> list[Layer]:
    """Findings of every layer that routes; ``seed`` decides the shuffles."""
    return [_layer(seen, key, experts, seed) for key, experts in seen.having("experts").items()]


def _layer(seen: Seen, key: str, experts: Tensor, seed: int) -> Layer:
    count, first = seen.experts[key], spec.first_expert(experts)
    labels = dict(zip(IDS, (seen.ids, seen.following, seen.predicted), strict=True))
    return Layer(
        key=key,
        count=count,
        kept=float((experts >= 0).sum(1).double().mean()),
        dropped=float((experts < 0).double().mean()),
        domains=spec.domain_specialisation(experts, seen.domain, count=count, kinds=len(seen.domains)),
        vocabulary={name: spec.vocabulary_specialisation(first, ids, count=count) for name, ids in labels.items()},
        chance={name: spec.shuffled_vocabulary(first, ids, count=count, seed=seed) for name, ids in labels.items()},
        coactivation=spec.coactivation(experts, count=count),
        domain=spec.information(first, seen.domain, seed=seed),
        token=spec.information(first, seen.ids, seed=seed),
        beyond=spec.information(first, seen.domain, given=seen.ids, seed=seed),
        repetition=spec.repetition(first, seen.window),
        first=first,
    )


def saturation(seen: Seen, final: Seen, places: Tensor) -> dict[str, float]:
    """By layer key, router saturation of a checkpoint's pass over the tokens at ``places`` of the last one's pass."""
    last = final.having("experts")
    return {key: spec.saturation(now, last[key][places]) for key, now in seen.having("experts").items()}


@dataclass(frozen=True)
class Typical:
    """An id, the share of its occurrences that an expert takes first, and how often it occurs."""

    id: int
    share: float
    count: int


def typical(found: Vocabulary | None, count: int, top: int = 10) -> list[list[Typical]]:
    """For each expert the ids it takes the largest share of, largest first, more frequent ones first among equals."""
    if found is None:
        return [[] for _ in range(count)]
    by_count = torch.argsort(found.counts, descending=True, stable=True)
    lists = []
    for expert in range(count):
        order = by_count[torch.argsort(found.shares[by_count, expert], descending=True, stable=True)][:top]
        lists.append(
            [
                Typical(int(found.ids[i]), float(found.shares[i, expert]), int(found.counts[i]))
                for i in order.tolist()
                if found.shares[i, expert] > 0
            ]
        )
    return lists
