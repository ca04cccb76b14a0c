"""Held-out bits per byte: what a model of any vocabulary is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from vademecum.data import Material


@torch.no_grad()
def bits_per_byte(
    model: nn.Module, corpus: Material, *, length: int, batch: int, tokens: int = 0, dtype: str = "fp32"
) -> float:
    """Bits that the model needs per byte of what is held out; auxiliary losses are not part of it.

    Args:
        model: a causal language model; its training mode is put back afterwards.
        corpus: such as a :class:`vademecum.data.Corpus`.
        length: tokens of context per window; windows do not overlap, so that each token is a target once.
        batch: windows per forward.
        tokens: held-out tokens to use, spread evenly over the text; 0 uses all.
        dtype: "fp32", or "bf16" for autocast.
    """
    windows = corpus.heldout_windows(length, max(1, tokens // length) if tokens else None)
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)
    with evaluating(model):
        for start in range(0, len(windows), batch):
            ids = torch.from_numpy(windows[start : start + batch]).to(device, torch.int64)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            total += functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return total.item() / math.log(2) / corpus.covered_bytes(windows[:, 1:])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the mode before it afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
