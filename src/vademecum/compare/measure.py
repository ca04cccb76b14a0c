"""What is measured on a finished run: bits per byte, knock-out, slots and experts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

import vademecum as vm
from vademecum import state
from vademecum.analysis import experts, knockout, slots
from vademecum.data import Material
from vademecum.training import Run, metrics
from vademecum.training.evaluate import evaluating

RECORDED_TOKENS = 2048


def measure(run: Run, *, heldout_tokens: int) -> dict[str, Any]:
    """Everything the results need from a finished ``run`` of any medium, as plain data.

    ``heldout_tokens`` limits both evaluations (0 takes all that is held out).
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
    }


def _recorded(model: PreTrainedModel, corpus: Material, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    windows = corpus.heldout_windows(length, max(1, RECORDED_TOKENS // length))
    ids = torch.from_numpy(np.asarray(windows[:, :-1])).to(model.device, torch.int64)
    with evaluating(model), torch.no_grad(), vm.record(model) as record:
        model(input_ids=ids, use_cache=False)
    used = slots.slot_uses(record.forwards, [ids], state.memory_state_dict(model))
    loads = experts.loads(record.forwards)
    return {key: asdict(value) for key, value in used.items()}, {key: asdict(value) for key, value in loads.items()}
