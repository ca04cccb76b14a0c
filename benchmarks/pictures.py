"""Pictures: training tokens/s with MoVE over dense, and seconds to draw a batch of 64 pictures of learned tokens.

The host is that of ``vademecum image train``: four layers, width 128, 49 tokens of 512 codes and ten classes. Drawing
is through the host's cached ``generate``, without guidance and with it (which runs over twice as many rows).
``--small`` prints one round and files nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import file_result, interleaved, ratio, training_step

import vademecum as vm
from vademecum.images.sampling import Sampling, draw
from vademecum.images.tokens import Vocabulary, balanced
from vademecum.training import presets

TOKENS, BATCH, DRAWN = 49, 32, 64
VOCABULARY = Vocabulary(512, tuple("abcdefghij"), 0.1)
ARMS: dict[str, tuple[Any, ...]] = {"dense": (), "move_1": (vm.MoVE(slots=1),), "move_4": (vm.MoVE(slots=4),)}


def model(*kinds: Any) -> Any:
    """The host with ``kinds``."""
    torch.manual_seed(0)
    return vm.attach(presets.build_host("qwen3", size=4, vocab_size=VOCABULARY.size, length=TOKENS), *kinds)


def pictures() -> torch.Tensor:
    """``[B, 1 + T]`` ids; codes as uneven as learned ones, a few hundred of them in use."""
    draws = torch.Generator().manual_seed(0)
    shares = 1.0 / torch.arange(1, 377)
    codes = torch.multinomial(shares, BATCH * TOKENS, replacement=True, generator=draws).view(BATCH, TOKENS)
    return torch.cat([torch.from_numpy(VOCABULARY.of(balanced(BATCH, VOCABULARY.classes)))[:, None], codes], 1)


def drawing(made: Any, guidance: float) -> Callable[[], None]:
    """Draw ``DRAWN`` pictures."""
    labels = balanced(DRAWN, VOCABULARY.classes)

    def run() -> None:
        found = draw(made, VOCABULARY, labels, length=TOKENS, sampling=Sampling(guidance=guidance), seed=0, batch=DRAWN)
        assert found.shape == (DRAWN, TOKENS)
        assert isinstance(found, np.ndarray)

    return run


def main(small: bool) -> None:
    """Both questions."""
    ids = pictures()[:, :-1]
    models = {name: model(*kinds) for name, kinds in ARMS.items()}
    rounds = 1 if small else 12
    steps = {name: training_step(each, ids) for name, each in models.items()}
    trained = interleaved(steps, rounds=rounds)
    draws = {
        f"{name}_{said}": drawing(models[name], guidance)
        for name in ("dense", "move_4")
        for said, guidance in (("plain", 1.0), ("guided", 2.0))
    }
    drawn = interleaved(draws, rounds=1 if small else 7)
    result = {
        "target": "training at 0.95 of dense; a picture of learned tokens under 0.5 s in a batch of 64",
        "tokens": TOKENS,
        "batch": BATCH,
        "training_speed_over_dense": {name: ratio(trained, name, "dense") for name in ARMS if name != "dense"},
        "training_tokens_per_second": {n: ids.numel() / statistics.median(t) for n, t in trained.items()},
        "seconds_to_draw_64": {name: statistics.median(times) for name, times in drawn.items()},
    }
    if small:
        print(json.dumps(result, indent=1))
    else:
        file_result("pictures", result)


if __name__ == "__main__":
    main("--small" in sys.argv)
