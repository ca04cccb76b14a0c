"""What is converted, and how the result is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import tiny
from vademecum.stores import coded
from vademecum.stores.coded import Coded

BANK = "move.shared.weight"
ROWS, SLOTS, WIDTH = tiny.VOCABULARY, 3, 16
UNREAD = (0, 5, 6, 60)


def original(saved: Path) -> torch.Tensor:
    return load_file(saved / "memory.safetensors")[BANK]


def about(folder: Path) -> dict:
    return json.loads((folder / "memory.json").read_text())


def bank(folder: Path) -> Coded:
    return coded.opened(folder / "memory.safetensors", about(folder)["banks"])[BANK]


def everything(store: Coded) -> torch.Tensor:
    return store.gather(torch.arange(store.rows))
