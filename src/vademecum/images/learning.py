"""Training an auto-encoder on a set of pictures: minutes on two cores, once, then cached."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from vademecum import files
from vademecum.data import order
from vademecum.images.autoencoder import AutoEncoder, Shape
from vademecum.images.codec import open_codec
from vademecum.images.pictures import Pictures
from vademecum.training import schedule

_VERSION = 2  # of the training: raise it when what comes out changes
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """How an auto-encoder is trained: steps, pictures per step, highest rate and seed."""

    steps: int = 3000
    batch: int = 32
    lr: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.lr < 1:
            raise ValueError(
                f"steps={self.steps}, batch={self.batch}, lr={self.lr} were given; expected 1 step or more, of 1 "
                "picture or more, and a rate between 0 and 1, such as 0.004."
            )


def learned(
    pictures: Pictures,
    shape: Shape,
    *,
    lessons: Lessons | None = None,
    cache: Path,
    progress: bool = True,
) -> AutoEncoder:
    """The auto-encoder of ``shape`` for ``pictures``: trained on their training side, or opened from the cache.

    Interrupted it leaves nothing behind and begins anew.
    """
    lessons = lessons or Lessons()
    said = json.dumps([_VERSION, pictures.key, asdict(shape), asdict(lessons)])
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    folder = cache / "codecs" / f"{files.short(pictures.name)}-{digest}"
    try:
        files.verify_folder(folder)
        return _opened(folder)
    except FileNotFoundError:
        pass
    except files.Damaged as problem:
        _log.warning("%s The cached codec is learned again.", problem)
        shutil.rmtree(folder)
    made = train(pictures, shape, lessons, progress)
    files.write_folder(folder, made.save)
    return _opened(folder)


def _opened(folder: Path) -> AutoEncoder:
    codec = open_codec(folder)
    if not isinstance(codec, AutoEncoder):
        raise files.Damaged(f"{folder} holds another codec than an auto-encoder.")
    return codec


def train(pictures: Pictures, shape: Shape, lessons: Lessons, progress: bool = True) -> AutoEncoder:
    """Train from scratch; equal arguments, machine and versions give equal weights.

    The loss is the cross entropy between pixels as shares of white and what is made of them, in nats a pixel: for
    silhouettes sharper than squares, and as good for greys.
    """
    with torch.random.fork_rng():
        torch.manual_seed(lessons.seed)
        model = AutoEncoder(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lessons.lr, weight_decay=1e-4)
    shown = tqdm(range(lessons.steps), desc="learning tokens", unit="step", leave=False, disable=not progress)
    for step in shown:
        chosen = order.rows(len(pictures.train), seed=lessons.seed, step=step, batch=lessons.batch)
        for group in optimizer.param_groups:
            group["lr"] = lessons.lr * schedule.factor(step, steps=lessons.steps, warmup=0.05, decay=0.5)
        pixels = model.pixels(np.asarray(pictures.train[np.sort(chosen)]))
        loss = functional.binary_cross_entropy_with_logits(model(pixels), pixels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            shown.set_postfix(loss=f"{loss.item():.4f}")
    return model.eval()
