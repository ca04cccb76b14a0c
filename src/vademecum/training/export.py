"""``final/``: a finished run in the formats other tools read."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vademecum import files, saving, state
from vademecum.training import run_file

FOLDER = "final"
#: The memory's folder in it.
MEMORY = "memory"


def export(run: Path, model: PreTrainedModel, *, frozen: bool) -> Path:
    """Write ``final/`` of a run: the host as a Transformers folder (unless it was frozen), ``memory/``, the tokenizer.

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
        _tokenizer(run).save_pretrained(folder)
        # As the run has it, byte for byte: save_pretrained writes the same tokens in another order.
        (folder / run_file.TOKENIZER).write_bytes((run / run_file.TOKENIZER).read_bytes())

    files.write_folder(target, fill)
    return target


def _tokenizer(run: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer with the end token that its documents are parted by."""
    backend = Tokenizer.from_file(str(run / run_file.TOKENIZER))
    end = backend.id_to_token(int(run_file.read(run)["data"]["end_id"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end)  # type: ignore[no-untyped-call]


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
