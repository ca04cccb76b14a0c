"""Runs a function of a test module in several processes that talk through gloo."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATIENCE = 120


def together(work: Callable[..., Any], folder: Path, *, size: int = 2) -> list[Any]:
    """What ``work(folder)`` returns in each of ``size`` processes; a process that waits in vain fails, and so all do.

    ``work`` must be a function of a module, and what it returns of tensors and plain data.
    """
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __name__, work.__module__, work.__name__, str(folder), str(size)]
    started = [
        subprocess.Popen([*command, str(rank)], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=2 * PATIENCE)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    failed = [f"process {rank} of {size}:\n{said[rank]}" for rank in range(size) if started[rank].returncode]
    assert not failed, "\n".join(failed)
    import torch

    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def main(module: str, name: str, folder: str, size: str, rank: str) -> None:
    import torch
    import torch.distributed as dist

    # This module keeps the group it finds as a default argument. Imported later, by the first optimizer say, it would
    # keep ours beyond destroy_process_group, and gloo's threads would then drop tensors while Python shuts down: abort.
    import torch.distributed.nn

    work = getattr(importlib.import_module(module), name)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=int(rank),
        world_size=int(size),
        timeout=timedelta(seconds=PATIENCE),
    )
    torch.save(work(Path(folder)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
