"""Product-key memory and PEER, forward and backward on a CPU, against product-key-memory and PEER-pytorch from PyPI.

``python benchmarks/product_keys.py`` files the comparison, ``--small`` prints one of sizes that take seconds and files
nothing. Needs ``pip install 'vademecum[bench]'``. Both of theirs are set to our mathematics: no norm on queries,
softmax over a head's best, PEER with all of a head's experts and not the first alone; all have the same weights, and
outputs and gradients are compared before anything is timed.

Ours is measured as it trains, its rows lent to a ledger so that only rows read have a gradient, and with the table as
a parameter like any other, whose gradient is as large as it is (``ours_dense``); theirs as they come, like the latter.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import file_result, interleaved, ratio
from mix import status
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.ledger import Ledger
from vademecum.memory.pool import Pool
from vademecum.memory.product_keys import ProductKeys
from vademecum.memory.retrieval import RetrievedNeurons, RetrievedValues

FORMS = ("ours", "ours_dense", "theirs")
KEY = "bench"


@dataclass(frozen=True)
class Size:
    """What is compared: ``system`` is "product_key" or "peer"."""

    system: str
    keys: int
    tokens: int = 2048
    width: int = 256
    half: int = 64

    @property
    def heads(self) -> int:
        return 4 if self.system == "product_key" else 8

    @property
    def topk(self) -> int:
        return min(self.keys, 32 if self.system == "product_key" else 16)

    def hidden(self) -> Tensor:
        return torch.randn(1, self.tokens, self.width, generator=torch.Generator().manual_seed(1))


SIZES = [Size(system, keys) for system in ("product_key", "peer") for keys in (256, 1024)]
SMALL = [Size(system, keys, tokens=256, width=64, half=16) for system in ("product_key", "peer") for keys in (32, 128)]


def theirs_of(size: Size) -> nn.Module:
    """Their module, set to the same mathematics; tables at our scale."""
    torch.manual_seed(0)
    if size.system == "product_key":
        from product_key_memory import PKM

        module = PKM(size.width, heads=size.heads, num_keys=size.keys, topk=size.topk, dim_head=size.half)
        module.norm = nn.Identity()
        return module
    from PEER_pytorch import PEER

    module = PEER(
        size.width,
        heads=size.heads,
        num_experts=size.keys**2,
        num_experts_per_head=size.topk,
        dim_key=size.half,
        non_competing_scores=False,
    )
    for table in (module.weight_down_embed, module.weight_up_embed):
        nn.init.normal_(table.weight, std=size.width**-0.5)
    return module


class Ours:
    """Our part and its pool, with the weights of theirs."""

    def __init__(self, size: Size, theirs: Any | None, *, lent: bool) -> None:
        torch.manual_seed(0)
        f32, cpu = torch.float32, torch.device("cpu")
        search = ProductKeys(
            size.width, size.keys, heads=size.heads, topk=size.topk, key_dim=2 * size.half, norm="none", shared=False,
            dtype=f32, device=cpu,
        )  # fmt: skip
        values = size.system == "product_key"
        if values:
            self.part = RetrievedValues(search, "softmax", size.width, None, replace=True)
        else:
            self.part = RetrievedNeurons(search, "softmax", size.width, nn.GELU(), replace=True)
        self.part.name(KEY, 0)
        stds = (1 / math.sqrt(size.width),) * (1 if values else 2)
        self.pool = Pool(size.keys**2, size.width, stds=stds, reads=0, lr_scale=1.0, dtype=f32, device=cpu)
        self.pool.place("device", Path(), 0)
        assert search.bias is not None
        nn.init.zeros_(search.bias)
        if theirs is not None:
            with torch.no_grad():
                self._copy(size, search, theirs)
        if lent:
            self.pool.lend(Ledger())

    def _copy(self, size: Size, search: ProductKeys, theirs: Any) -> None:
        search.keys.copy_(theirs.keys.transpose(1, 2))
        query = theirs.to_queries if size.system == "product_key" else theirs.to_queries[0]
        by_half = query.weight.view(2, size.heads, size.half, size.width)
        search.weight.copy_(by_half.transpose(0, 1).reshape(-1, size.width))
        assert self.pool.weight is not None
        if size.system == "product_key":
            self.pool.weight[:, 0].copy_(theirs.values.weight)
        else:
            self.pool.weight[:, 0].copy_(theirs.weight_down_embed.weight)
            self.pool.weight[:, 1].copy_(theirs.weight_up_embed.weight)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x, Frame(training=True, shared={KEY: self.pool}))
        return out

    def table_gradient(self) -> Tensor:
        """``[rows, M, D]``, made whole for a comparison."""
        assert self.pool.weight is not None
        if self.pool.ledger is None:
            assert self.pool.weight.grad is not None
            return self.pool.weight.grad
        ids, grads = self.pool.ledger.merge()  # type: ignore[misc]
        return torch.zeros_like(self.pool.weight).index_copy_(0, ids, grads.view(-1, *self.pool.row_shape))

    def forget(self) -> None:
        for parameter in (*self.part.parameters(), *self.pool.parameters()):
            parameter.grad = None
        if self.pool.ledger is not None:
            self.pool.ledger.clear()


def step_of(form: str, size: Size, theirs: nn.Module | None = None) -> Callable[[], None]:
    """Forward, and backward to input and parameters; gradients are then dropped."""
    x, weight = size.hidden(), size.hidden()
    if form == "theirs":
        module = theirs or theirs_of(size)

        def step() -> None:
            module(x.detach().requires_grad_()).backward(weight)
            module.zero_grad(set_to_none=True)
    else:
        ours = Ours(size, theirs, lent=form == "ours")

        def step() -> None:
            ours(x.detach().requires_grad_()).backward(weight)
            ours.forget()

    return step


def require_same(size: Size) -> None:
    """Raise unless outputs, and gradients of input, keys and table, are the same in all forms."""
    theirs, found = theirs_of(size), {}
    for form in FORMS:
        x = size.hidden().requires_grad_()
        module = theirs if form == "theirs" else Ours(size, theirs, lent=form == "ours")
        out = module(x)
        out.backward(size.hidden())
        if isinstance(module, Ours):
            table, keys = module.table_gradient(), module.part.keys.keys.grad
        elif size.system == "product_key":
            table, keys = module.values.weight.grad[:, None], module.keys.grad.transpose(1, 2)
        else:
            pair = (module.weight_down_embed.weight.grad, module.weight_up_embed.weight.grad)
            table, keys = torch.stack(pair, 1), module.keys.grad.transpose(1, 2)
        found[form] = (out.detach(), x.grad, keys, table)
    for form in FORMS[:2]:
        for name, one, other in zip(("output", "input", "keys", "table"), found[form], found["theirs"], strict=True):
            off = (one - other).norm() / other.norm()
            if not off < 1e-4:
                raise SystemExit(f"{size}: {form} and theirs differ by {off:.2g} of the {name}; nothing is compared.")


def peak_here(form: str, size: Size) -> int:
    """Bytes by which one step of ``form`` raises the resident set of this process above what it was before."""
    step_of(form, Size(size.system, 16, tokens=8, width=size.width, half=size.half))()
    step = step_of(form, size)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def peak(form: str, size: Size) -> int:
    """:func:`peak_here` in a process of its own."""
    said = json.dumps(vars(size))
    command = [sys.executable, __file__, "--peak", form, said]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def compare(size: Size, rounds: int) -> dict[str, Any]:
    """Speed and peak memory of every form over theirs."""
    require_same(size)
    theirs = theirs_of(size)
    steps = {form: step_of(form, size, theirs) for form in FORMS}
    taken = interleaved(steps, rounds=rounds)
    del steps, theirs
    extra = {form: peak(form, size) for form in FORMS}
    return {
        "speed_over_theirs": {form: ratio(taken, form, "theirs") for form in FORMS[:2]},
        "milliseconds": {form: round(1e3 * statistics.median(times), 1) for form, times in taken.items()},
        "extra_bytes": extra,
        "extra_over_theirs": {form: extra[form] / extra["theirs"] for form in FORMS[:2]},
    }


def main(sizes: list[Size], rounds: int) -> dict[str, Any]:
    """Measure."""
    found = {}
    for size in sizes:
        name = f"{size.system}_{size.keys}x{size.keys}"
        found[name] = compare(size, rounds)
        print(name, json.dumps(found[name]), flush=True)
    return found


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print(peak_here(sys.argv[2], Size(**json.loads(sys.argv[3]))))
    elif "--small" in sys.argv:
        print("Cut down, and the machine need not be quiet: a check that all forms agree, and no measurement.")
        main(SMALL, rounds=3)
    else:
        file_result(
            "product_keys",
            {
                "target": "over theirs, forward and backward: 2 times as fast, at most half the peak memory",
                "tokens": SIZES[0].tokens,
                "width": SIZES[0].width,
                "sizes": main(SIZES, rounds=7),
            },
        )
