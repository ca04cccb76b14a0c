"""The kernels for a GPU, run by Triton's interpreter in a process of their own, against the specification."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import itertools, json
import torch
from vademecum.lookup import LONGEST, Lookup, Segments, cut
from vademecum.ops.mix import gradient, naive, shared, triton

LONG = torch.cat([torch.full((3 * LONGEST + 5,), 2), torch.tensor([0, 1, 1]), torch.full((LONGEST,), 4),
                  torch.full((LONGEST + 1,), 3)])
IDS = {
    "one token": torch.tensor([3]),
    "all apart": torch.arange(9).flip(0),
    "few": torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1)),
    "long segments": LONG[torch.randperm(len(LONG), generator=torch.Generator().manual_seed(2))],
}
SHAPES = [(1, 1, 1), (3, 2, 8), (8, 1, 17), (5, 3, 64), (24, 1, 33), (17, 2, 600)]
TYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]

def run(name, shape, types, whole=False):
    (M, H, D), ids, generator = shape, IDS[name], torch.Generator().manual_seed(0)
    lookup = Lookup.of_table(ids[None]) if whole else Lookup.of(ids[None])
    R = 7 if whole else len(lookup.unique)
    lookup._segments.append(cut(lookup.inverse, LONGEST))
    gates = torch.rand(len(ids), H, M, generator=generator).to(types[0]).requires_grad_()
    rows = torch.randn(R, M, H, D, generator=generator).to(types[1]).requires_grad_()
    weight = torch.randn(len(ids), H, D, generator=generator).to(types[0])
    first = gradient.mix_slots(triton, gates, shared.share(rows, lookup), lookup)
    got = [first, *torch.autograd.grad(first, [gates, rows], weight)]
    again = gradient.mix_slots(triton, gates, rows, lookup)
    same = all(torch.equal(a, b) for a, b in zip(got, [again, *torch.autograd.grad(again, [gates, rows], weight)]))
    wide = [each.detach().double().requires_grad_() for each in (gates, rows)]
    out = naive.mix_slots(*wide, lookup.inverse)
    exact = [out, *torch.autograd.grad(out, wide, weight.double())]
    worst = max(float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(got, exact))
    types_kept = [each.dtype for each in got] == [types[0], types[0], types[1]]
    return {"case": f"{name} {shape} {types} {whole}", "worst": worst, "same": same, "types_kept": types_kept,
            "narrow": torch.bfloat16 in types}

found = [run("few", shape, TYPES[0]) for shape in SHAPES]
found += [run(name, (3, 2, 8), TYPES[0]) for name in IDS]
found += [run(name, (5, 2, 16), types) for name in ("few", "long segments") for types in TYPES[1:]]
found += [run("few", (3, 2, 8), TYPES[0], whole=True)]
print(json.dumps(found))
"""


COMPILING = """
import itertools
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vademecum.ops.mix import triton as kernels

for dtype, how in (("fp32", "ieee"), ("fp32", "tf32x3"), ("bf16", "tf32")):
    segments, narrow, wide = ["*i64"] * 3, [f"*{dtype}"], ["*fp32"]
    product = {"HOW": how, "T": kernels.TOKENS}
    for kernel, pointers, more in (
        (kernels._forward, narrow * 2 + segments + narrow, product),
        (kernels._gates, narrow * 2 + segments + narrow, product),
        (kernels._rows, narrow * 2 + segments + wide * 2, {**product, "LONGEST": 64}),
        (kernels._add_parts, segments[1:] + wide * 2, {"LONGEST": 64}),
    ):
        names = kernel.arg_names
        types = dict(itertools.zip_longest(names, pointers, fillvalue="constexpr"))
        constants = {"H": 4, "M": 8, "D": 64, "MP": 16, "DP": 64, **more}
        source = ASTSource(kernel, types, constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
        print(kernel.__name__, len(made.asm["ptx"]))
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return json.loads(run(SCRIPT, TRITON_INTERPRET="1").strip().splitlines()[-1])


pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")


def test_the_kernels_equal_the_specification_with_both_gradients(found: list[dict[str, Any]]) -> None:
    assert len(found) == 15
    wrong = {each["case"]: each["worst"] for each in found if not each["worst"] < (1e-2 if each["narrow"] else 1e-5)}
    assert wrong == {}


def test_the_kernels_give_the_same_bits_every_time_shared_or_not(found: list[dict[str, Any]]) -> None:
    assert [each["case"] for each in found if not each["same"]] == []


def test_the_kernels_keep_the_types_of_gates_and_rows(found: list[dict[str, Any]]) -> None:
    assert [each["case"] for each in found if not each["types_kept"]] == []


def test_the_kernels_compile_for_a_gpu_that_need_not_be_here(tmp_path: Path) -> None:
    made = run(COMPILING, TRITON_CACHE_DIR=str(tmp_path)).split()
    assert made[::2] == ["_forward", "_gates", "_rows", "_add_parts"] * 3
    assert all(int(size) > 1000 for size in made[1::2])
