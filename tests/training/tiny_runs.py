"""What the tests of this room train: a tiny host on random tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models

import vademecum as vm
from vademecum import data
from vademecum.training import Recipe, presets

VOCAB = 64


def _tokens(seed, count):
    # A walk with small strides, so that there is something to learn.
    return (np.random.default_rng(seed).integers(1, 4, count).cumsum() % VOCAB).astype(np.uint16)


def _tokenizer():
    return Tokenizer(models.WordLevel({data.END: 0} | {f"w{i}": i for i in range(1, VOCAB)}, unk_token=data.END))


def Corpus(**changes):  # noqa: N802 - it stands for the class
    """A ``vademecum.data.Corpus`` of random strides with three bytes to a token."""
    settings = {
        "name": "walk",
        "description": "random strides",
        "key": "walk",
        "folder": Path("nowhere"),
        "token_bytes": np.full(VOCAB, 3),
        "heldout_bytes": 3 * 599,
        "train": _tokens(0, 4000),
        "heldout": _tokens(1, 600),
        "tokenizer": _tokenizer(),
    }
    return data.Corpus(**{**settings, **changes})


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
