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
from vademecum import files, state
from vademecum.stores import tables
from vademecum.stores.base import Store
from vademecum.training import Run, checkpoint, metrics


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def nth_call(count, function, killed):
    """``function`` until its ``count``-th call, which is ``killed`` instead."""
    calls = iter(range(1, 10_000))

    def wrapped(*args, **kwargs):
        return (killed if next(calls) == count else function)(*args, **kwargs)

    return wrapped


def half_a_file(path, tensors):
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
    "halfway through a file of the second checkpoint": in_checkpoint(tables, "write", 5, half_a_file),
    "before the second checkpoint is sealed": in_checkpoint(files, "_seal"),
    "before the second checkpoint is renamed": in_checkpoint(files, "_swap"),
    "before latest is moved": in_checkpoint(files, "move_pointer"),
    "while an old checkpoint is removed": in_checkpoint(checkpoint.shutil, "rmtree", 3, half_a_folder),
}


#: Settings of the recipe, and where the bank lives.
VARIANTS = {
    "adamw": ({}, {"bank": "device"}),
    "muon": ({"optimizer": "muon"}, {"bank": "ram"}),
    "bank on disk": ({"bank_rule": "adam"}, {"bank": "disk", "bank_cap": 150_000}),
}


def train(folder, variant, arm=None):
    on_step = None
    if arm is not None:
        on_step = arm if not arm.__qualname__.startswith("in_checkpoint") else arm()
    settings, place = VARIANTS[variant]
    kinds = (vm.MoVE(slots=2), vm.MoE(experts=4, top_k=2, balance="bias"))
    run = Run.open(
        folder,
        build=lambda: build(*kinds, dropout=True, bank_folder=folder / "bank", **place),
        corpus=Corpus(),
        recipe=recipe(keep=1, accumulate=2, **settings),
    )
    run.advance(on_step=on_step)
    digest = hashlib.sha256()
    for named in (state.host_state_dict(run.model), state.memory_state_dict(run.model)):
        for name, tensor in sorted(named.items()):
            for chunk in tensor.chunks() if isinstance(tensor, Store) else [tensor.detach()]:
                digest.update(name.encode() + chunk.contiguous().numpy().tobytes())
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


def killed_from_outside(folder, variant):
    pid = forked(lambda: train(folder, variant))
    lines = folder / "metrics.jsonl"
    while not lines.exists() or lines.read_bytes().count(b"\n") < 6:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return status(pid)


def main(root):
    torch.set_num_threads(1)
    results = {}
    for variant in VARIANTS:
        whole = root / variant / "whole"
        first = status(forked(lambda o=variant, f=whole: train(f, o)))
        results[variant] = {"never killed": {"first": first, **json.loads((whole / "result.json").read_text())}}
        for name, arm in SCENARIOS.items():
            folder = root / variant / name
            first = status(forked(lambda o=variant, f=folder, a=arm: train(f, o, a)))
            results[variant][name] = {"first": first, **again(folder, variant)}
        folder = root / variant / "outside"
        first = killed_from_outside(folder, variant)
        results[variant]["at an arbitrary moment from outside"] = {"first": first, **again(folder, variant)}
    print(json.dumps(results))


def again(folder, variant):
    second = status(forked(lambda: train(folder, variant)))
    return {"second": second, **json.loads((folder / "result.json").read_text())}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
