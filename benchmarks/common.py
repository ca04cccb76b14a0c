"""What the benchmarks share: interleaved timing, hosts, and where results go."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf

import vademecum as vm
from vademecum.memory.base import Kind


def interleaved(
    steps: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 2, wait: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every step in each of ``rounds``, run in turn so that a slow minute hits all alike."""
    for _ in range(warm_up):
        for step in steps.values():
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            taken[name].append(time.perf_counter() - start)
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, base: str) -> dict[str, float]:
    """Speed of ``name`` relative to ``base``: median and quartiles of the rounds' own ratios."""
    ratios = sorted(b / n for n, b in zip(taken[name], taken[base], strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "low_quartile": low, "high_quartile": high}


def llama(size: int, *, vocabulary: int = 4096, length: int = 256) -> tf.PreTrainedModel:
    """A Qwen3 host of ``size`` layers, 32 x size wide, gated feed-forward of 8/3 the width."""
    hidden = 32 * size
    return tf.Qwen3ForCausalLM(
        tf.Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=-(-8 * hidden // 96) * 32,
            num_hidden_layers=size,
            num_attention_heads=size,
            num_key_value_heads=size,
            head_dim=32,
            max_position_embeddings=length,
            tie_word_embeddings=True,
        )
    )


def zipf_ids(tokens: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """``[tokens]`` ids whose frequencies fall like one over their rank, as those of text do."""
    weights = 1.0 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, tokens, replacement=True, generator=generator)


def hardware() -> str:
    """The device the benchmark ran on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads"


def file_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write ``result`` with date, hardware and versions under ``results/`` and print it."""
    today = datetime.date.today().isoformat()
    about = {
        "date": today,
        "hardware": hardware(),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        **result,
    }
    slug = "".join(c if c.isalnum() else "-" for c in hardware().lower()).strip("-")
    path = Path(__file__).parent / "results" / f"{name}_{today}_{slug}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(about, indent=2))
    return path


def training_step(model: torch.nn.Module, ids: torch.Tensor, *, bf16: bool = False) -> Callable[[], None]:
    """One forward, backward, clip and step on ``ids`` ``[B, T]``: AdamW, and rows of banks by their own."""
    rows = vm.RowOptimizer(model, lr=1e-3)
    optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-3), fused=True)
    model.train()

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rows.step()
        optimizer.zero_grad()
        rows.zero_grad()

    return step


def training_speeds(
    arms: Mapping[str, Kind], *, base: str = "dense", rounds: int = 8
) -> dict[str, dict[str, dict[str, float]]]:
    """Training speed of every arm over the one called ``base``, on two sizes of host, 256 tokens a sequence."""
    found = {}
    for size, batch in ((4, 16), (8, 8)):
        ids = zipf_ids(batch * 256, 4096).view(batch, 256)
        steps = {}
        for name, kind in arms.items():
            torch.manual_seed(0)
            model = vm.attach(llama(size), kind)
            steps[name] = training_step(model, ids)
        taken = interleaved(steps, rounds=rounds)
        found[f"width_{32 * size}"] = {name: ratio(taken, name, base) for name in arms}
    return found
