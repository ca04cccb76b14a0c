"""A small convolutional auto-encoder with finite scalar quantisation: pictures as a few learned tokens.

Each place of a grid that is four times (or as many times as asked) coarser than the picture holds one code: a point of
a small lattice of rounded scalars, one number of levels for each (Mentzer et al. 2023, arXiv:2309.15505). There is no
code book to collapse and no loss beside that of the picture.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vademecum import files
from vademecum.images.codec import FILE, require_codes, require_pictures

WEIGHTS = "codec.safetensors"
_BATCH = 256
_FINE = 16  # channels of what the last convolution sees, at the size of the picture
_FEWEST = 3  # levels: two cannot lie evenly round zero, which is where this quantiser rounds


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of an auto-encoder.

    ``side`` and ``channels`` are of the pictures, ``levels`` of each scalar of a code (their product is the size of the
    code book), ``shrink`` (a power of 2) how much coarser the grid of tokens is, ``width`` the channels on that grid.
    """

    side: tuple[int, int]
    channels: int
    levels: tuple[int, ...] = (8, 8, 8)
    shrink: int = 4
    width: int = 64

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < _FEWEST or math.prod(self.levels) > 2**16:
            raise ValueError(
                f"levels={'x'.join(map(str, self.levels)) or 'none'} was given; expected {_FEWEST} or more levels for "
                "each scalar, at most 65,536 codes in all, such as 8x8x8."
            )
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} was given; expected 1 (grey) or 3 (RGB).")
        if self.shrink not in (1, 2, 4, 8, 16) or min(self.side) < self.shrink:
            raise ValueError(
                f"shrink={self.shrink} was given for pictures of {self.side[0]} x {self.side[1]}; expected 1, 2, 4, 8 "
                "or 16, no more than the side."
            )
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width={self.width} was given; expected a multiple of 8, such as 64.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; a side that does not divide is padded inside."""
        return -(-self.side[0] // self.shrink), -(-self.side[1] // self.shrink)

    @property
    def codes(self) -> int:
        """Size of the code book: the product of the levels."""
        return math.prod(self.levels)


class _Block(nn.Module):
    """A residual block of two 3 x 3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.inner(x))


class AutoEncoder(nn.Module):
    """Encoder, quantiser and decoder, as a :class:`vademecum.images.codec.Codec`.

    Raises:
        ModuleNotFoundError: the package with the quantiser is not installed.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        try:
            from vector_quantize_pytorch import FSQ
        except ImportError as error:
            raise ModuleNotFoundError(
                "learned tokens need vector-quantize-pytorch: run pip install 'vademecum[images]', or take raw pixels "
                "with --codec grey."
            ) from error
        self.shape = shape
        width, scalars, shrink = shape.width, len(shape.levels), shape.shrink
        # All but the first and the last convolution run on the coarse grid: the same quality for less time.
        self.encoder = nn.Sequential(
            nn.Conv2d(shape.channels, width, shrink + 4, stride=shrink, padding=2),
            _Block(width), _Block(width), nn.SiLU(), nn.Conv2d(width, scalars, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(scalars, width, 3, padding=1), _Block(width), _Block(width), nn.SiLU(),
            nn.Conv2d(width, _FINE * shrink**2, 1), nn.PixelShuffle(shrink),
            nn.SiLU(), nn.Conv2d(_FINE, shape.channels, 3, padding=1),
        )  # fmt: skip
        self.quantise = FSQ(list(shape.levels), dim=len(shape.levels))

    @property
    def codes(self) -> int:
        """Size of the code book."""
        return self.shape.codes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.shape.grid

    @property
    def shrink(self) -> int:
        """Rows, and columns, of pixels to one of tokens."""
        return self.shape.shrink

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.shape.side

    @property
    def channels(self) -> int:
        """Of the pictures."""
        return self.shape.channels

    @property
    def key(self) -> str:
        """Hash of sizes and weights."""
        digest = hashlib.sha256(json.dumps(self._described()).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, C, H, W] from 0 to 1 to logits of what is made of their codes, the same shape."""
        rounded, _ = self.quantise(self.encoder(self._padded(pixels)))
        return self._cropped(self.decoder(rounded))

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[N, H, W, C] to [N, T]."""
        require_pictures(images, self.side, self.channels)
        found = [np.zeros((0, self.grid[0] * self.grid[1]), dtype=np.int64)]
        for start in range(0, len(images), _BATCH):
            _, ids = self.quantise(self.encoder(self._padded(self.pixels(images[start : start + _BATCH]))))
            found.append(ids.flatten(1).cpu().numpy().astype(np.int64))
        return np.concatenate(found)

    @torch.no_grad()
    def decode(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[N, T] to [N, H, W, C]."""
        require_codes(ids, self.codes, self.grid[0] * self.grid[1])
        found = [np.zeros((0, *self.side, self.channels), dtype=np.uint8)]
        device = next(self.parameters()).device
        for start in range(0, len(ids), _BATCH):
            part = torch.from_numpy(np.asarray(ids[start : start + _BATCH], dtype=np.int64)).to(device)
            codes = self.quantise.indices_to_codes(part.view(-1, *self.grid))
            made = self._cropped(self.decoder(codes.float())).sigmoid()
            found.append((made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(found)

    def pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """[N, H, W, C] bytes to [N, C, H, W] from 0 to 1, where the weights are."""
        device = next(self.parameters()).device
        return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32, order="C")).to(device) / 255

    def save(self, folder: Path) -> None:
        """Write ``codec.json`` and ``codec.safetensors``."""
        files.write_file(folder / FILE, json.dumps(self._described(), indent=1) + "\n")
        files.write_file(
            folder / WEIGHTS, save({name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()})
        )

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> AutoEncoder:
        """From what :meth:`save` wrote; damaged or foreign weights are a named error."""
        try:
            sizes: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in values["shape"].items()
            }
            made = cls(Shape(**sizes))
            weights = load_file(folder / WEIGHTS)
            if other := {str(tensor.dtype) for tensor in weights.values()} - {str(torch.float32)}:
                raise TypeError(f"weights of {', '.join(sorted(other))}, not torch.float32")
            made.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError, RuntimeError) as error:
            raise files.Damaged(
                f"{folder} holds no codec that can be read ({error}): restore it from a good copy, or train again."
            ) from error
        return made.eval()

    def _described(self) -> dict[str, Any]:
        return {"form": "learned", "shape": asdict(self.shape)}

    def _padded(self, pixels: Tensor) -> Tensor:
        below, right = (rows * self.shape.shrink - side for rows, side in zip(self.grid, self.side, strict=True))
        return nn.functional.pad(pixels, (0, right, 0, below), mode="replicate") if below or right else pixels

    def _cropped(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, : self.side[0], : self.side[1]]
