"""Seconds that writing a fact into SmolLM2-135M takes: alone, and in a batch of 100.

Planned facts are taken off again, so each plan begins with the bare host. What is timed is all of ``plan``: what the
host says before, gates, rows, and what it says afterwards.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import torch
from common import file_result
from tqdm import tqdm

from vademecum.data import geonames
from vademecum.editing import Fact, plan
from vademecum.editing.commands import SMOLLM2, opened
from vademecum.editing.reading import greedy


def facts_of(model: Any, tokenizer: Any, count: int) -> list[Fact]:
    """Lands' capitals and continents, each given another of its kind; what the host says first comes first."""
    draw = random.Random(0)
    lands = geonames.lands()
    asked = [("The capital of {} is", land.name, land.capital) for land in lands]
    asked += [("{} is a country on the continent of", land.name, land.continent) for land in lands]
    draw.shuffle(asked)
    chosen = {subject: (prompt, subject, true) for prompt, subject, true in asked}  # one fact about each
    said = greedy(model, tokenizer, [prompt.replace("{}", subject) for prompt, subject, _ in chosen.values()], 4)
    order = sorted(zip(chosen.values(), said, strict=True), key=lambda one: not one[1].strip().startswith(one[0][2]))
    found = []
    for (prompt, subject, true), text in order[:count]:
        others = sorted({answer for other, _, answer in asked if other == prompt and answer not in (true, subject)})
        free = [answer for answer in others if not text.strip().startswith(answer) and answer not in subject]
        found.append(Fact(subject=subject, prompt=prompt.replace("{}", subject), target=draw.choice(free)))
    return found


def main() -> None:
    """Measure and file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", type=int, default=8, help="facts that are written one by one")
    parser.add_argument("--batch", type=int, default=100, help="facts of a batch")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    model, tokenizer = opened(SMOLLM2, chosen.device)
    facts = facts_of(model, tokenizer, chosen.batch)
    plan(model, facts[:1], tokenizer)  # caches and threads wake up
    alone, failed = [], 0
    for fact in tqdm(facts[: chosen.alone], desc="alone"):
        begun = time.perf_counter()
        failed += len(plan(model, [fact], tokenizer).failed)
        alone.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    with tqdm(total=len(facts), desc="batch") as bar:

        def show(done: int, _: int) -> None:
            bar.update(done - bar.n)

        edit = plan(model, facts, tokenizer, progress=show)
    seconds = (time.perf_counter() - begun) / len(facts)
    file_result(
        "editing",
        {
            "target": "8 seconds alone, 2 each in batches of 100, on two cores",
            "threads": torch.get_num_threads(),
            "alone": {"median": statistics.median(alone), "seconds": alone, "failed": failed},
            "batch": {
                "facts": len(facts),
                "seconds_each": seconds,
                "bytes_each": edit.overlay.nbytes / len(facts),
                "failed": len(edit.failed),
            },
        },
    )


if __name__ == "__main__":
    main()
