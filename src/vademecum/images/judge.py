"""Who judges pictures: a classifier trained on the same pictures, or an extractor that the user has on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vademecum import files
from vademecum.data import order
from vademecum.images.pictures import Pictures

LEAST = 8
_BATCH, _VERSION, _WEIGHTS, _FACTS = 256, 1, "judge.safetensors", "judge.json"
_SEEN = 64  # pixels; of larger pictures blocks are averaged first, or the judge would take hours to train
_log = logging.getLogger(__name__)


class Extractor(Protocol):
    """Turns pictures into features; ``description`` says what numbers in its space mean."""

    @property
    def description(self) -> str: ...

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[N, H, W, C] to [N, D]."""
        ...


@dataclass(frozen=True)
class Schooling:
    """How the classifier is trained."""

    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    seed: int = 0


class Network(nn.Module):
    """Three convolutions with pooling, then one hidden layer of 64, whose values are the features.

    Sides of 128 and more are averaged down to 64 to 127 first: finer detail is not judged.
    """

    def __init__(self, side: tuple[int, int], channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        blocks = (max(1, side[0] // _SEEN), max(1, side[1] // _SEEN))
        halves = (side[0] // blocks[0] // 4, side[1] // blocks[1] // 4)
        self.channels, self.side = channels, side
        self.seen = nn.AvgPool2d(blocks)
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d((min(4, halves[0]), min(4, halves[1]))),
            nn.Flatten(), nn.LazyLinear(64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)
        self.hidden(torch.zeros(2, channels, *side))  # tells the lazy layer its width

    def hidden(self, pixels: Tensor) -> Tensor:
        """[N, C, H, W] from 0 to 1 to features [N, 64]."""
        features: Tensor = self.body(self.seen(pixels))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, H, W] to logits [N, classes]."""
        logits: Tensor = self.head(functional.dropout(self.hidden(pixels), 0.3, self.training))
        return logits


class Judge:
    """A classifier of the classes that a model was trained on.

    It has seen the same training pictures and no others, so its numbers compare models within one set of pictures
    alone; they are not those of Inception, which published Frechet distances are measured with.
    """

    def __init__(self, network: Network, classes: tuple[str, ...], accuracy: float) -> None:
        self.network, self.classes, self.accuracy = network.eval(), classes, accuracy

    @property
    def description(self) -> str:
        """What its numbers mean."""
        return (
            f"features of a small classifier trained on the same training pictures ({100 * self.accuracy:.1f} % right "
            "on held-out ones), not of Inception: they compare models on these pictures alone"
        )

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Values of the last hidden layer, [N, 64], of pictures [N, H, W, C] like those it was trained on."""
        self._require(images)
        found = [np.zeros((0, 64), np.float32)]
        found += [self.network.hidden(_pixels(part)).numpy() for part in _parts(images)]
        return np.concatenate(found)

    @torch.no_grad()
    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The class it takes each picture for, [N]."""
        self._require(images)
        found = [np.zeros(0, np.int64)]
        found += [self.network(_pixels(part)).argmax(1).numpy() for part in _parts(images)]
        return np.concatenate(found)

    def _require(self, images: NDArray[np.uint8]) -> None:
        form = (*self.network.side, self.network.channels)
        if images.ndim != 4 or images.shape[1:] != form or images.dtype != np.uint8:
            raise ValueError(
                f"pictures of shape {list(images.shape)} and type {images.dtype} were given; this judge knows "
                f"[N, {form[0]}, {form[1]}, {form[2]}] of uint8."
            )


class TorchScript:
    """Features of a TorchScript module on disk, such as an Inception network as others publish it.

    It is given float pictures [N, 3, side, side] from 0 to 255 and must return [N, D]. Where its ``forward`` has a
    setting ``return_features`` (the Inception file most Frechet distances are measured with has, and returns classes
    without), that is set. A file of TorchScript is a program: open only one that you trust.

    Raises:
        FileNotFoundError: there is no file at ``path``.
        ValueError: it is none of TorchScript.
    """

    def __init__(self, path: Path, side: int = 299) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: give a TorchScript file that turns pictures into features.")
        try:
            self.module: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            named = {argument.name for argument in self.module.forward.schema.arguments}
        except (RuntimeError, AttributeError) as error:
            raise files.Damaged(f"{path} is not a TorchScript module that can be read ({error}).") from error
        self.path, self.side = path, side
        self._settings = {"return_features": True} if "return_features" in named else {}
        self._digest = files.sha256(path)

    @property
    def description(self) -> str:
        """Which file it is."""
        return (
            f"features of {self.path.name} (SHA-256 {self._digest[:12]}...), pictures brought to "
            f"{self.side} x {self.side}"
        )

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[N, H, W, C] to what the module returns, [N, D].

        Raises:
            ValueError: there are no pictures, or the module takes no such pictures or returns something else.
        """
        if images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
            raise ValueError(f"pictures of shape {list(images.shape)} were given; expected [N, H, W, 1 or 3], N >= 1.")
        return np.concatenate([self._features(part) for part in _parts(images, 32)])

    @torch.no_grad()
    def _features(self, part: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float()
        wide = functional.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        try:
            given = self.module(wide.expand(-1, 3, -1, -1), **self._settings)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.path} cannot read pictures [{len(part)}, 3, {self.side}, {self.side}] of floats ({last}): give "
                "an extractor that does."
            ) from error
        if not isinstance(given, Tensor) or given.ndim != 2 or len(given) != len(part):
            what = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{self.path} returned {what}, not features [{len(part)}, D]: it is no extractor.")
        return given.float().numpy()


def require_side(side: tuple[int, int]) -> None:
    """Raise ValueError where pictures of this height and width are too small for a judge."""
    if min(side) < LEAST:
        raise ValueError(f"pictures of {side[0]} x {side[1]} are too small to judge: give {LEAST} x {LEAST} or more.")


def schooled(pictures: Pictures, *, schooling: Schooling | None = None, cache: Path, progress: bool = True) -> Judge:
    """The judge of ``pictures``: trained on their training side, or opened from the cache.

    1,500 steps of 64 pictures of 28 x 28 take one to two minutes on a slow core. Equal pictures and schooling give an
    equal judge on one machine. A damaged one in the cache is trained again, with a warning.

    Raises:
        ValueError: the pictures are smaller than 8 x 8.
    """
    schooling = schooling or Schooling()
    said = json.dumps([_VERSION, pictures.key, vars(schooling)])
    folder = cache / "judges" / f"{files.short(pictures.name)}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    try:
        files.verify_folder(folder)
        return _opened(folder, pictures)
    except FileNotFoundError:
        pass
    except files.Damaged as problem:
        _log.warning("%s The judge is trained again.", problem)
        shutil.rmtree(folder)
    network = _train(pictures, schooling, progress)
    right = float((Judge(network, pictures.classes, 0.0).labels(pictures.heldout) == pictures.heldout_labels).mean())

    def fill(aside: Path) -> None:
        (aside / _WEIGHTS).write_bytes(save({name: t.contiguous() for name, t in network.state_dict().items()}))
        (aside / _FACTS).write_text(json.dumps({"accuracy": right}) + "\n", encoding="utf-8")

    files.write_folder(folder, fill)
    return _opened(folder, pictures)


def _opened(folder: Path, pictures: Pictures) -> Judge:
    with torch.random.fork_rng(devices=[]):  # the weights it starts from are not kept, nor the numbers they take
        network = _network(pictures)
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise files.Damaged(f"{folder} holds no judge that can be read ({error}).") from error
    facts: Mapping[str, float] = json.loads((folder / _FACTS).read_text("utf-8"))
    return Judge(network, pictures.classes, facts["accuracy"])


def _network(pictures: Pictures) -> Network:
    require_side(pictures.side)
    return Network(pictures.side, pictures.channels, len(pictures.classes))


def _train(pictures: Pictures, schooling: Schooling, progress: bool) -> Network:
    # The processor's generator alone: neither a GPU's numbers nor those of the caller are touched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(schooling.seed)
        network = _network(pictures).train()
        labels = torch.from_numpy(pictures.train_labels)
        optimizer = torch.optim.AdamW(network.parameters(), lr=schooling.lr, weight_decay=1e-2)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, schooling.lr, total_steps=schooling.steps)
        generator = np.random.default_rng(schooling.seed)
        for step in tqdm(
            range(schooling.steps), desc="schooling the judge", unit="step", leave=False, disable=not progress
        ):
            chosen = order.rows(len(labels), seed=schooling.seed, step=step, batch=schooling.batch)
            pixels = _shifted(_pixels(pictures.train[chosen]), generator)
            loss = functional.cross_entropy(network(pixels), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
    return network.eval()


def _shifted(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """All pictures of a batch moved by one draw of up to a fourteenth of a side; flips would turn letters round."""
    reach = [max(1, size // 14) for size in pixels.shape[2:]]
    down, right = (int(generator.integers(-most, most + 1)) for most in reach)
    return torch.roll(pixels, (down, right), (2, 3))


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _parts(images: NDArray[np.uint8], size: int = _BATCH) -> list[NDArray[np.uint8]]:
    return [images[start : start + size] for start in range(0, len(images), size)]
