"""Where a run's numbers go: JSON lines always, TensorBoard or trackio on request."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vademecum import files

FILE = "metrics.jsonl"


class Sink(Protocol):
    """Takes a run's numbers as they come."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the values of a step; nested mappings are namespaces."""

    def close(self) -> None:
        """Finish writing."""


class JsonLines:
    """One JSON object per line in ``metrics.jsonl``: a training line has ``loss``, an evaluation ``bits_per_byte``.

    An evaluation of a model with experts or slots also has ``inside``, numbers by layer and name; a training line has
    ``losses``, the auxiliary ones that are part of ``loss``, and ``dropped`` (all in ``training.watch``).
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        files.append_line(self.path, {"step": step, **values})

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step`` and whatever a kill cut short, so that a resumed run writes each step once."""
        kept = [line for line in files.read_lines(self.path) if line.get("step", step + 1) <= step]
        files.write_file(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def sync(self) -> None:
        """Push the lines to the disk."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        self.sync()


class TensorBoard:
    """Writes scalars for TensorBoard into ``tensorboard/`` of a run; needs ``pip install vademecum[tensorboard]``.

    What an earlier process logged after ``step`` is hidden, because a resumed run makes those steps again.
    """

    package = "torch.utils.tensorboard"

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in flat(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """Logs to trackio under the project ``vademecum``; needs ``pip install vademecum[trackio]``."""

    package = "trackio"

    def __init__(self, run: Path, step: int) -> None:
        import trackio

        self._run = trackio.init(project="vademecum", name=run.resolve().name)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log(flat(values), step=step)

    def close(self) -> None:
        self._run.finish()


Tracker = Callable[[Path, int], Sink]
"""Makes a sink from a run's folder and the steps it has made."""

SINKS: Mapping[str, type[TensorBoard] | type[Trackio]] = {"tensorboard": TensorBoard, "trackio": Trackio}
"""Optional sinks by the name the command line gives them."""


def tracker(name: str) -> Tracker:
    """What makes the optional sink called ``name``; nothing is opened or written yet.

    Raises:
        ValueError: no such sink, or its package is not installed.
    """
    if name not in SINKS:
        raise ValueError(f"{name!r} is not a tracker; write one of {', '.join(SINKS)}.")
    try:
        importlib.import_module(SINKS[name].package)
    except ImportError as error:
        raise ValueError(f"the tracker {name} is not installed; write: pip install 'vademecum[{name}]'") from error
    return SINKS[name]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping by path: ``{"norms": {"host": 1.0}}`` gives ``{"norms/host": 1.0}``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = float(value)
    return found


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training lines and evaluation lines of the run in ``folder``, in order."""
    lines = files.read_lines(folder / FILE)
    return [line for line in lines if "loss" in line], [line for line in lines if "bits_per_byte" in line]
