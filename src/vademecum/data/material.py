"""What a model is trained on and measured by: a text, or pictures as tokens, behind one small surface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vademecum.data.order import Ids


class Material(Protocol):
    """Windows of token ids to train on, held-out windows, and what their targets stand for.

    ``name`` and ``description`` are for readers, ``key`` names the content: equal keys, equal windows. A window of
    ``length`` has one id more than that: the model sees all but the last and is asked for all but the first.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...

    def windows(self, *, seed: int, step: int, batch: int, length: int) -> Ids:
        """Training windows ``[batch, length + 1]`` of one step, a function of the arguments alone."""
        ...

    def heldout_windows(self, length: int, limit: int | None = None) -> Ids:
        """Held-out windows ``[n, length + 1]`` without overlapping targets; ``limit`` keeps so many, always the same.

        ValueError where there is not one.
        """
        ...

    def covered_bytes(self, targets: NDArray[np.int64]) -> float:
        """Bytes of the held-out original that ``targets`` stand for; of a picture, one for each value of a pixel."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What a run that is gone on with must agree in, as plain data."""
        ...

    def sizes(self) -> Mapping[str, float]:
        """Tokens and bytes: ``heldout_bytes``, ``heldout_tokens``, ``train_tokens``, ``bytes_per_token``."""
        ...

    def keep(self, folder: Path) -> None:
        """Write into a run's folder, under :attr:`kept` names, what turns tokens back into the original."""
        ...

    @property
    def kept(self) -> tuple[str, ...]:
        """Names that :meth:`keep` writes."""
        ...

    def export(self, folder: Path) -> None:
        """Write the same for other tools beside a finished model."""
        ...
