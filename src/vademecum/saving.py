"""A memory on disk: ``memory.json`` says what it is, ``memory.safetensors`` holds it, a manifest proves it whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from vademecum import files, hosts, kinds
from vademecum.attached import ROOT
from vademecum.state import load_memory_state_dict, memory_state_dict
from vademecum.surgery import attach, detach, memories

Model = TypeVar("Model", bound=nn.Module)

FORMAT = 1


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write the memory of ``model``, and nothing of the host, into ``folder``.

    The folder appears whole or not at all, replacing an older save of the same name.

    Returns:
        The folder.

    Raises:
        ValueError: nothing is attached.
    """
    root = memories(model)
    about = {
        "format": FORMAT,
        "kinds": [kind.to_dict() for kind in root.kinds.values()],
        "host": root.shape.to_dict(),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in memory_state_dict(model).items()}

    def fill(aside: Path) -> None:
        (aside / "memory.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, str(aside / "memory.safetensors"))

    target = Path(folder)
    files.write_folder(target, fill)
    return target


def load(model: Model, folder: str | Path, *, host: hosts.Family | None = None) -> Model:
    """Attach the memory in ``folder`` to ``model``, or fill a memory of the same kinds that is attached already.

    Args:
        model: a host of the numbers that the memory was made for.
        folder: what :func:`save` wrote.
        host: names of the host's modules, for families that ``vademecum.hosts`` does not know.

    Raises:
        FileNotFoundError: there is no such folder.
        files.Damaged: a file is missing, truncated or changed.
        ValueError: the memory was made for another host or other kinds. The model is then unchanged.
    """
    source = Path(folder)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; give load a folder that vm.save wrote.")
    files.verify_folder(source)
    try:
        about = json.loads((source / "memory.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{source} holds no memory.json; give load a folder that vm.save wrote.") from None
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{source} has memory format {about.get('format')!r}, this version reads {FORMAT}; "
            f"load it with the version of vademecum that wrote it."
        )
    _require_same_host(model, about["host"], source, host)
    wanted = [kinds.from_dict(kind) for kind in about["kinds"]]
    fresh = getattr(model, ROOT, None) is None
    if fresh:
        attach(model, *wanted, host=host)
    elif [kind.to_dict() for kind in memories(model).kinds.values()] != about["kinds"]:
        raise ValueError(
            f"{source} holds {', '.join(kind.name for kind in wanted)} with other settings than are attached to this "
            f"{type(model).__name__}; call vm.detach(model) first, load attaches what the folder holds."
        )
    try:
        load_memory_state_dict(model, load_file(str(source / "memory.safetensors")))
    except Exception:
        if fresh:
            detach(model)
        raise
    return model


def _require_same_host(model: nn.Module, saved: dict[str, Any], source: Path, family: hosts.Family | None) -> None:
    root = getattr(model, ROOT, None)
    shape = (root.shape if root is not None else hosts.find(model, family).shape).to_dict()
    different = [
        f"{key} {saved.get(key)!r} (this host: {value!r})" for key, value in shape.items() if saved.get(key) != value
    ]
    if different:
        raise ValueError(
            f"the memory in {source} was made for another host: {', '.join(different)}; "
            f"load it onto a host with the numbers it was made for."
        )
