"""What a model costs per token, measured on the model itself rather than declared.

* ``flops_per_token``: floating-point operations of one forward over the counted sequence, by torch's profiler
  (:class:`torch.utils.flop_counter.FlopCounterMode`), divided by its tokens, with the plain reference ops in place.
  It counts matrix products (two operations per multiply-add) and no elementwise work; training costs about three
  times as much.
* ``active_params``: total parameters, less the table rows that a token does not read, less the experts it is not sent
  to. A host's input embedding that is not tied to the head is such a table.
* ``bytes_per_token``: bytes one token reads when it is decoded alone: every active parameter in the type it is held in
  (weights stay fp32 under autocast).
  It leaves out the KV cache, which all arms share, and everything that stays in a processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

import vademecum as vm
from vademecum import ops

TRAINING_FACTOR = 3  # one forward, and a backward of twice its products


@dataclass(frozen=True)
class ModelCost:
    """Parameters are counts; the other two are per token of one forward. See the module's definitions."""

    total_params: int
    active_params: int
    flops_per_token: float
    bytes_per_token: int


def measure(model: PreTrainedModel, *, length: int, batch: int = 2) -> ModelCost:
    """Cost of ``model`` at ``length`` tokens a sequence."""
    total = sum(p.numel() for p in model.parameters())
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    active = active_params(model)
    return ModelCost(
        total_params=total,
        active_params=active,
        flops_per_token=flops_per_token(model, length=length, batch=batch),
        bytes_per_token=round(active * held / total),
    )


def active_params(model: PreTrainedModel) -> int:
    """Parameters one token makes use of."""
    memory = vm.memories(model).cost()
    total = sum(p.numel() for p in model.parameters())
    return total - memory.params + memory.active_params - _unread_embedding(model)


def _unread_embedding(model: PreTrainedModel) -> int:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None or embedding is None or head.weight is embedding.weight:
        return 0
    weight = embedding.weight
    return int(weight.numel() - weight.shape[-1]) if isinstance(weight, torch.Tensor) else 0


def flops_per_token(model: PreTrainedModel, *, length: int, batch: int = 2) -> float:
    """FLOPs per token of one forward over [batch, length] random ids; attention is not halved for being causal."""
    vocab = int(model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (batch, length), generator=generator).to(model.device)
    was_training = model.training
    attention = getattr(model.config, "_attn_implementation", None)
    counter = FlopCounterMode(display=False)
    try:
        model.train(False)
        # The profiler knows no fused CPU attention kernel; the eager one is counted product by product.
        model.set_attn_implementation("eager")
        with torch.no_grad(), ops.backend("naive"), counter:
            model(input_ids=ids, use_cache=False)
    finally:
        model.train(was_training)
        if attention is not None:
            model.set_attn_implementation(attention)
    return counter.get_total_flops() / (batch * length)
