"""What is measured on a finished run: bits per byte, knock-out, slots and experts, a few lines of text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

import vademecum as vm
from vademecum import data, state
from vademecum.analysis import experts, knockout, slots
from vademecum.training import Run, metrics
from vademecum.training.evaluate import evaluating

RECORDED_TOKENS = 2048
PROMPT_TOKENS = 24
NEW_TOKENS = 60


def measure(run: Run, *, heldout_tokens: int, prompts: list[list[int]], seed: int) -> dict[str, Any]:
    """Everything the results need from a finished ``run``, as plain data.

    ``heldout_tokens`` limits both evaluations (0 takes all held-out text); ``prompts`` are token ids to be continued,
    drawn with ``seed``.
    """
    model = run.model
    held = run.evaluate(heldout_tokens)
    memory = any(part.can_be_silent for _, _, part in vm.memories(model).parts())
    silenced = knockout.knockout(model, lambda: run.evaluate(heldout_tokens)) if memory else None
    _, evaluations = metrics.read(run.folder)
    slot_statistics, expert_statistics = _recorded(model, run.corpus, run.recipe.length)
    return {
        "steps": run.step,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "skipped": run.skipped,
        "bits_per_byte": held,
        "knockout": silenced,
        "curve": [
            {"step": e["step"], "tokens": e["tokens"], "seconds": e["seconds"], "bpb": e["bits_per_byte"]}
            for e in evaluations
        ],
        "slots": slot_statistics,
        "experts": expert_statistics,
        "texts": [
            {"ids": ids, "text": continuation(model, run.corpus, ids, length=run.recipe.length, seed=seed)}
            for ids in prompts
        ],
    }


def _recorded(model: PreTrainedModel, corpus: data.Corpus, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    windows = data.heldout_windows(corpus.heldout, length, max(1, RECORDED_TOKENS // length))
    ids = torch.from_numpy(np.asarray(windows[:, :-1])).to(model.device, torch.int64)
    with evaluating(model), torch.no_grad(), vm.record(model) as record:
        model(input_ids=ids, use_cache=False)
    used = slots.slot_uses(record.forwards, [ids], state.memory_state_dict(model))
    loads = experts.loads(record.forwards)
    return {key: asdict(value) for key, value in used.items()}, {key: asdict(value) for key, value in loads.items()}


def prompts(corpus: data.Corpus, count: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Beginnings of ``count`` held-out documents, evenly spaced, and how they really go on (token ids)."""
    first = min(PROMPT_TOKENS, max(1, length // 3))
    new = min(NEW_TOKENS, length - first)
    held = np.asarray(corpus.heldout)
    ends = np.flatnonzero(held == corpus.end_id)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.array([0])
    stops = ends if len(ends) else np.array([len(held)])
    long_enough = [int(a) for a, b in zip(starts, stops, strict=True) if b - a >= first + new]
    if not long_enough or count < 1:
        return []
    chosen = [long_enough[i * len(long_enough) // count] for i in range(min(count, len(long_enough)))]
    return [(held[a : a + first].tolist(), held[a + first : a + first + new].tolist()) for a in chosen]


def continuation(model: PreTrainedModel, corpus: data.Corpus, prompt: list[int], *, length: int, seed: int) -> str:
    """Text that ``model`` writes after ``prompt``, up to a document's end; equal seeds draw equal numbers."""
    ids = torch.tensor([prompt], device=model.device)
    new = min(NEW_TOKENS, length - len(prompt))
    with evaluating(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        generated: Any = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.8,
            top_k=min(40, corpus.vocab_size),
            max_new_tokens=new,
            pad_token_id=corpus.end_id,
            eos_token_id=corpus.end_id,
        )
    written = [token for token in generated[0, len(prompt) :].tolist() if token != corpus.end_id]
    return str(corpus.tokenizer.decode(written))
