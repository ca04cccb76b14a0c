"""Tokens per second of a pretrained model that decodes with a memory: SmolLM2-135M with 8 slots, against itself bare.

Greedy, one sequence, with the cache; the bank resident, and on disk, where it is warm and its row cache bounded. All
arms generate the same number of tokens in turn. The number type is the one in which the bare host is faster here.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from common import file_result, interleaved, ratio

import vademecum as vm
from vademecum.data.pretrained import smollm2

NEW, ROUNDS, CAP = 32, 16, "16MB"
PROMPT = "The history of the city begins with a small settlement on the bank of the river, where"


def host(folder: Path, dtype: torch.dtype) -> Any:
    """The bare model."""
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def generation(model: Any, ids: torch.Tensor) -> Callable[[], None]:
    """Generate ``NEW`` tokens after ``ids``."""
    mask = torch.ones_like(ids)

    def run() -> None:
        model.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
        )

    return run


def faster(folder: Path, ids: torch.Tensor) -> tuple[torch.dtype, dict[str, float]]:
    """The number type in which the bare host decodes faster, and tokens per second in each."""
    steps = {str(dtype): generation(host(folder, dtype), ids) for dtype in (torch.float32, torch.bfloat16)}
    taken = interleaved(steps, rounds=3, warm_up=1)
    speeds = {name: NEW / statistics.median(seconds) for name, seconds in taken.items()}
    best = torch.bfloat16 if speeds["torch.bfloat16"] > speeds["torch.float32"] else torch.float32
    return best, speeds


def main() -> None:
    """Measure and file."""
    folder = smollm2()
    ids = tf.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    dtype, speeds = faster(folder, ids)
    resident = vm.attach(host(folder, dtype), vm.MoVE(slots=8, bank_std=0.02), bank="device")
    with tempfile.TemporaryDirectory() as saved:
        vm.save(resident, saved)
        disk = vm.load(host(folder, dtype), saved, bank="disk", bank_cap=CAP)
        arms = {"bare": host(folder, dtype), "resident": resident, "disk": disk}
        taken = interleaved({name: generation(model, ids) for name, model in arms.items()}, rounds=ROUNDS)
        (bank,) = vm.memories(disk).banks().values()
        store = bank.store
        file_result(
            "decode",
            {
                "targets": "resident 0.97 of bare; disk 0.95 of resident",
                "dtype": str(dtype),
                "bare_tokens_per_second": speeds,
                "bank_bytes": bank.nbytes,
                "resident_over_bare": ratio(taken, "resident", "bare"),
                "disk_over_resident": ratio(taken, "disk", "resident"),
                "disk_over_bare": ratio(taken, "disk", "bare"),
                "tokens_per_second": {name: NEW / statistics.median(seconds) for name, seconds in taken.items()},
                "row_cache_bytes": store.resident_bytes,
                "row_cache_cap": store.cap,
                "row_cache_hits": store.cache.hits,
                "row_cache_misses": store.cache.misses,
            },
        )


if __name__ == "__main__":
    main()
