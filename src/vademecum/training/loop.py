"""The training loop: one class, one step, in the order things happen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vademecum import state
from vademecum.data import Material
from vademecum.stores.base import Store
from vademecum.surgery import prefetch, record
from vademecum.training import checkpoint, run_file, schedule, watch
from vademecum.training.checkpoint import Checkpoint
from vademecum.training.evaluate import bits_per_byte
from vademecum.training.interrupt import Interrupted, stop_request
from vademecum.training.metrics import JsonLines, Sink, Tracker
from vademecum.training.optimizer import Optimizer
from vademecum.training.random_state import RandomState
from vademecum.training.recipe import Recipe

PATIENCE = 10


class Diverged(RuntimeError):
    """Ten steps in a row had a loss or gradient that was not finite."""


class Run:
    """One training run in a folder; made by :meth:`open`.

    Everything it does is a function of the model it starts from, the corpus, the recipe and the step, so that a run
    killed at any point and opened again walks on as if nothing had happened, bit for bit (same machine, same number of
    threads, same versions).

    Attributes:
        folder: where ``run.json``, ``metrics.jsonl`` and ``checkpoints/`` lie.
        model: host with attached memory.
        step: steps made.
        seconds: time spent in steps; evaluations and checkpoints are not counted.
        skipped: steps whose loss or gradient was not finite, and which changed no weight.
        bits_per_byte: the last evaluation, None before the first.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, corpus: Material, recipe: Recipe) -> None:
        self.folder, self.model, self.corpus, self.recipe = folder, model, corpus, recipe
        self.optimizer = Optimizer(model, recipe)
        self.frozen = "host" not in self.optimizer.roles
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.bits_per_byte: float | None = None
        self._skipped_in_a_row = 0
        self._saved: int | None = None
        self._inside = False
        self._random = RandomState(recipe.seed)
        self._lines = JsonLines(folder)
        self._sinks: tuple[Sink, ...] = (self._lines,)
        self._device = next(model.parameters()).device
        _require_room(model, recipe.length)
        # Too short a text is found now, not at the first evaluation.
        corpus.heldout_windows(recipe.length, 1)
        corpus.windows(seed=0, step=0, batch=1, length=recipe.length)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        build: Callable[[], PreTrainedModel],
        corpus: Material,
        recipe: Recipe,
        description: Mapping[str, Any] | None = None,
        trackers: Iterable[Tracker] = (),
        fall_back: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run, or go on with the one that lies in ``folder`` from its last checkpoint.

        Args:
            folder: where the run lives; made where it is absent.
            build: gives the host with its memory attached (``vm.NoMemory()`` for none), the same at every call.
            corpus: what is learned from, such as a :class:`vademecum.data.Corpus`.
            recipe: settings; those that decide what is learned must be those the run was started with.
            description: what the caller wants kept in ``run.json``; must not change either.
            trackers: make where numbers go besides ``metrics.jsonl``; called once the folder is known to be the run's.
            fall_back: take the newest good checkpoint where the latest is damaged.
            notes: what the caller wants told in ``run.json`` of a new run, and may change.

        Raises:
            checkpoint.CheckpointDamaged: the latest checkpoint is damaged; says which is the last good one.
            checkpoint.OtherArchitecture: the run belongs to a model of another architecture.
            ValueError: the run was started with another recipe, corpus, frozen host or description.
        """
        run_file.require_free(Path(folder), corpus.kept)
        run = cls(Path(folder), build(), corpus, recipe)
        run_file.open_or_check(run.folder, run.model, corpus, recipe, description or {}, frozen=run.frozen, notes=notes)
        saved = checkpoint.load(run.folder, fall_back=fall_back, as_tables=run._tables())
        if saved is not None:
            run._restore(saved)
        run._lines.rewind(run.step)
        run._sinks += tuple(make(run.folder, run.step) for make in trackers)
        return run

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.recipe.steps

    @property
    def tokens(self) -> int:
        """Target tokens seen."""
        return self.step * self.recipe.tokens_per_step

    def advance(self, steps: int | None = None, on_step: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        """Make ``steps`` more steps, or all that are left; log each, evaluate and save when due.

        Args:
            steps: how many at most.
            on_step: called with every training line after it is logged.

        Raises:
            Diverged: ten steps in a row were skipped.
            Interrupted: Ctrl-C or SIGTERM; the run is saved.
            RuntimeError: an earlier call was torn out of a step, whose weights are no step's; open the run again.
        """
        if self._inside:
            raise RuntimeError(
                f"{self.folder} was interrupted inside a step; open it again with Run.open, which goes on from the "
                "last checkpoint."
            )
        last = self.recipe.steps if steps is None else min(self.recipe.steps, self.step + steps)
        self.model.train()
        with self._random.active(), stop_request() as stop:
            while self.step < last:
                self._inside = True
                line = self._train_step()
                self._log(line)
                if on_step is not None:
                    on_step(line)
                self._require_progress(line)
                if self._due(self.recipe.eval_every):
                    self.bits_per_byte = self.evaluate(self.recipe.eval_tokens)
                    self._log({"bits_per_byte": self.bits_per_byte} | self._seen())
                self._inside = False
                if stop.made or self._due(self.recipe.checkpoint_every):
                    self.checkpoint()
                if stop.made:
                    raise Interrupted(
                        f"stopped after step {self.step} of {self.recipe.steps} and saved in {self.folder}; "
                        "the same command goes on from there."
                    )

    def warm_up(self) -> None:
        """A forward and backward that teach nothing, so that no step is charged for what is loaded or compiled once.

        Gradients are dropped, and buffers and random numbers are put back: what is learned stays the same, bit for bit.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.train()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), record(self.model, tokens=False):
            self._loss(self.step * self.recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])

    def evaluate(self, limit: int | None = None) -> float:
        """Held-out bits per byte over ``limit`` tokens, all where None or 0."""
        recipe = self.recipe
        return bits_per_byte(
            self.model, self.corpus, length=recipe.length, batch=recipe.batch, tokens=limit or 0, dtype=recipe.dtype
        )

    def inside(self) -> dict[str, dict[str, float]]:
        """What goes on in experts and slots, by layer, over ``recipe.watch_tokens`` held-out tokens (see ``watch``)."""
        recipe = self.recipe
        return watch.inside(
            self.model, self.corpus, length=recipe.length, tokens=recipe.watch_tokens, dtype=recipe.dtype
        )

    def checkpoint(self) -> Path | None:
        """Save everything that the next step depends on; returns the checkpoint's folder.

        A run that was torn out of a step, or out of the lines that belong to it, is not saved: it is no step's state.
        The last checkpoint stands, from which the run can be opened again, and is returned; None where there is none.
        """
        if self._inside:
            return None if self._saved is None else checkpoint.folder_of(self.folder, self._saved)
        target = checkpoint.folder_of(self.folder, self.step)
        if self._saved == self.step:
            return target
        self._lines.sync()
        counters = {
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "bits_per_byte": self.bits_per_byte,
            "random": self._random.to_dict(),
        }
        tensors = {**self.tensors(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder, self.step, tensors, counters, keep=self.recipe.keep)
        self._saved = self.step
        return target

    def tensors(self) -> dict[str, Mapping[str, state.Rows]]:
        """What the run learns: the memory, and the host unless it is frozen."""
        memory = state.memory_state_dict(self.model)
        host: Mapping[str, state.Rows] = {} if self.frozen else state.host_state_dict(self.model)
        return {"memory": memory} if self.frozen else {"host": host, "memory": memory}

    def _tables(self) -> set[str]:
        """Names of what is larger than memory, or may be."""
        named = [*state.memory_state_dict(self.model).items(), *self.optimizer.state_dict().items()]
        return {name for name, value in named if isinstance(value, Store)}

    def close(self) -> None:
        """Finish writing metrics."""
        for sink in self._sinks:
            sink.close()

    def _train_step(self) -> dict[str, Any]:
        recipe, start = self.recipe, time.perf_counter()
        factor = schedule.factor(self.step, steps=recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
        total, told = torch.zeros((), device=self._device), watch.Told()
        with record(self.model, tokens=False) as recording:
            for part in range(recipe.accumulate):
                loss = self._loss(self.step * recipe.accumulate + part) / recipe.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
                told.take(recording)
        norms, extra = self.optimizer.grad_norms(), told.numbers()
        # The one wait for the device in a step: loss, norms and what was told come over together.
        loss_value, *values = torch.stack([total, *norms.values(), *extra.values()]).tolist()
        norm_values = dict(zip(norms, values, strict=False))
        extra_values = dict(zip(extra, values[len(norms) :], strict=True))
        values = values[: len(norms)]
        if all(math.isfinite(value) for value in (loss_value, *values)):
            self.optimizer.step(factor=factor, norms=norm_values)
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
        self.optimizer.zero_grad()
        self.step += 1
        took = time.perf_counter() - start
        self.seconds += took
        return {
            "loss": loss_value,
            "lr": recipe.lr * factor,
            "norms": norm_values,
            **watch.nested(extra_values),
            "skipped": self.skipped,
            "tokens_per_second": recipe.tokens_per_step / took,
        }

    def _loss(self, batch_number: int) -> Tensor:
        recipe, window = self.recipe, self._window(batch_number)
        ids = torch.from_numpy(window).to(self._device, non_blocking=True)
        # shift_labels: the window already holds one token more than the model sees, so no position goes to waste.
        inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.dtype == "bf16"):
            output = self.model(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False)
        # The next batch is a function of its number: its rows can be on their way while this one goes backward.
        prefetch(self.model, torch.from_numpy(self._window(batch_number + 1))[:, :-1])
        loss: Tensor = output.loss
        return loss

    def _window(self, batch_number: int) -> Any:
        """``[batch, length + 1]`` ids."""
        recipe = self.recipe
        return self.corpus.windows(seed=recipe.seed, step=batch_number, batch=recipe.batch, length=recipe.length)

    def _seen(self) -> dict[str, Any]:
        found = self.inside() if self.recipe.watch_tokens else {}
        return {"inside": found} if found else {}

    def _due(self, every: int) -> bool:
        return self.done or (every > 0 and self.step % every == 0)

    def _log(self, values: dict[str, Any]) -> None:
        values |= {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        for sink in self._sinks:
            sink.log(self.step, values)

    def _require_progress(self, line: Mapping[str, Any]) -> None:
        if self._skipped_in_a_row < PATIENCE:
            return
        raise Diverged(
            f"loss {line['loss']} and gradient norms {line['norms']} at step {self.step}: {PATIENCE} steps in a row "
            "were not finite, and the run was halted. Start again in a new folder with a lower rate than "
            f"lr={self.recipe.lr}"
            f"{', or with dtype=fp32' if self.recipe.dtype == 'bf16' else ''}."
        )

    def _restore(self, saved: Checkpoint) -> None:
        checkpoint.require_fit(saved.tensors, self.tensors(), saved.folder)
        if not self.frozen:
            state.load_host_state_dict(self.model, saved.tensors["host"])
        state.load_memory_state_dict(self.model, saved.tensors["memory"])
        self.optimizer.load_state_dict(saved.tensors["optimizer"])
        counters = saved.state
        self.step = self._saved = counters["step"]
        self.seconds, self.skipped = counters["seconds"], counters["skipped"]
        self._skipped_in_a_row = counters["skipped_in_a_row"]
        self.bits_per_byte = counters["bits_per_byte"]
        self._random.load(counters["random"])


def _require_room(model: PreTrainedModel, length: int) -> None:
    room = getattr(model.config, "max_position_embeddings", None)
    if room and length > room:
        raise ValueError(
            f"length={length} was given, and this {type(model).__name__} has {room} positions; write {room} or less "
            f"(--length {room})."
        )
