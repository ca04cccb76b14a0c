"""Run by test_resume in a process of its own: trains runs that are killed with SIGKILL, opens them again.

Each run lives in a fork of a process that has imported everything and computed nothing, so a scenario costs no import.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny_runs import Corpus, build, recipe

import vademecum as vm
from vademecum import files
from vademecum.training import Run, checkpoint, metrics


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def nth_call(count, function, killed):
    """``function`` until its ``count``-th call, which is ``killed`` instead."""
    calls = iter(range(1, 10_000))

    def wrapped(*args, **kwargs):
        return (killed if next(calls) == count else function)(*args, **kwargs)

    return wrapped


def half_a_file(tensors, path):
    Path(path).write_bytes(b"\0" * 1000)
    die()


def half_a_folder(path, **_):
    next(iter(sorted(Path(path).iterdir()))).unlink()
    die()


def kill_after_step(step):
    return lambda line: die() if line["step"] == step else None


def in_checkpoint(module, name, count=2, killed=die):
    """Kill within the ``count``-th call of ``module.name``; returns no callback."""

    def arm():
        setattr(module, name, nth_call(count, getattr(module, name), killed))

    return arm


SCENARIOS = {
    "before the first checkpoint": kill_after_step(2),
    "between checkpoints": kill_after_step(7),
    "at a step that is due, before it is saved": kill_after_step(8),
    "at the last step": kill_after_step(12),
    "halfway through a file of the second checkpoint": in_checkpoint(checkpoint, "save_file", 5, half_a_file),
    "before the second checkpoint is sealed": in_checkpoint(files, "_seal"),
    "before the second checkpoint is renamed": in_checkpoint(files, "_swap"),
    "before latest is moved": in_checkpoint(files, "move_pointer"),
    "while an old checkpoint is removed": in_checkpoint(checkpoint.shutil, "rmtree", 3, half_a_folder),
}


def train(folder, optimizer, arm=None):
    on_step = None
    if arm is not None:
        on_step = arm if not arm.__qualname__.startswith("in_checkpoint") else arm()
    kinds = (vm.MoVE(slots=2), vm.MoE(experts=4, top_k=2, balance="bias"))
    run = Run.open(
        folder,
        build=lambda: build(*kinds, dropout=True),
        corpus=Corpus(),
        recipe=recipe(optimizer=optimizer, keep=1, accumulate=2),
    )
    run.advance(on_step=on_step)
    digest = hashlib.sha256()
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    steps, evaluations = metrics.read(folder)
    result = {
        "weights": digest.hexdigest(),
        "steps": [[line["step"], line["loss"], line["norms"], line["lr"], line["tokens"]] for line in steps],
        "evaluations": [[line["step"], line["bits_per_byte"], line.get("inside")] for line in evaluations],
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }
    (folder / "result.json").write_text(json.dumps(result))


def forked(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_from_outside(folder, optimizer):
    pid = forked(lambda: train(folder, optimizer))
    lines = folder / "metrics.jsonl"
    while not lines.exists() or lines.read_bytes().count(b"\n") < 6:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return status(pid)


def main(root):
    torch.set_num_threads(1)
    results = {}
    for optimizer in ("adamw", "muon"):
        whole = root / optimizer / "whole"
        first = status(forked(lambda o=optimizer, f=whole: train(f, o)))
        results[optimizer] = {"never killed": {"first": first, **json.loads((whole / "result.json").read_text())}}
        for name, arm in SCENARIOS.items():
            folder = root / optimizer / name
            first = status(forked(lambda o=optimizer, f=folder, a=arm: train(f, o, a)))
            results[optimizer][name] = {"first": first, **again(folder, optimizer)}
        folder = root / optimizer / "outside"
        first = killed_from_outside(folder, optimizer)
        results[optimizer]["at an arbitrary moment from outside"] = {"first": first, **again(folder, optimizer)}
    print(json.dumps(results))


def again(folder, optimizer):
    second = status(forked(lambda: train(folder, optimizer)))
    return {"second": second, **json.loads((folder / "result.json").read_text())}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
