"""A made-up comparison: what results.json would hold after a real one, without training anything."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from vademecum.compare import results as results_of

ARMS = {
    "dense": (0.0, 1.0, None),
    "moe": (-0.004, 0.72, None),
    "move": (-0.035, 0.96, 8),
    "move+moe": (-0.041, 0.69, None),
    "move-2": (-0.030, 0.98, 2),
}
LAYERS = 3


def made_up_run(data: str, arm: str, seed: int) -> dict[str, Any]:
    effect, speed, _ = ARMS[arm]
    noise = random.Random(f"{arm}{seed}").gauss(0, 0.006)
    seconds = 60 / speed
    curve = [
        {
            "step": step,
            "tokens": step * 1024,
            "seconds": seconds * step / 500,
            "bpb": 1.62
            + 2.2 * math.exp(-step / 60)
            + 0.3 * math.exp(-step / 300)
            + 0.02 * seed
            + (effect + noise) * step / 500,
        }
        for step in range(0, 501, 50)
    ]
    memory, experts = "move" in arm, "moe" in arm
    return {
        "data": data,
        "arm": arm,
        "seed": seed,
        "steps": 500,
        "tokens": 512_000,
        "seconds": seconds,
        "bits_per_byte": curve[-1]["bpb"],
        "knockout": curve[-1]["bpb"] + 0.4 if memory else None,
        "curve": curve,
        "cost": {
            "total_params": 720_000 + 3_100_000 * memory + 900_000 * experts,
            "active_params": 720_000 + 5_000 * memory,
            "flops_per_token": 1.6e6 * (1.02 if memory else 1.0),
            "bytes_per_token": 2_880_000,
        },
        "slots": {f"move.layers.{i}": slots(i) for i in range(LAYERS)} if memory else {},
        "experts": {f"moe.layers.{i}": load(i, seed) for i in range(LAYERS)} if experts else {},
        "texts": [f"continued by {arm} <b>with markup</b> & signs"],
    }


def slots(layer: int) -> dict[str, Any]:
    histogram = [round(1000 * math.exp(-((i - 20) ** 2) / (20 + 30 * layer))) for i in range(40)]
    return {
        "use": [0.1 + 0.01 * (i + layer) for i in range(8)],
        "similarity": 0.3 - 0.1 * layer,
        "effective": 4.5 + layer,
        "histogram": histogram,
        "own_histogram": histogram,
    }


def load(layer: int, seed: int) -> dict[str, Any]:
    draw = random.Random(layer * 100 + seed)
    share = [0.5 + draw.random() for _ in range(8)]
    share = [s / sum(share) for s in share]
    return {"share": share, "entropy": 0.97, "max_violation": max(share) * 8 - 1, "dead": 0}


def assemble(seeds: tuple[int, ...] = (0, 1, 2), data: tuple[str, ...] = ("factbook",)) -> dict[str, Any]:
    runs = [made_up_run(source, arm, seed) for source in data for arm in ARMS for seed in seeds]
    rounds = {
        (source, seed): [
            {"round": f"r{i}", "arm": arm, "tokens": 1000, "seconds": (1 + 0.1 * (i % 3)) / (speed + 0.004 * seed)}
            for i in range(9)
            for arm, (_, speed, _) in ARMS.items()
        ]
        for source in data
        for seed in seeds
    }
    return {
        "plan": {
            "data": list(data),
            "arms": [{"name": arm} for arm in ARMS if arm != "move-2"],
            "curve": [{"name": "move-2"}],
            "seeds": list(seeds),
            "baseline": "dense",
            "host": "qwen3",
            "size": 3,
            "vocab_size": 4096,
            "match": "tokens",
            "chunk": 20,
            "prompts": 1,
            "recipe": {"steps": 500, "batch": 8, "length": 128, "lr": 3e-3, "dtype": "fp32"},
        },
        "match": "every arm is trained on the same number of tokens",
        "environment": {
            "python": "3.13",
            "torch": "2.13",
            "processor": "a processor",
            "cores": 2,
            "date": "2026-01-01",
            "commit": "abc",
        },
        "command": "vademecum compare --preset demo",
        "sources": {
            source: {
                "description": f"{source}: a book of facts, public domain",
                "heldout_bytes": 900_000,
                "heldout_tokens": 250_000,
            }
            for source in data
        },
        "arms": {
            arm: {"kinds": [], "note": f"note on {arm}", "ffn_width": 256, "slots": count, "steps": 500}
            for arm, (_, _, count) in ARMS.items()
        },
        "rows": results_of.rows(runs, rounds, dict.fromkeys(ARMS, 300000000), "dense"),
        "curves": nested(runs, "curve"),
        "slots": nested(runs, "slots"),
        "experts": nested(runs, "experts"),
        "samples": {
            source: {
                "prompts": [{"prompt": "The economy of", "truth": " the island"}],
                "texts": {arm: made_up_run(source, arm, 0)["texts"] for arm in ARMS},
            }
            for source in data
        },
    }


def nested(runs: list[dict[str, Any]], key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for run in runs:
        if run[key]:
            found.setdefault(run["data"], {}).setdefault(run["arm"], {})[str(run["seed"])] = run[key]
    return found


@pytest.fixture
def results() -> dict[str, Any]:
    return assemble()


@pytest.fixture(scope="session")
def made_up() -> Any:
    return assemble


@pytest.fixture(scope="session")
def made_up_runs() -> Any:
    return lambda *arms: [made_up_run("factbook", arm, seed) for arm in arms for seed in (0, 1, 2)]
