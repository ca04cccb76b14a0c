"""The verbs ``train`` and ``generate`` as plain functions; the command line binds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vademecum import data, devices, kinds, saving, state
from vademecum.data.corpus import TOKENIZER
from vademecum.memory import placing
from vademecum.memory.base import Kind
from vademecum.stores.placement import Placement
from vademecum.surgery import attach, memories
from vademecum.training import checkpoint, metrics, presets, run_file
from vademecum.training.export import export
from vademecum.training.loop import Run
from vademecum.training.progress import duration, progress
from vademecum.training.recipe import MEMORY_SEED, Recipe
from vademecum.training.retokenize import retokenize
from vademecum.training.stream import TextStream

LEAST_NEW = 16  # tokens of continuation that a long prompt leaves room for


def train(
    *,
    out: str | Path,
    data_source: str | Path = "factbook",
    text_field: str = "text",
    host: str = "qwen3",
    size: int = 4,
    vocab_size: int = 4096,
    memory: Sequence[str] = (),
    freeze_host: bool = False,
    recipe: Recipe | None = None,
    fall_back: bool = False,
    tracker: str | None = None,
    device: str | None = None,
    bank: str = "auto",
    bank_cap: int | str | None = None,
    cache: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Run:
    """Train a host with memories, or go on with the run in ``out``, and write ``out/final`` at the end.

    Args:
        out: the run's folder.
        data_source: a source's name or the user's own file or folder.
        text_field: field of .jsonl files that holds the text.
        host: a preset's name, or a folder with a Transformers model and its tokenizer.
        size: dial of a preset; not used for a folder.
        vocab_size: size of the tokenizer trained for a preset; not used for a folder.
        memory: kinds as ``"move:slots=8"``; none is the dense host.
        freeze_host: train and save the memory alone.
        recipe: settings of the training; those that suit the host where None.
        fall_back: go on from the last good checkpoint where the latest is damaged.
        tracker: "tensorboard" or "trackio", besides the metrics file.
        device: such as "cuda"; the GPU where there is one, where None.
        bank: where rows of banks live, as in :func:`vademecum.attach`; what is learned is the same, and a run may go
            on with another place.
        bank_cap: bytes of rows of a bank on disk that may be kept in memory.
        cache: folder of prepared data; the user's cache where None.
        echo: takes lines for the user.

    Raises:
        ValueError, FileNotFoundError: bad settings; the message says what to write instead.
        Interrupted: Ctrl-C; the run is saved.
    """
    chosen: list[Kind] = [kinds.parse(text) for text in memory]
    folder = model_folder(host)
    recipe = recipe or Recipe.for_host(pretrained=folder is not None)
    trackers = [metrics.tracker(tracker)] if tracker else []
    where = devices.chosen(device)
    description = {"host": host, "size": None if folder else size, "seed": recipe.seed, "folder": str(folder or "")}
    corpus = _corpus(data_source, folder, vocab_size=vocab_size, cache=cache, field=text_field)

    def build() -> PreTrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            if folder:
                model = cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
            else:
                model = presets.build_host(host, size=size, vocab_size=corpus.vocab_size, length=recipe.length)
            if freeze_host:
                model.requires_grad_(False)
            torch.manual_seed(recipe.seed + MEMORY_SEED)
            attach(model, *chosen, bank=bank, bank_folder=Path(out) / run_file.BANKS, bank_cap=bank_cap)
        return nn.Module.to(model, where)

    run = Run.open(
        out, build=build, corpus=corpus, recipe=recipe, description=description, trackers=trackers, fall_back=fall_back
    )
    echo(str(memories(run.model)))
    for line in placing.sizes(memories(run.model).banks()):
        echo(line)
    if run.step:
        echo(f"{out} goes on after step {run.step} of {recipe.steps}.")
    shown = progress(recipe.steps, done=run.step)
    try:
        run.advance(on_step=shown)
    finally:
        shown.close()
        run.close()
    final = export(run.folder, run.model, corpus, frozen=run.frozen)
    echo(
        f"{run.tokens:,} tokens in {duration(run.seconds)}: {run.bits_per_byte:.4f} bits per byte of held-out text"
        f"{f', {run.skipped} steps skipped' if run.skipped else ''}. Saved in {final}."
    )
    return run


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def load(
    run: str | Path, *, bank: str = "auto", bank_cap: int | str | None = None
) -> tuple[PreTrainedModel, Tokenizer, int]:
    """Model (evaluation mode), tokenizer and end-of-text id of a run, finished or not, from its last good checkpoint.

    Args:
        run: the run's folder.
        bank: where rows of banks live; on disk they are read in place, from the checkpoint.
        bank_cap: bytes of rows of a bank on disk that may be kept in memory.

    Raises:
        FileNotFoundError: the folder is no run, or the run has no checkpoint yet.
        files.Damaged: no good checkpoint is left.
    """
    folder = Path(run)
    content = run_file.read(folder)
    if "end_id" not in content["data"]:
        raise ValueError(f"{folder} is a run on pictures, not on text: draw from it with 'vademecum image sample'.")
    model = load_model(folder, bank=bank, bank_cap=bank_cap)
    return model, Tokenizer.from_file(str(folder / TOKENIZER)), int(content["data"]["end_id"])


def load_model(run: Path, *, bank: str = "auto", bank_cap: int | str | None = None) -> PreTrainedModel:
    """The model of a run of any medium, in evaluation mode; see :func:`load`."""
    content = run_file.read(run)
    parts = ("memory",) if content["frozen"] else ("host", "memory")
    placement = Placement.of(bank, None, bank_cap)
    model = run_file.rebuild(content)
    saved = _last_good(run, parts, memories(model).banks())
    if saved is None:
        raise FileNotFoundError(
            f"{run} has no checkpoint yet; wait for the first, or train with a lower --checkpoint-every."
        )
    if not content["frozen"]:
        state.load_host_state_dict(model, saved.tensors["host"])
    saving.take(model, saved.tensors["memory"], placement)
    return cast(PreTrainedModel, model.train(False))


def generate(
    run: str | Path,
    prompt: str,
    *,
    max_tokens: int = 100,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    bank: str = "auto",
    bank_cap: int | str | None = None,
    write: Callable[[str], Any] = sys.stdout.write,
    note: Callable[[str], Any] = _on_stderr,
) -> str:
    """Stream a continuation of ``prompt`` from a run.

    Args:
        run: the run's folder; a run that is still training speaks from its last checkpoint.
        prompt: text to go on from; empty starts a new document.
        max_tokens: longest continuation.
        temperature: 0 takes the likeliest token every time.
        top_p: share of the probability that is sampled from.
        seed: of the sampling.
        bank: where rows of banks live, as in :func:`load`.
        bank_cap: bytes of rows of a bank on disk that may be kept in memory.
        write: takes each piece of text as it is ready.
        note: takes a line where prompt and continuation are longer than the host can hold. The prompt is kept as far
            as it leaves room for a few new tokens, its end first.

    Returns:
        The continuation.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens} was given; expected 1 or more.")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature={temperature}, top_p={top_p} was given; expected temperature >= 0 and 0 < top_p <= 1."
        )
    model, tokenizer, end = load(run, bank=bank, bank_cap=bank_cap)
    return sample(
        model,
        tokenizer,
        prompt,
        end=end,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        write=write,
        note=note,
    )


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    end: int,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    write: Callable[[str], Any],
    note: Callable[[str], Any] = _on_stderr,
) -> str:
    """Stream a continuation from a model and its ``tokenizers.Tokenizer``; see :func:`generate`."""
    # Documents were trained on after the end token of the one before, so a prompt stands after one too.
    ids = [end, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    ids, new = _fitted(ids, max_tokens, getattr(model.config, "max_position_embeddings", None), note)
    inputs = torch.tensor([ids], device=model.device)
    stream = TextStream(tokenizer, skip=len(ids), write=write)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.generate(  # type: ignore[operator]
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new,
            eos_token_id=end,
            pad_token_id=end,
            streamer=stream,
            **({"do_sample": False} | sampling),
        )
    return stream.text


def _fitted(ids: list[int], wanted: int, room: int | None, note: Callable[[str], Any]) -> tuple[list[int], int]:
    """The tokens of a prompt that a host of ``room`` positions can go on from, and how many new ones then fit."""
    if room is None or len(ids) + wanted <= room:
        return ids, wanted
    kept = ids[-max(1, room - min(wanted, LEAST_NEW, max(1, room // 4))) :]
    new = min(wanted, room - len(kept))
    cut = f"only its last {len(kept)} are read, and " if len(kept) < len(ids) else ""
    note(
        f"The prompt has {len(ids)} tokens and the host holds {room} in all: {cut}{new} of {wanted} new ones are "
        "written."
    )
    return kept, new


def model_folder(host: str) -> Path | None:
    """The folder that ``host`` names, None where it is a preset."""
    folder = Path(host).expanduser()
    if host in presets.PRESETS:
        return None
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json; give a folder that save_pretrained wrote, or a preset.")
        return folder.resolve()
    presets.find(host)
    return None


def _corpus(source: str | Path, folder: Path | None, *, vocab_size: int, cache: Path | None, field: str) -> data.Corpus:
    corpus = data.prepare(source, vocab_size=vocab_size, cache=cache, field=field)
    if folder is None:
        return corpus
    backend, end = folder_tokenizer(folder)
    return retokenize(corpus, backend, end=end, cache=cache or data.cache_folder())


def folder_tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """The tokenizer of a Transformers model's folder and its end-of-text id.

    Raises:
        ValueError: it is not a fast one, or has no end-of-text token.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    backend, end = getattr(tokenizer, "backend_tokenizer", None), tokenizer.eos_token_id
    if end is None:
        end = tokenizer.convert_tokens_to_ids(data.END)
    if backend is None or end is None:
        raise ValueError(
            f"the tokenizer in {folder} is not a fast one with an end-of-text token; save one there with "
            "tokenizer.save_pretrained (tokenizer.json, and eos_token in tokenizer_config.json)."
        )
    return backend, int(end)


def _last_good(folder: Path, parts: tuple[str, ...], as_tables: Collection[str]) -> checkpoint.Checkpoint | None:
    """The latest checkpoint, or the newest good one before it; a run that is still training is not touched."""
    try:
        return checkpoint.load(folder, parts=parts, as_tables=as_tables)
    except checkpoint.CheckpointDamaged as error:
        if error.last_good is None:
            raise
        return checkpoint.read(error.last_good, parts=parts, as_tables=as_tables)
