"""Pictures: training tokens/s with MoVE over dense, and seconds to draw a batch of 64 pictures of learned tokens.

The host is that of ``vademecum image train``, four layers of width 128 and 32 pictures a step, and one of eight layers
of width 256 and 64; 49 tokens of 512 codes and ten classes. Drawing is from the smaller one, through the host's own
cached ``generate``, without guidance and with it (which runs over twice as many rows). ``--small`` prints one round
and files nothing.
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

TOKENS, DRAWN = 49, 64
HOSTS = {"width_128": (4, 32), "width_256": (8, 64)}
"""Size of the host, and pictures of a step."""
VOCABULARY = Vocabulary(512, tuple("abcdefghij"), 0.1)
ARMS: dict[str, tuple[Any, ...]] = {"dense": (), "move_1": (vm.MoVE(slots=1),), "move_4": (vm.MoVE(slots=4),)}


def model(size: int, *kinds: Any) -> Any:
    """The host of ``size`` with ``kinds``."""
    torch.manual_seed(0)
    return vm.attach(presets.build_host("qwen3", size=size, vocab_size=VOCABULARY.size, length=TOKENS), *kinds)


def pictures(count: int) -> torch.Tensor:
    """``[B, 1 + T]`` ids; codes as uneven as learned ones, a few hundred of them in use."""
    draws = torch.Generator().manual_seed(0)
    shares = 1.0 / torch.arange(1, 377)
    codes = torch.multinomial(shares, count * TOKENS, replacement=True, generator=draws).view(count, TOKENS)
    return torch.cat([torch.from_numpy(VOCABULARY.of(balanced(count, VOCABULARY.classes)))[:, None], codes], 1)


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
    speed: dict[str, Any] = {}
    for name, (size, count) in HOSTS.items():
        ids = pictures(count)[:, :-1]
        steps = {arm: training_step(model(size, *kinds), ids) for arm, kinds in ARMS.items()}
        taken = interleaved(steps, rounds=2 if small else 12)
        speed[name] = {
            "over_dense": {arm: ratio(taken, arm, "dense") for arm in ARMS if arm != "dense"},
            "tokens_per_second": {arm: round(ids.numel() / statistics.median(t)) for arm, t in taken.items()},
        }
    made = {name: model(HOSTS["width_128"][0], *ARMS[name]) for name in ("dense", "move_4")}
    draws = {
        f"{name}_{said}": drawing(each, guidance)
        for name, each in made.items()
        for said, guidance in (("plain", 1.0), ("guided", 2.0))
    }
    drawn = interleaved(draws, rounds=1 if small else 7)
    result = {
        "target": "training at 0.95 of dense; a picture of learned tokens under 0.5 s in a batch of 64",
        "tokens": TOKENS,
        "training": speed,
        "seconds_to_draw_64": {name: statistics.median(times) for name, times in drawn.items()},
    }
    if small:
        print(json.dumps(result, indent=1))
    else:
        file_result("pictures", result)


if __name__ == "__main__":
    main("--small" in sys.argv)
