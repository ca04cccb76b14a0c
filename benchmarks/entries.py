"""What it costs to look for 100,000 headwords of which none occurs: SmolLM2-135M with entries, against itself bare.

A forward of 512 tokens, and greedy decoding with the cache. The entries stand in one layer: matching is done once for
all of a model's layers, and where nothing matches a layer does nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as tf
from common import file_result, interleaved, ratio

import vademecum as vm
from vademecum.data.pretrained import smollm2
from vademecum.ops import ngrams

ENTRIES, TOKENS, NEW, ROUNDS, OFTEN = 100_000, 512, 32, 16, 100


def headwords(count: int, vocabulary: int, absent_from: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """``count`` headwords of two to four tokens, each ending with an id of the text and beginning otherwise.

    Headwords are looked for from their ends, so that no token of the text can be dismissed at once.
    """
    draw = torch.Generator().manual_seed(0)
    seen, found = set(absent_from), {}
    lasts = sorted(seen)
    while len(found) < count:
        size = int(torch.randint(1, 4, (1,), generator=draw))
        rest = torch.randint(0, vocabulary, (size,), generator=draw).tolist()
        if seen.isdisjoint(rest):
            found[(*rest, lasts[len(found) % len(lasts)])] = None
    return tuple((one,) for one in found)


def forward(model: Any, ids: torch.Tensor) -> Callable[[], None]:
    """One pass over ``ids``."""

    def run() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    return run


def generation(model: Any, ids: torch.Tensor) -> Callable[[], None]:
    """Generate ``NEW`` tokens after ``ids``, which are the same every time."""

    def run() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )

    return run


def matching(bare: Any, ids: torch.Tensor, words: Sequence[Sequence[int]]) -> dict[str, float]:
    """Milliseconds of looking for headwords alone, in a forward and in a step of decoding, and the former's share."""
    trie = ngrams.made(words, bare.config.vocab_size)
    last = ids[:, -trie.depth :]
    steps: dict[str, Callable[[], Any]] = {
        "bare": forward(bare, ids),
        "forward": lambda: [ngrams.match(ids, trie, TOKENS) for _ in range(OFTEN)],
        "step": lambda: [ngrams.match(last, trie, 1) for _ in range(OFTEN)],
    }
    taken = {arm: statistics.median(seconds) for arm, seconds in interleaved(steps, rounds=ROUNDS).items()}
    each = {arm: 1000 * taken[arm] / OFTEN for arm in ("forward", "step")}
    return {
        "forward_ms": each["forward"],
        "step_ms": each["step"],
        "of_a_forward": each["forward"] / 1000 / taken["bare"],
    }


def main() -> None:
    """Measure and file."""
    folder = smollm2()
    bare = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, bare.config.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    prompt = ids[:, :32]
    generated = bare.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    words = headwords(ENTRIES, bare.config.vocab_size, [*ids[0].tolist(), *generated[0].tolist()])
    results: dict[str, Any] = {"target": "matching costs under 0.02 of a forward", "entries": ENTRIES}
    results["matching"] = matching(bare, ids, [one for (one,) in words])
    for reach in ("end", "after"):
        model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        vm.attach(model, vm.Entries(headwords=words, layers=(-1,), reach=reach))
        for name, made, given in (("forward", forward, ids), ("decoding", generation, prompt)):
            steps = {"bare": made(bare, given), "entries": made(model, given)}
            taken = interleaved(steps, rounds=ROUNDS)
            results[f"{name}_{reach}"] = {
                "speed_of_bare": ratio(taken, "entries", "bare"),
                "milliseconds": {arm: 1000 * statistics.median(seconds) for arm, seconds in taken.items()},
            }
    file_result("entries", results)


if __name__ == "__main__":
    main()
