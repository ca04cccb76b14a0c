"""Two processes give the losses and gradients of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vademecum as vm
from tests import tiny

WORKER = """
import sys, torch, torch.distributed as dist
import vademecum as vm
from tests import tiny
rank, out = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
model = vm.attach(tiny.host("qwen3"), vm.kinds.parse(sys.argv[3])).train()
tiny.shake(model)
ddp = torch.nn.parallel.DistributedDataParallel(model)
ids = tiny.ids(4, 12)[rank * 2 : rank * 2 + 2]
loss = ddp(input_ids=ids, labels=ids).loss
loss.backward()
torch.save({"loss": loss.detach(), "grads": {n: p.grad for n, p in model.named_parameters()}}, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["move:slots=2", "lave", "moe:experts=4", "moe:experts=4,balance=bias"])
def test_two_processes_give_the_losses_and_gradients_of_one(kind: str, tmp_path: Path) -> None:
    """Auxiliary losses are means over a micro-batch, so one process takes the same two halves one after the other."""
    root = Path(__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path), kind], env=env) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    model = vm.attach(tiny.host("qwen3"), vm.kinds.parse(kind)).train()
    tiny.shake(model)
    halves = tiny.ids(4, 12).split(2)
    start = {name: b.clone() for name, b in model.named_buffers()}
    losses = []
    for half in halves:
        for name, buffer in model.named_buffers():
            buffer.copy_(start[name])
        loss = model(input_ids=half, labels=half).loss
        (loss / 2).backward()
        losses.append(loss.detach())
    for rank in (0, 1):
        torch.testing.assert_close(results[rank]["loss"], losses[rank])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(results[rank]["grads"][name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name)
