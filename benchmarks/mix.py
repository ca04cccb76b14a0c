"""The mix over six layers, forward and backward, against gathering the rows and ``einsum``.

``python benchmarks/mix.py`` files the comparison: 8,192 real tokens (Wikipedia articles, a vocabulary of 32,768, eight
windows of 1,024), 4 heads of 64, M = 6, 12 and 24 slots. Both sides get the same distinct rows as the leaf of autograd
and gates for every layer, and must give the same gradients. A layer's result is let go at once: it is its reader's.

The plain form is the strongest of five that were tried: rows stored as ``[U, H, M, D]``, so that neither the gather
nor the product has to turn them; gathered once for all layers by ``embedding``, whose backward is the fastest of the
gathers'; one ``einsum`` a layer. (Indexing rows stored as ``[U, M, H, D]``, as value memory writes them, and one
``einsum`` a layer takes half as long again to twice as long.) Finding the distinct ids is charged to ours alone.

Peak memory is that of a fresh process for each form: the highest resident set during a step, above the one before it,
when all leaves are there and everything has been compiled. ``--bound`` prints what bounds ours instead: the time that
its bytes and its multiply-adds would take at the bandwidth of a copy and the speed of a matrix product here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import file_result, interleaved, ratio
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from vademecum import data
from vademecum.lookup import Lookup
from vademecum.ops.mix import mix_slots, shared_rows

LAYERS, HEADS, WIDTH, SLOTS = 6, 4, 64, (6, 12, 24)


def real_ids() -> Tensor:
    """``[8, 1024]`` tokens of text."""
    corpus = data.prepare("wikipedia", vocab_size=32768, progress=False)
    return torch.from_numpy(data.batch(corpus.train, seed=0, step=0, batch=8, length=1024))[:, :1024].long()


class Case:
    """The leaves of one size, and a step of either form."""

    def __init__(self, ids: Tensor, slots: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids, self.inverse = ids, Lookup.of(ids).inverse
        unique, tokens = len(Lookup.of(ids).unique), ids.numel()
        self.rows = torch.randn(unique, slots, HEADS, WIDTH, generator=generator)
        self.gates = [torch.rand(tokens, HEADS, slots, generator=generator, requires_grad=True) for _ in range(LAYERS)]
        self.weight = torch.randn(tokens, HEADS, WIDTH, generator=generator)

    def ours(self) -> Callable[[], list[Tensor]]:
        leaf = self.rows.clone().requires_grad_()

        def step() -> list[Tensor]:
            lookup = Lookup.of(self.ids)
            rows = shared_rows(leaf, lookup)
            return self._backward(leaf, [get_gradient_edge(mix_slots(gates, rows, lookup)) for gates in self.gates])

        return step

    def plain(self) -> Callable[[], list[Tensor]]:
        leaf = self.rows.transpose(1, 2).contiguous().requires_grad_()
        unique, *shape = leaf.shape

        def step() -> list[Tensor]:
            read = F.embedding(self.inverse, leaf.view(unique, -1)).view(-1, *shape)
            return self._backward(leaf, [torch.einsum("nhm,nhmd->nhd", gates, read) for gates in self.gates])

        return step

    def _backward(self, leaf: Tensor, edges: list[GradientEdge]) -> list[Tensor]:
        torch.autograd.backward(edges, [self.weight] * LAYERS)
        grads = [leaf.grad, *(gates.grad for gates in self.gates)]
        for each in (leaf, *self.gates):
            each.grad = None
        return grads  # type: ignore[return-value]


def require_same(case: Case) -> None:
    """Stop unless both forms give the same gradients."""
    ours, plain = case.ours()(), case.plain()()
    torch.testing.assert_close(ours[0], plain[0].transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1:], plain[1:], rtol=1e-4, atol=1e-4)


def status(field: str) -> int:
    """A field of Linux's /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_here(form: str, slots: int) -> int:
    """Bytes by which one step of ``form`` raises the resident set of this process above what it was before."""
    ids = real_ids()
    getattr(Case(ids[:, :64], slots), form)()()
    step = getattr(Case(ids, slots), form)()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    kept = step()
    del kept
    return status("VmHWM") - before


def peak(form: str, slots: int) -> int:
    """:func:`peak_here` in a process of its own."""
    command = [sys.executable, __file__, "--peak", form, str(slots)]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def bound(ids: Tensor, slots: int) -> dict[str, Any]:
    """Milliseconds that a step of ours would take if only its bytes, or only its multiply-adds, took time."""
    tokens, unique = ids.numel(), len(Lookup.of(ids).unique)
    row, gate, value = (4 * n * HEADS for n in (unique * slots * WIDTH, tokens * slots, tokens * WIDTH))
    moved = LAYERS * ((row + gate + value) + (row + value + 2 * gate) + (2 * row + value))
    block = torch.ones(2**26)
    copied = torch.empty_like(block)
    left, right = torch.ones(1024, 1024), torch.ones(1024, 1024)
    taken = interleaved({"copy": lambda: copied.copy_(block), "product": lambda: left @ right}, rounds=9)
    bandwidth = 2 * block.nbytes / statistics.median(taken["copy"])
    speed = 2 * 1024**3 / statistics.median(taken["product"])
    return {
        "unique": unique,
        "bytes": moved,
        "milliseconds_of_bytes": 1e3 * moved / bandwidth,
        "milliseconds_of_multiply_adds": 1e3 * LAYERS * 3 * 2 * tokens * HEADS * slots * WIDTH / speed,
        "copy_bytes_per_second": bandwidth,
    }


def main() -> None:
    """Measure and file."""
    ids = real_ids()
    speed, milliseconds, bounds = {}, {}, {}
    for slots in SLOTS:
        case = Case(ids, slots)
        require_same(case)
        taken = interleaved({"ours": case.ours(), "plain": case.plain()}, rounds=15)
        speed[f"slots_{slots}"] = ratio(taken, "ours", "plain")
        milliseconds[f"slots_{slots}"] = {form: 1e3 * statistics.median(times) for form, times in taken.items()}
        bounds[f"slots_{slots}"] = bound(ids, slots)
        print(slots, speed[f"slots_{slots}"], milliseconds[f"slots_{slots}"], flush=True)
    extra = {form: peak(form, SLOTS[-1]) for form in ("ours", "plain")}
    file_result(
        "mix",
        {
            "target": "over gather and einsum: 3.5 at 6 slots, 6 at 12 and 24; extra memory at most 1/8 at 24",
            "tokens": ids.numel(),
            "layers": LAYERS,
            "speed_over_plain": speed,
            "milliseconds": milliseconds,
            "bound_of_ours": bounds,
            "extra_bytes_at_24_slots": extra,
            "extra_over_plain": extra["ours"] / extra["plain"],
        },
    )


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print(peak_here(sys.argv[2], int(sys.argv[3])))
    elif "--bound" in sys.argv:
        for count in SLOTS:
            print(count, json.dumps(bound(real_ids(), count), indent=2))
    else:
        main()
