"""What fewer bits cost, in a bank's rows and in the host's weights: the study ``compression``.

A trained model is compressed after training in one part at a time, by the same formats, and compared with itself as it
was: how far its predictions move (Kullback-Leibler divergence), and what that does to bits per byte of held-out text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from vademecum import data, files
from vademecum.compare import runner
from vademecum.inspection import subject
from vademecum.inspection.subject import Subject
from vademecum.ops import codes
from vademecum.ops.codes import FORMATS, Format
from vademecum.stores.base import Store
from vademecum.studies import compression_page
from vademecum.studies.curve import BOTH, PARTS, ROWS, SILENT, WEIGHTS, WIDEST_FIRST, Curve, Point, table
from vademecum.surgery import knocked_out, memories
from vademecum.training import run_file
from vademecum.training.evaluate import evaluating
from vademecum.training.retokenize import retokenize

BATCH = 16


def run(
    folder: Path,
    out: Path | None = None,
    *,
    arm: str | None = None,
    text: str | None = None,
    tokens: int = 30_000,
    command: str = "",
    echo: Callable[[str], None] = print,
) -> Path:
    """Measure the curve of what lies in ``folder`` and write ``report.html``, ``figures/`` and ``compression.csv``.

    Args:
        folder: of a run, of a comparison (then ``arm`` says which, and all its seeds are measured) or of a model with
            a memory.
        out: where to write; a folder inside ``folder`` where None.
        arm: arm of a comparison.
        text: source or file whose held-out part is read; what the run was trained on where None.
        tokens: held-out tokens that are read, spread evenly over the text.
        command: how the study was asked for.
        echo: takes lines for the user.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError, ValueError: ``folder`` holds nothing to measure, or no value memory; the message says what to
            give instead.
    """
    if tokens < 1:
        raise ValueError(f"tokens={tokens} was given; expected 1 or more.")
    points: list[Point] = []
    read, count, said = "", 0, arm or folder.name
    for seed, found in _subjects(folder, arm):
        corpus = _corpus(found, text)
        windows = corpus.heldout_windows(found.length, max(1, tokens // found.length))
        for point in measured(found, corpus, windows, seed):
            points.append(point)
            echo(
                f"seed {seed}, {point.part} {point.form}: divergence {point.divergence:.3g} bits, "
                f"{point.excess:+.4f} bits per byte"
            )
        read, count = corpus.name, windows[:, 1:].size
    curve = Curve(tuple(points), said, read, count)
    place = out or folder / ("compression" if arm is None else f"compression-{arm}")
    files.write_file(place / "compression.csv", table(curve))
    path = compression_page.write(curve, place, command=command)
    for sentence in compression_page.sentences(curve):
        echo(sentence)
    echo(f"\nReport: {path}")
    return path


def measured(found: Subject, corpus: data.Corpus, windows: NDArray[np.int64], seed: int) -> Iterator[Point]:
    """The points of one model, from many bits to few, with the memory silenced at the end.

    Raises:
        ValueError: it has no value memory.
    """
    exact = found.model
    banks = memories(exact).banks()
    if not banks:
        kinds = ", ".join(kind.name for kind in memories(exact).kinds.values())
        raise ValueError(f"{found.folder} has no bank ({kinds}); give a run with a value memory, such as move or lave.")
    model = copy.deepcopy(exact)
    size = corpus.covered_bytes(windows[:, 1:])
    plain = compared(exact, exact, windows)[1] / size

    def point(part: str, name: str, bits: float, values: int, error: float) -> Point:
        divergence, needed = compared(exact, model, windows)
        return Point(seed, part, name, bits, values, error, divergence / windows[:, 1:].size, needed / size, plain)

    for part in PARTS:
        for name in WIDEST_FIRST:
            yield point(part, name, *compress(exact, model, FORMATS[name], part))
    compress(exact, model, FORMATS["fp32"], BOTH)
    with knocked_out(model):
        yield point(ROWS, SILENT, 0.0, sum(math.prod(bank.table().shape) for bank in banks.values()), 1.0)


def linear_maps(model: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """The host's linear maps by name; neither the one to the vocabulary nor anything of a memory is among them."""
    root = memories(model)
    inside = {id(each) for module in root.named().values() for each in module.modules()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and id(module) not in inside
    }


@torch.no_grad()
def compress(exact: nn.Module, model: nn.Module, form: Format, part: str) -> tuple[float, int, float]:
    """Give ``model`` the values of ``exact``, those of ``part`` as ``form`` gives them back.

    Returns:
        Bits per value of the part, how many values it has, and its relative error.
    """
    tally = _Tally(form)
    tables: list[tuple[Store, Store]] = [
        (theirs.table(), bank.table())
        for theirs, bank in zip(memories(model).banks().values(), memories(exact).banks().values(), strict=True)
    ]
    for into, source in tables:
        into.fill(tally.through(chunk, part != WEIGHTS) for chunk in source.chunks())
    for mine, true in zip(linear_maps(model).values(), linear_maps(exact).values(), strict=True):
        # Blocks lie along the input, as those of a row lie along its width.
        weight = true.weight.t() if isinstance(true, Conv1D) else true.weight
        back = tally.through(weight.unsqueeze(1), part != ROWS).squeeze(1)
        mine.weight.copy_(back.t() if isinstance(true, Conv1D) else back)
    return tally.bits / tally.values, tally.values, math.sqrt(tally.off / tally.square)


class _Tally:
    """Sums over all that was compressed."""

    def __init__(self, form: Format) -> None:
        self.form, self.bits, self.values, self.off, self.square = form, 0.0, 0, 0.0, 0.0

    def through(self, rows: Tensor, compressed: bool) -> Tensor:
        """``rows`` ``[U, M, W]`` as they come back, in their own dtype; as they are where nothing is asked for."""
        if not compressed:
            return rows
        slots, width = rows.shape[1:]
        back = codes.decode(codes.encode(rows, self.form), self.form, slots, width)
        self.bits += rows.numel() * self.form.bits_per_value(width)
        self.values += rows.numel()
        self.off += float((rows.double() - back.double()).square().sum())
        self.square += float(rows.double().square().sum())
        return back.to(rows.dtype)


@torch.no_grad()
def compared(exact: nn.Module, model: nn.Module, windows: NDArray[np.int64]) -> tuple[float, float]:
    """Sums over the targets of ``windows``, in bits: how far ``model`` is from ``exact``, and what it needs itself."""
    device = next(model.parameters()).device
    divergence = needed = 0.0
    with evaluating(exact), evaluating(model):
        for start in range(0, len(windows), BATCH):
            ids = torch.from_numpy(windows[start : start + BATCH]).to(device, torch.int64)
            true, mine = (_log_probabilities(each, ids[:, :-1]) for each in (exact, model))
            divergence += float((true.exp() * (true - mine)).sum())
            needed += float(functional.nll_loss(mine, ids[:, 1:].flatten(), reduction="sum"))
    return divergence / math.log(2), needed / math.log(2)


def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    """``[B*T, vocabulary]`` in double precision, since divergences are differences of nearly equal numbers."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return functional.log_softmax(logits.double().flatten(0, 1), dim=-1)


def _subjects(folder: Path, arm: str | None) -> Iterator[tuple[int, Subject]]:
    """Every seed's model; runs that diverged have none."""
    plan = runner.read_plan(folder) if folder.is_dir() else None
    if plan is None or arm is None:
        yield 0, subject.find(folder, arm)
        return
    subject.find(folder, arm)  # its errors name what is missing
    for seed in plan.seeds:
        place = runner.run_folder(folder, plan.data[0], seed, arm)
        if (place / run_file.FILE).is_file():
            yield seed, subject.find(place)


def _corpus(found: Subject, text: str | None) -> data.Corpus:
    """The text that is read, in the model's tokens."""
    content = run_file.read(found.folder) if (found.folder / run_file.FILE).is_file() else None
    if content is None and text is None:
        raise ValueError(f"{found.folder} does not say what it was trained on; give a text with --data.")
    about = content["data"] if content is not None else {}
    size = int(about.get("vocab_size", found.tokenizer.get_vocab_size()))
    corpus = data.prepare(text or about["name"], vocab_size=max(257, size))
    if corpus.key == about.get("key"):
        return corpus
    if text is None:
        raise ValueError(
            f"the text {about['name']} that {found.folder} was trained on is not the one that is found by that name "
            "now; give it, or another, with --data."
        )
    return retokenize(corpus, found.tokenizer, end=found.end, cache=data.cache_folder())
