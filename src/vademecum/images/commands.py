"""The verbs ``image train`` and ``image sample`` as plain functions; the command line binds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from vademecum import devices, files, kinds
from vademecum.images import completing, drawing, making
from vademecum.images.codec import Codec, reconstruction
from vademecum.images.grey import Grey
from vademecum.images.pictures import Pictures
from vademecum.images.sampling import Sampling, draw
from vademecum.images.tokens import FOLDER, Vocabulary, opened
from vademecum.memory import placing
from vademecum.surgery import attach, memories
from vademecum.training import presets, run_file
from vademecum.training.commands import load_model
from vademecum.training.export import export
from vademecum.training.interrupt import Interrupted
from vademecum.training.loop import Run
from vademecum.training.progress import duration, progress
from vademecum.training.recipe import MEMORY_SEED, Recipe

SAMPLES = "samples"
A_CLASS = 8
"""Pictures of each class in a grid."""


def train(
    *,
    out: str | Path,
    source: str | Path = "animals",
    codec: str = "learned",
    side: int | None = None,
    grey: bool | None = None,
    drop: float = 0.1,
    host: str = "qwen3",
    size: int = 4,
    memory: Sequence[str] = (),
    recipe: Callable[[int], Recipe],
    sample_every: int = 0,
    sampling: Sampling | None = None,
    fall_back: bool = False,
    device: str | None = None,
    cache: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Run:
    """Train a host with memories on pictures, or go on with the run in ``out``; write ``out/final`` and grids.

    Args:
        out: the run's folder; ``samples/`` in it gets a grid by class every ``sample_every`` steps and at the end.
        source: a named set or a folder with one sub-folder of pictures for each class.
        codec: :data:`vademecum.images.making.CODEC`.
        side: to which a folder's pictures are brought.
        grey: whether a folder's pictures become grey.
        drop: share of training pictures whose class is hidden, which guidance needs.
        host: a preset's name.
        size: its dial.
        memory: kinds as ``"move:slots=8"``; none is the dense host.
        recipe: settings of the training for pictures of so many tokens.
        sample_every: steps between grids; 0 for one at the end.
        sampling: of the grids.
        fall_back: go on from the last good checkpoint where the latest is damaged.
        device: such as "cuda"; the GPU where there is one, where None.
        cache: folder of prepared data; the user's cache where None.
        echo: takes lines for the user.

    Raises:
        ValueError, FileNotFoundError: bad settings; the message says what to write instead.
        Interrupted: Ctrl-C; the run is saved.
    """
    if sample_every < 0:
        raise ValueError(
            f"sample_every={sample_every} was given; expected steps between grids, or 0 for the end alone."
        )
    # Whatever can be found wrong without a codec is, since learning one takes minutes.
    chosen = [kinds.parse(text) for text in memory]
    presets.require(host, size=size)
    making.require_drop(drop)
    sampling = sampling or Sampling()
    sampling.require(drop)
    where = devices.chosen(device)
    run_file.require_free(Path(out), (FOLDER,))
    pictures = making.read(source, codec=codec, side=side, grey=grey, cache=cache)
    sizes = making.Spec.parse(codec).sizes(pictures)
    settings = recipe(math.prod(sizes.grid))
    description = {"host": host, "size": size, "seed": settings.seed, "folder": ""}
    classes = list(pictures.classes)
    known = {
        "memory": [kind.to_dict() for kind in chosen],
        "recipe": settings.learning(),
        "data": {"classes": classes, "drop": drop, "vocab_size": sizes.codes + len(classes) + 1},
        "description": description,
    }
    _require_same(Path(out), pictures, known)
    tokens = making.in_tokens(pictures, codec=codec, drop=drop, cache=cache).tokens
    echo(pictures.description)
    echo(f"Codec: {reconstruction(tokens.codec, pictures.heldout)}.")

    def build() -> PreTrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = presets.build_host(host, size=size, vocab_size=tokens.vocab_size, length=tokens.length)
            torch.manual_seed(settings.seed + MEMORY_SEED)
            attach(model, *chosen)
        return nn.Module.to(model, where)

    run = Run.open(
        out,
        build=build,
        corpus=tokens,
        recipe=settings,
        description=description,
        fall_back=fall_back,
        notes={"source": str(source), "side": side, "grey": grey, "pictures": pictures.key},
    )
    echo(str(memories(run.model)))
    for line in placing.sizes(memories(run.model).banks()):
        echo(line)
    if run.step:
        echo(f"{out} goes on after step {run.step} of {settings.steps}.")
    shown = progress(settings.steps, done=run.step)
    labels = np.repeat(np.arange(len(tokens.vocabulary.classes)), A_CLASS)

    def sampled() -> None:
        path = run.folder / SAMPLES / f"step-{run.step:06d}.png"
        if not path.is_file():
            ids = draw(
                run.model, tokens.vocabulary, labels, length=tokens.length, sampling=sampling, seed=settings.seed
            )
            drawing.save(path, by_class(tokens.codec.decode(ids), labels, tokens.vocabulary))

    try:
        with _saving(run):
            while True:
                # Before a step, not after it: a run that was stopped while it drew goes on with that grid.
                if run.done or (sample_every and run.step and run.step % sample_every == 0):
                    sampled()
                if run.done:
                    break
                run.advance(sample_every - run.step % sample_every if sample_every else None, on_step=shown)
    finally:
        shown.close()
        run.close()
    final = export(run.folder, run.model, tokens, frozen=run.frozen)
    echo(
        f"{run.step * settings.batch * settings.accumulate:,} pictures in {duration(run.seconds)}: "
        f"{run.bits_per_byte:.4f} bits per dimension of held-out pictures"
        f"{f', {run.skipped} steps skipped' if run.skipped else ''}. Saved in {final}; grids in {run.folder / SAMPLES}."
    )
    return run


def _require_same(out: Path, pictures: Pictures, known: Mapping[str, Any]) -> None:
    """Refuse a run in ``out`` that is another than what is ``known`` of the new one before its codec is made."""
    if not (out / run_file.FILE).is_file():
        return
    before = run_file.read(out)
    if "classes" not in before["data"]:
        raise ValueError(f"{out} holds a run on text, and pictures were given; write to a new folder.")
    run_file.require_same(out, known)
    told = before.get("notes", {})
    if told.get("pictures", pictures.key) != pictures.key:
        raise ValueError(
            f"{out} holds a run on other pictures ({told.get('data')}), and {pictures.description} were given; give "
            "those it was started with, or write to a new folder."
        )


@contextmanager
def _saving(run: Run) -> Iterator[None]:
    """Save a run that is interrupted between its steps, as it saves itself within one."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        saved = run.checkpoint()
        if saved is None:
            raise
        raise Interrupted(f"stopped and saved in {saved}; the same command goes on from there.") from error


@dataclass(frozen=True, eq=False)
class Opened:
    """A run on pictures, ready to draw: ``tokens`` is how many a picture has.

    ``grey`` is what a folder's pictures must be prepared with, so that they are those of the run.
    """

    model: PreTrainedModel
    codec: Codec
    vocabulary: Vocabulary
    grey: bool | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return self.codec.grid[0] * self.codec.grid[1]


def load(run: str | Path, device: str | None = None) -> Opened:
    """Model (evaluation mode), codec and vocabulary of a run on pictures, from its last good checkpoint.

    Raises:
        FileNotFoundError: the folder is no run on pictures, or has no checkpoint yet.
        files.Damaged: codec or checkpoints are damaged.
    """
    folder = Path(run)
    notes = run_file.read(folder).get("notes", {})
    codec, vocabulary = opened(folder)
    model = nn.Module.to(load_model(folder), devices.chosen(device))
    # A learned codec has the channels of its pictures; one of grey levels has one, whatever they were.
    grey = notes.get("grey") if isinstance(codec, Grey) else codec.channels == 1
    return Opened(model, codec, vocabulary, grey)


def sample(
    run: str | Path,
    *,
    out: str | Path | None = None,
    classes: Sequence[str] = (),
    count: int = A_CLASS,
    sampling: Sampling | None = None,
    seed: int = 0,
    batch: int = 64,
    complete: str | Path | None = None,
    given: float = 0.5,
    scale: int = 2,
    device: str | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Draw ``count`` pictures of each class (all where none is given) and write them as one grid.

    Args:
        run: the run's folder; one that is still training draws from its last checkpoint.
        out: the PNG file; ``samples/`` in the run's folder where None.
        classes: names.
        count: pictures of each class.
        sampling: how tokens are chosen.
        seed: of the draws; equal seeds, equal pictures.
        batch: pictures at a time.
        complete: a source whose held-out pictures are begun with: their first rows are given, the rest is drawn. The
            grid then shows, for each class, originals, what was given of them, and completions.
        given: share of a picture's rows that is given.
        scale: pixels of the PNG for each pixel.
        device: such as "cuda".
        echo: takes lines for the user.

    Returns:
        The PNG's path.
    """
    if count < 1 or batch < 1 or scale < 1:
        raise ValueError(f"count={count}, batch={batch}, scale={scale} were given; each must be 1 or more.")
    if not 0 < given < 1:
        raise ValueError(f"given={given} was given; expected a share of the picture above 0 and below 1, such as 0.5.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed} was given; expected a whole number from 0 to 2**63 - 1, such as 0.")
    name = f"{'completed' if complete else 'drawn'}-seed-{seed}.png"
    path = Path(out) if out else Path(run) / SAMPLES / name
    sampling = sampling or Sampling()
    found = load(run, device)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a PNG file, such as {path / name}.")
    files.require_writable(path.parent)
    sampling.require(found.vocabulary.drop)
    wanted = [found.vocabulary.label(name) for name in classes or found.vocabulary.classes]
    labels = np.repeat(np.array(wanted, dtype=np.int64), count)
    originals = None if complete is None else completing.originals_of(found, complete, wanted, count)
    rows = max(1, round(given * found.codec.grid[0]))
    begun = None if originals is None else completing.begun(found.codec, originals, rows)
    if begun is not None and begun.shape[1] == found.tokens:
        raise ValueError(f"given={given} leaves nothing to draw of {found.codec.grid[0]} rows of tokens; give less.")
    with tqdm(total=len(labels), desc="drawing", unit="picture") as shown:
        ids = draw(
            found.model,
            found.vocabulary,
            labels,
            length=found.tokens,
            sampling=sampling,
            seed=seed,
            begun=begun,
            batch=batch,
            on_step=shown.update,
        )
    pictures = found.codec.decode(ids)
    if originals is None:
        image = by_class(pictures, labels, found.vocabulary, scale)
    else:
        image = completing.shown(found, originals, pictures, labels, rows, scale)
    drawing.save(path, image)
    echo(f"{len(labels)} pictures in {path}.")
    return path


def by_class(pictures: NDArray[np.uint8], labels: NDArray[np.int64], vocabulary: Vocabulary, scale: int = 2) -> Any:
    """A row for each class that occurs, named."""
    names = {label: vocabulary.classes[label] for label in dict.fromkeys(labels.tolist())}
    return drawing.labelled({name: pictures[labels == label] for label, name in names.items()}, scale=scale)
