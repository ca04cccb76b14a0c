"""How a probe of the study ``memory`` is trained: small hosts on rows of ids, from start to end in one go.

A point takes seconds, so nothing is kept of one that is stopped; each finished one is kept as a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vademecum.training import schedule
from vademecum.training.evaluate import evaluating
from vademecum.training.interrupt import stop_request
from vademecum.training.loop import PATIENCE, Diverged
from vademecum.training.optimizer import Optimizer
from vademecum.training.recipe import Recipe

Ids = NDArray[np.int64]

#: Label of a token that nothing is learned from.
IGNORED = -100
#: Rows of one forward when a model is asked.
ASKED = 512


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes:
        ids: ``[B, T]``.
        labels: ``[B, T]``, each the token at its own place, or :data:`IGNORED`.
        mask: ``[B, T]`` True where a token is real; None where all are.
    """

    ids: Ids
    labels: Ids
    mask: NDArray[np.bool_] | None = None


def train(
    model: PreTrainedModel,
    recipe: Recipe,
    batch: Callable[[int], Batch],
    *,
    look: Callable[[int], None],
    every: int,
    told: Callable[[int], None],
) -> None:
    """Train ``model`` for ``recipe.steps`` steps, with the optimizers and rates that a run has.

    Args:
        model: host with its memory.
        recipe: steps and rates; its batch and length are not read.
        batch: the rows of a step.
        look: called with the step after every ``every`` steps and after the last.
        every: steps between two looks.
        told: called with 1 after every step.

    Raises:
        Diverged: ten steps in a row were not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    optimizer, bad = Optimizer(model, recipe), 0
    model.train()
    with torch.random.fork_rng(devices=[]), stop_request() as stop:
        torch.manual_seed(recipe.seed)
        for step in range(recipe.steps):
            loss = _loss(model, batch(step))
            norms = {name: float(value) for name, value in optimizer.grad_norms().items()}
            if math.isfinite(loss) and all(math.isfinite(value) for value in norms.values()):
                factor = schedule.factor(step, steps=recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
                optimizer.step(factor=factor, norms=norms)
                bad = 0
            else:
                bad += 1
            optimizer.zero_grad()
            if bad >= PATIENCE:
                raise Diverged(f"loss {loss} at step {step + 1}: {PATIENCE} steps in a row were not finite.")
            if stop.made:
                raise KeyboardInterrupt
            told(1)
            if (step + 1) % every == 0 or step + 1 == recipe.steps:
                look(step + 1)


def _loss(model: PreTrainedModel, rows: Batch) -> float:
    """Loss of one batch, with its gradient taken."""
    ids, labels = (torch.from_numpy(each).to(model.device) for each in (rows.ids, rows.labels))
    targets = labels[:, 1:].contiguous()
    mask = None if rows.mask is None else torch.from_numpy(rows.mask[:, :-1]).to(model.device)
    # The model's own loss, which the auxiliary losses of what is attached join.
    output = model(input_ids=ids[:, :-1], attention_mask=mask, labels=targets, shift_labels=targets, use_cache=False)
    output.loss.backward()
    return float(output.loss.detach())


@torch.no_grad()
def right(model: PreTrainedModel, rows: Batch) -> NDArray[np.bool_]:
    """``[B, T]``: where the likeliest token is the label's; True where nothing is asked, and at the first place.

    A row that is True throughout is what greedy decoding from the part before its labels would write.
    """
    found = []
    with evaluating(model):
        for start in range(0, len(rows.ids), ASKED):
            part = slice(start, start + ASKED)
            ids = torch.from_numpy(rows.ids[part]).to(model.device)
            mask = None if rows.mask is None else torch.from_numpy(rows.mask[part]).to(model.device)
            best = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].argmax(-1).cpu().numpy()
            labels = rows.labels[part, 1:]
            hit = (best == labels) | (labels == IGNORED)
            found.append(np.concatenate([np.ones((len(hit), 1), bool), hit], 1))
    return np.concatenate(found)
