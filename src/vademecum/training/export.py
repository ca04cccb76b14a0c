"""``final/``: a finished run in the formats other tools read."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from vademecum import files, saving, state
from vademecum.data import Material

FOLDER = "final"
#: The memory's folder in it.
MEMORY = "memory"


def export(run: Path, model: PreTrainedModel, material: Material, *, frozen: bool) -> Path:
    """Write ``final/`` of a run: the host as a Transformers folder (unless it was frozen), ``memory/``, the tokenizer.

    For pictures their codec stands in the tokenizer's place.

    The folder loads with ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``, and
    ``vm.load(model, folder / "memory")`` puts the memory back on it.

    Returns:
        The folder.
    """
    target = run / FOLDER

    def fill(folder: Path) -> None:
        if not frozen:
            plain_host(model).save_pretrained(folder)
        saving.save(model, folder / MEMORY)
        material.export(folder)

    files.write_folder(target, fill)
    return target


def plain_host(model: PreTrainedModel) -> PreTrainedModel:
    """A host of its own with the weights (shared, not copied) that ``model`` has under its memory."""
    with torch.device("meta"):
        host = type(model)(model.config)
    tensors = {name: tensor.detach() for name, tensor in state.host_state_dict(model).items()}
    _, unexpected = host.load_state_dict(tensors, strict=False, assign=True)
    if unexpected:
        raise ValueError(
            f"{type(model).__name__} has no place for {unexpected[0]}; its config was changed after it was built."
        )
    host.tie_weights()
    host.generation_config = model.generation_config
    return host
