"""Points of the study ``memory``: one arm and seed, trained on facts or on a graph, and what it then knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

import vademecum as vm
from vademecum.analysis.usage import usages
from vademecum.compare import arms
from vademecum.compare.plan import Plan
from vademecum.data import geonames
from vademecum.studies import memory_facts, memory_probe
from vademecum.studies.memory_paths import Star
from vademecum.studies.memory_probe import IGNORED, Batch
from vademecum.training import Recipe
from vademecum.training.evaluate import evaluating

FACTS, PATHS = "facts", "paths"
#: Cities whose facts are drawn from; two facts each.
CITIES = 8000


@dataclass(frozen=True)
class Point:
    """One training of a probe: ``size`` is the number of facts, or of paths."""

    probe: str
    size: int
    arm: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What the probes ask.

    Attributes:
        facts: how many facts are to be known; a point each.
        exposures: how often each is seen.
        vocab_size: of the facts' tokenizer.
        degree: paths of the star.
        length: edges of a path.
        steps: of training on the star.
        rows: rows of a step, in both.
        lr: the host's learning rate, in both.
        size: of the host, as in a plan.
    """

    facts: tuple[int, ...] = (500, 2000)
    exposures: int = 12
    vocab_size: int = 1024
    degree: int = 64
    length: int = 3
    steps: int = 300
    rows: int = 64
    lr: float = 6e-3
    size: int = 2


def every(plan: Plan, probes: Probes) -> list[Point]:
    """All points, the quick ones of all arms before the next size."""
    sizes = [*((FACTS, count) for count in probes.facts), (PATHS, probes.degree)]
    return [
        Point(probe, size, arm.name, seed)
        for probe, size in sizes
        for seed in plan.seeds
        for arm in (*plan.arms, *plan.curve)
    ]


class Bench:
    """What points are measured on; facts are read once."""

    def __init__(self, plan: Plan, probes: Probes) -> None:
        self.plan, self.probes = plan, probes

    @cached_property
    def _facts(self) -> tuple[list[memory_facts.Fact], Any]:
        found = memory_facts.facts(geonames.lands(), geonames.cities(most=CITIES))
        return found, memory_facts.tokenizer_of(found, self.probes.vocab_size)

    def steps(self, point: Point) -> int:
        """Steps that a point takes."""
        if point.probe == PATHS:
            return self.probes.steps
        return -(-point.size * self.probes.exposures // self.probes.rows)

    def measure(self, point: Point, told: Callable[[int], Any]) -> dict[str, Any]:
        """Train a fresh model and ask it."""
        begun = time.perf_counter()
        found = (self._paths if point.probe == PATHS else self._recall)(point, told)
        return {**found, "seconds": time.perf_counter() - begun}

    def _recall(self, point: Point, told: Callable[[int], Any]) -> dict[str, Any]:
        all_facts, tokenizer = self._facts
        some = memory_facts.drawn(all_facts, point.size, point.seed)
        sheet = memory_facts.sheet(some, tokenizer)
        model = self._trained(
            point, self.probes.vocab_size, lambda step: sheet.batch(step, self.probes.rows, point.seed), told
        )
        whole = memory_probe.right(model, sheet.rows).all(1)
        with vm.knocked_out(model):
            without = memory_probe.right(model, sheet.rows).all(1)
        return {
            "recalled": int(whole.sum()),
            "without": int(without.sum()),
            "guessed": memory_facts.guessed(some),
            **_sizes(model),
            "usage": _usage(model, sheet.ids),
        }

    def _paths(self, point: Point, told: Callable[[int], Any]) -> dict[str, Any]:
        star = Star(degree=self.probes.degree, length=self.probes.length, seed=point.seed)
        model = self._trained(point, star.vocab_size, lambda step: star.batch(step, self.probes.rows), told)
        edges = star.clear_edges()
        return {
            "edges": float(memory_probe.right(model, _only(edges, 2)).all(1).mean()),
            "seen": float(memory_probe.right(model, _only(star.paths(star.seen), star.first)).all(1).mean()),
            "held": float(memory_probe.right(model, _only(star.paths(star.held), star.first)).all(1).mean()),
            "chance": 1.0 / star.degree,
            **_sizes(model),
        }

    def _trained(
        self, point: Point, vocabulary: int, batch: Callable[[int], Batch], told: Callable[[int], Any]
    ) -> PreTrainedModel:
        recipe = Recipe(steps=self.steps(point), lr=self.probes.lr, seed=point.seed)
        arm = next(arm for arm in (*self.plan.arms, *self.plan.curve) if arm.name == point.arm)
        plan = Plan(
            data=self.plan.data, arms=(arm,), baseline=arm.name, size=self.probes.size, vocab_size=vocabulary,
            host=self.plan.host, device=self.plan.device, recipe=self.plan.recipe,
        )  # fmt: skip
        model = arms.build(arm, plan, seed=point.seed)
        memory_probe.train(model, recipe, batch, look=lambda _: None, every=recipe.steps, told=told)
        return model


def _only(ids: NDArray[np.int64], place: int) -> Batch:
    """Rows of which the token at ``place`` is asked."""
    labels = np.full_like(ids, IGNORED)
    labels[:, place] = ids[:, place]
    return Batch(ids, labels)


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    return {"params": sum(p.numel() for p in model.parameters()), "memory": vm.memories(model).cost().params}


@torch.no_grad()
def _usage(model: PreTrainedModel, ids: NDArray[np.int64]) -> dict[str, float] | None:
    """Mean over layers of how a table that hidden states look up is used; None where there is none."""
    with evaluating(model), vm.record(model) as rec:
        model(input_ids=torch.from_numpy(ids[: memory_probe.ASKED]).to(model.device), use_cache=False)
    found = list(usages(rec.forwards).values())
    if not found:
        return None
    return {name: sum(getattr(one, name) for one in found) / len(found) for name in ("share", "first", "unevenness")}
