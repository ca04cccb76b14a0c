"""Checkpoints: a folder of safetensors and JSON per step, whole or absent, proved by a manifest, never a pickle.

``checkpoints/step-00000100/`` holds ``host.safetensors`` (not when the host is frozen), ``memory.safetensors``,
``optimizer.safetensors`` and ``state.json``; ``checkpoints/latest`` names the newest that is complete.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vademecum import files
from vademecum.state import Rows
from vademecum.stores import tables
from vademecum.stores.disk import opened

FOLDER = "checkpoints"
LATEST = "latest"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")

Tensors = Mapping[str, Mapping[str, Rows]]
"""Tensors by part ("host", "memory", "optimizer") and name."""


class CheckpointDamaged(files.Damaged):
    """A checkpoint is not what was written.

    Attributes:
        checkpoint: the folder that is damaged.
        last_good: the newest checkpoint of the same run that is whole, None where there is none.
    """

    def __init__(self, checkpoint: Path, fault: str, last_good: Path | None) -> None:
        self.checkpoint, self.last_good = checkpoint, last_good
        way_on = (
            f"The last good checkpoint is {last_good.name}: go on from it with --fall-back (in Python: fall_back=True)."
            if last_good
            else "The run has no other good checkpoint: restore the folder from a copy, or start again in a new one."
        )
        super().__init__(f"The checkpoint {checkpoint} is damaged: {fault} {way_on}")


class OtherArchitecture(ValueError):
    """A checkpoint or run belongs to a model of another architecture than the one that was built."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        folder: where it lies.
        tensors: as they were saved, on the CPU, by part and name; tables where that was asked for.
        state: everything else: step, counters, random states.
    """

    folder: Path
    tensors: Tensors
    state: Mapping[str, Any]


def folder_of(run: Path, step: int) -> Path:
    """Folder of the checkpoint at ``step``."""
    return run / FOLDER / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """Steps of the checkpoints that lie in the run, whole or not, oldest first."""
    found = (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ()
    return sorted(int(match[1]) for path in found if (match := _NAME.fullmatch(path.name)))


def save(run: Path, step: int, tensors: Tensors, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, move ``latest`` to it and remove all but the ``keep`` newest.

    Raises:
        OSError: such as a full disk; the checkpoints that were there stay as they were.
    """
    target = folder_of(run, step)
    layout = {part: _layout(named) for part, named in tensors.items()}

    def fill(folder: Path) -> None:
        for part, named in tensors.items():
            tables.write(folder / f"{part}.safetensors", named)
        text = json.dumps({**state, "step": step, "tensors": layout}, indent=1)
        (folder / STATE).write_text(text, encoding="utf-8")

    files.write_folder(target, fill)
    files.move_pointer(run / FOLDER / LATEST, target.name)
    for old in steps(run)[:-keep]:
        if old != step:
            shutil.rmtree(folder_of(run, old), ignore_errors=True)
    return target


def load(
    run: Path, *, parts: tuple[str, ...] | None = None, fall_back: bool = False, as_tables: Collection[str] = ()
) -> Checkpoint | None:
    """Read the checkpoint that ``latest`` names, verified; None where the run has none yet.

    Args:
        run: the run's folder.
        parts: the parts to read, all where None.
        as_tables: names of tensors that are not read, but given as tables of the file.
        fall_back: take the newest good checkpoint where the latest is damaged; the damaged ones after it are renamed
            to ``*.damaged``.

    Raises:
        CheckpointDamaged: the latest is damaged and ``fall_back`` was not asked for, or none is good.
    """
    there = steps(run)
    try:
        latest = _latest(run, there)
        if latest is None:
            return None
        damaged = latest
        return read(latest, parts=parts, as_tables=as_tables)
    except _BadPointer as error:
        damaged, fault = run / FOLDER / LATEST, str(error)
    except (files.Damaged, FileNotFoundError) as error:
        fault = str(error)
    good = next(
        (step for step in reversed(there) if folder_of(run, step) != damaged and is_good(folder_of(run, step))), None
    )
    if not fall_back or good is None:
        raise CheckpointDamaged(damaged, fault, None if good is None else folder_of(run, good))
    for step in there:
        if step > good:
            _set_aside(folder_of(run, step))
    files.move_pointer(run / FOLDER / LATEST, folder_of(run, good).name)
    return read(folder_of(run, good), parts=parts, as_tables=as_tables)


def read(folder: Path, *, parts: tuple[str, ...] | None = None, as_tables: Collection[str] = ()) -> Checkpoint:
    """Read one checkpoint after checking every byte of it.

    Raises:
        files.Damaged: a changed, truncated or missing file, or a tensor that is not in its file.
        FileNotFoundError: there is no such folder.
    """
    files.verify_folder(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        layout = state.pop("tensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise files.Damaged(f"{folder / STATE} cannot be read ({error}).") from error
    tensors: dict[str, Mapping[str, Rows]] = {}
    for part, expected in layout.items():
        if parts is not None and part not in parts:
            continue
        path = folder / f"{part}.safetensors"
        try:
            tensors[part] = opened(path, as_tables)
        except (OSError, SafetensorError) as error:
            raise files.Damaged(f"{path} cannot be read ({error}).") from error
        found = _layout(tensors[part])
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise files.Damaged(
                    f"{path} holds {found.get(name, 'no tensor')} under {name!r} where {STATE} lists "
                    f"{expected.get(name, 'none')}."
                )
    return Checkpoint(folder, tensors, state)


def require_fit(saved: Tensors, model: Tensors, folder: Path) -> None:
    """Refuse a checkpoint whose tensors are not those of the model that was built.

    Raises:
        OtherArchitecture: names the first tensor that differs.
    """
    for part in ("host", "memory"):
        old, new = _layout(saved.get(part, {})), _layout(model.get(part, {}))
        differ = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if differ:
            name = differ[0]
            raise OtherArchitecture(
                f"{folder} belongs to another architecture: its {part} has {old.get(name, 'nothing')} under {name!r}, "
                f"the model built now {new.get(name, 'nothing')} ({len(differ)} tensors differ). Build the host and "
                "memory that the run was started with (see run.json), or write to a new folder."
            )


def is_good(folder: Path) -> bool:
    """Whether a checkpoint is whole."""
    try:
        read(folder, parts=())
    except (files.Damaged, FileNotFoundError):
        return False
    return True


def _layout(named: Mapping[str, Rows]) -> dict[str, str]:
    return {name: f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}" for name, one in named.items()}


class _BadPointer(files.Damaged):
    """``latest`` names nothing; the checkpoints themselves may all be whole."""


def _latest(run: Path, there: list[int]) -> Path | None:
    """The checkpoint to read, None where the run has none."""
    try:
        name = files.read_pointer(run / FOLDER / LATEST)
    except files.Damaged as error:
        raise _BadPointer(str(error)) from error
    if name is None:
        return folder_of(run, there[-1]) if there else None
    return run / FOLDER / name


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
