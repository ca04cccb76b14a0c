"""``run.json``: what a run is, enough to build its model again and to notice when something else is opened over it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vademecum import files, kinds, state
from vademecum.data import Material
from vademecum.roles import LR_RATIO
from vademecum.surgery import assemble, memories
from vademecum.training.checkpoint import OtherArchitecture
from vademecum.training.recipe import Recipe

FILE = "run.json"
BANKS = "bank"  # folder of banks on disk while they are trained; checkpoints have copies
FORMAT = 1


def open_or_check(
    folder: Path,
    model: PreTrainedModel,
    corpus: Material,
    recipe: Recipe,
    description: Mapping[str, Any],
    *,
    frozen: bool,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write ``run.json`` and what the material keeps into a new run, or compare them with what is to be run now.

    ``notes`` are written and never compared.

    Raises:
        OtherArchitecture: the run's host or memory is another.
        ValueError: recipe, data, frozen host or description differ, or the folder holds something else.
    """
    now = {
        "format": FORMAT,
        "host": _plain(model.config.to_diff_dict()),
        "memory": [_plain(kind.to_dict()) for kind in memories(model).kinds.values()],
        "frozen": fingerprint(model) if frozen else None,
        "recipe": recipe.learning(),
        "rates": {str(role): ratio for role, ratio in LR_RATIO.items()},
        "data": dict(corpus.identity()),
        "description": _plain(description),
    }
    if (folder / FILE).exists():
        require_same(folder, now)
        return
    if folder.exists() and any(folder.iterdir()):
        _require_unstarted(folder, corpus.kept)
    corpus.keep(folder)
    told = {"data": corpus.description, **_plain(dict(notes or {}))}
    files.write_file(folder / FILE, json.dumps({**now, "notes": told, "versions": versions()}, indent=1) + "\n")


def require_same(folder: Path, known: Mapping[str, Any]) -> None:
    """Refuse the run in ``folder`` where it is another than ``known``: the parts of ``run.json`` that are known by now.

    Of data and description what ``known`` names is compared: an earlier version said more, which decides nothing.
    A folder that holds no run is not refused.

    Raises:
        OtherArchitecture, ValueError: a part differs; says which setting, and both values.
    """
    if not (folder / FILE).exists():
        return
    before = read(folder)
    for part, raises in _PARTS.items():
        if part not in known:
            continue
        old, new = before.get(part), _plain(known[part])
        if part in _BY_NAME and isinstance(old, dict):
            old = {name: value for name, value in old.items() if name in new}
        if old != new:
            name, was, given = first_difference(old, new, part)
            about = before.get("notes", {}).get("data", before.get("data", {}).get("description"))
            raise raises(
                f"{folder} holds a run with {name} = {was}{f' ({about})' if name == 'data.key' and about else ''}, and "
                f"{given} was given; repeat the settings the run was started with (see {FILE}), or write to a new "
                "folder."
            )


_PARTS: Mapping[str, type[ValueError]] = {
    "host": OtherArchitecture,
    "memory": OtherArchitecture,
    "frozen": ValueError,
    "recipe": ValueError,
    "rates": ValueError,
    "data": ValueError,
    "description": ValueError,
}
_BY_NAME = ("data", "description")


def read(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` in ``folder`` says.

    Raises:
        FileNotFoundError: the folder is no run.
        files.Damaged: the file is not JSON of this format.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a run: it has no {FILE}; give the folder that train was told as --out."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise files.Damaged(f"{path} is not valid JSON ({error}): restore it from a good copy.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise files.Damaged(f"{path} is not of format {FORMAT}: it was written by another version.")
    return content


def rebuild(content: Mapping[str, Any]) -> PreTrainedModel:
    """Host and memory as ``run.json`` describes them, with random weights; its banks have no place yet.

    A frozen host is not kept in the run: it is read from its folder where it came from one, or drawn again from its
    seed, and must be the one that was trained on.

    Raises:
        ValueError: a frozen host has changed, or nothing says where it came from.
    """
    description = content["description"]
    if content["frozen"] and description.get("folder"):
        host = cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(description["folder"], dtype=torch.float32))
    else:
        with torch.random.fork_rng():
            torch.manual_seed(int(description.get("seed", 0)))
            host = config_model(content["host"])
    assemble(host, tuple(kinds.from_dict(kind) for kind in content["memory"]), None)
    model = host
    if content["frozen"] and fingerprint(model) != content["frozen"]:
        raise ValueError(
            f"the frozen host {description.get('folder') or description.get('host')} is not the one this memory was "
            "trained on (its fingerprint differs); restore it, or train again."
        )
    return model


def config_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """A host with random weights from its config as plain data."""
    fields = {name: value for name, value in config.items() if name != "model_type"}
    built = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(config["model_type"], **fields)
    )
    return cast(PreTrainedModel, built)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of the host's tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.host_state_dict(model).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of everything that decides the numbers."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
    }


def _plain(value: Any) -> Any:
    """What ``value`` is after a way through JSON, so that it compares with what was read."""
    return json.loads(json.dumps(value, default=str))


def require_free(folder: Path, kept: Collection[str]) -> None:
    """Raise ValueError for a folder that holds no run and is not empty, OSError for one that cannot be written.

    Nothing is written. ``kept`` are names that a run which was killed at its start may have left.
    """
    files.require_writable(folder)
    if folder.is_dir() and not (folder / FILE).is_file():
        _require_unstarted(folder, kept)


def _require_unstarted(folder: Path, kept: Collection[str]) -> None:
    leftover = {*kept, BANKS}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith((FILE, *kept)))
    if foreign := sorted(set(names) - leftover):
        raise ValueError(f"{folder} is not empty and holds no run (found {foreign[0]}); give a new or empty folder.")


def first_difference(before: Any, now: Any, path: str) -> tuple[str, Any, Any]:
    """Name of the innermost setting in which two pieces of plain data differ, such as ``recipe.steps``, and its values.

    Settings that both have come before those that only one has, which follow from them.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys(), key=lambda key: (key not in before or key not in now, key)):
            if before.get(key) != now.get(key):
                return first_difference(before.get(key), now.get(key), f"{path}.{key}")
    return path, before, now
