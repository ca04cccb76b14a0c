"""A memory on disk: ``memory.json`` says what it is, ``memory.safetensors`` holds it, a manifest proves it whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
        model: a host of the numbers that the memory was made for; its vocabulary may have grown since, the new ids'
            rows then start like those of a fresh memory.
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
        (source / "memory.safetensors").stat()
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        raise ValueError(f"{source} holds no {name}; give load a folder that vm.save wrote.") from None
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
        tensors = load_file(str(source / "memory.safetensors"))
        load_memory_state_dict(model, _grown(tensors, model, int(about["host"]["vocabulary"])))
    except BaseException:
        if fresh:
            detach(model)
        raise
    return model


def _grown(tensors: dict[str, Tensor], model: nn.Module, rows: int) -> dict[str, Tensor]:
    """``tensors`` with the rows that a vocabulary of more than ``rows`` ids needs, as a fresh memory has them."""
    have = memory_state_dict(model)
    for name, tensor in tensors.items():
        wanted = have.get(name)
        grows = wanted is not None and wanted.shape[1:] == tensor.shape[1:] and len(tensor) == rows < len(wanted)
        if wanted is not None and grows:
            tensors[name] = torch.cat([tensor.to(wanted), wanted.detach()[rows:]])
    return tensors


def _require_same_host(model: nn.Module, saved: dict[str, Any], source: Path, family: hosts.Family | None) -> None:
    root = getattr(model, ROOT, None)
    shape = (root.shape if root is not None else hosts.find(model, family).shape).to_dict()
    grown = {"vocabulary": shape["vocabulary"]} if saved.get("vocabulary", 0) < shape["vocabulary"] else {}
    different = [
        f"{key} {saved.get(key)!r} (this host: {value!r})"
        for key, value in shape.items()
        if {**saved, **grown}.get(key) != value
    ]
    if different:
        raise ValueError(
            f"the memory in {source} was made for another host: {', '.join(different)}; "
            f"load it onto a host with the numbers it was made for."
        )
