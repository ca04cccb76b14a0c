"""What the tests of this room train: a tiny host on random tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer, models

import vademecum as vm
from vademecum.training import Recipe, presets

VOCAB = 64


def _tokens(seed, count):
    # A walk with small strides, so that there is something to learn.
    return (np.random.default_rng(seed).integers(1, 4, count).cumsum() % VOCAB).astype(np.uint16)


def _tokenizer():
    return Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))


@dataclass
class Corpus:
    """Looks like ``vademecum.data.Corpus`` with three bytes to a token."""

    name: str = "walk"
    description: str = "random strides"
    key: str = "walk"
    vocab_size: int = VOCAB
    end_id: int = 0
    token_bytes: np.ndarray = field(default_factory=lambda: np.full(VOCAB, 3))
    heldout_bytes: int = 3 * 599
    train: np.ndarray = field(default_factory=lambda: _tokens(0, 4000))
    heldout: np.ndarray = field(default_factory=lambda: _tokens(1, 600))
    tokenizer: Tokenizer = field(default_factory=_tokenizer)


def recipe(**changes):
    settings = {"steps": 12, "batch": 4, "length": 16, "eval_every": 4, "eval_tokens": 64, "checkpoint_every": 4}
    return Recipe(**{**settings, **changes})


def build(*kinds, seed=0, size=2, dropout=False, freeze=False, **place):
    """A host of ``size`` layers with ``kinds`` attached, from a seed of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = presets.build_host("qwen3", size=size, vocab_size=VOCAB, length=32, ffn_width=64)
        model.config.attention_dropout = 0.1 if dropout else 0.0
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = model.config.attention_dropout
        model.requires_grad_(not freeze)
        return vm.attach(model, *(kinds or (vm.NoMemory(),)), **place)
