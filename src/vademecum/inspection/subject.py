"""What is inspected: a run, an arm of a comparison, or a folder with a Transformers model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import vademecum as vm
from vademecum import devices, files, state
from vademecum.training import checkpoint, commands, run_file

PLAN = "plan.json"  # what a comparison's folder holds
LONGEST = 256  # tokens of a window, for a model that does not say what it was trained on


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode and what is known of it.

    Attributes:
        folder: where it was read from.
        model: on the device it will run on.
        tokenizer: the model's.
        end: id of the token between documents.
        length: tokens of a window, as it was trained.
        trained_on: description of the run's text; "" where the folder does not say.
        on_domains: whether that text was the seven domains, so that what is held out was really held out.
        steps: checkpoints of the run, oldest first; none for a plain folder.
        frozen: whether the run trained and kept its memory alone.
        skipped: steps of damaged checkpoints, once :meth:`earlier` has met them.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: Tokenizer
    end: int
    length: int
    trained_on: str = ""
    on_domains: bool = False
    steps: tuple[int, ...] = ()
    frozen: bool = False
    skipped: list[int] = field(default_factory=list)

    def earlier(self) -> Iterator[int]:
        """Put each earlier checkpoint into the model, oldest first, and yield its step; the last one is back after.

        A damaged checkpoint is left out; its step is appended to ``skipped``.
        """
        parts = ("memory",) if self.frozen else ("host", "memory")
        for step in self.steps:
            try:
                saved = checkpoint.read(checkpoint.folder_of(self.folder, step), parts=parts)
            except (files.Damaged, FileNotFoundError):
                self.skipped.append(step)
                continue
            if not self.frozen:
                state.load_host_state_dict(self.model, saved.tensors["host"])
            state.load_memory_state_dict(self.model, saved.tensors["memory"])
            yield step


def find(run: Path, arm: str | None = None) -> Subject:
    """Load what lies in ``run``, onto the GPU where there is one.

    Args:
        run: folder of a run, of a comparison (then ``arm`` says which), or of a model and its tokenizer.
        arm: arm of a comparison; its first source and first seed are taken.

    Raises:
        FileNotFoundError: there is no such folder, or a run without a checkpoint.
        ValueError: the folder holds none of the three, an arm is missing or not asked for, or the tokenizer is no fast
            one.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"There is no folder {run}; give the folder that train or compare was told as --out.")
    if (run / PLAN).is_file():
        from vademecum.compare import commands as comparing  # imports all of compare: only where one is inspected

        run = comparing.find_run(run, arm)
    elif arm is not None:
        raise ValueError(f"--arm {arm} was given, but {run} holds no comparison; leave --arm out.")
    if (run / run_file.FILE).is_file():
        return _run(run)
    if (run / "config.json").is_file():
        return _plain(run)
    raise ValueError(
        f"{run} holds no run ({run_file.FILE}), no comparison ({PLAN}) and no Transformers model (config.json); "
        "give the folder that train or compare was told as --out, or one that save_pretrained wrote."
    )


def _run(folder: Path) -> Subject:
    model, tokenizer, end = commands.load(folder)
    content = run_file.read(folder)
    return Subject(
        folder=folder,
        model=_placed(model),
        tokenizer=tokenizer,
        end=end,
        length=int(content["recipe"]["length"]),
        trained_on=str(content["data"]["description"]),
        on_domains=content["data"]["name"] == "domains",
        steps=tuple(checkpoint.steps(folder)),
        frozen=bool(content["frozen"]),
    )


def _plain(folder: Path) -> Subject:
    tokenizer, end = commands.folder_tokenizer(folder)
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder))
    if (folder / "memory").is_dir():
        model = vm.load(model, folder / "memory")
    longest = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None) or LONGEST
    return Subject(
        folder=folder,
        model=_placed(model.train(False)),
        tokenizer=tokenizer,
        end=end,
        length=min(LONGEST, int(longest)),
    )


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return nn.Module.to(model, devices.chosen(None))
