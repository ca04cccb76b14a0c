"""The kernel over codes, run by Triton's interpreter in a process of its own, against the specification."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")

SCRIPT = """
import json
import torch
from vademecum.lookup import Lookup, cut
from vademecum.ops import codes
from vademecum.ops.codes import FORMATS, triton

def run(form, ids, heads, slots, dim, dtype=torch.float32, longest=None):
    generator = torch.Generator().manual_seed(0)
    lookup = Lookup.of(ids[None])
    rows = torch.randn(len(lookup.unique), slots, heads * dim, generator=generator)
    rows[0] = 0.0
    gates = torch.rand(len(ids), heads, slots, generator=generator).to(dtype)
    coded = codes.encode(rows, form)
    out = triton.mix(gates, coded, form, cut(lookup.inverse, longest), dim)
    back = codes.decode(coded, form, slots, heads * dim).view(-1, slots, heads, dim)[lookup.inverse]
    exact = torch.einsum("nhm,nmhd->nhd", gates.double(), back.double())
    worst = float((out.double() - exact).norm() / exact.norm())
    return {"case": f"{form.name} {len(ids)} {heads} {slots} {dim} {dtype}", "worst": worst,
            "narrow": dtype != torch.float32, "kept": out.dtype == dtype}

few = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
found = []
for form in (form for form in FORMATS.values() if form.bits):
    for shape in ((1, 1, 9), (2, 3, 8), (3, 8, 33), (1, 20, 64), (2, 17, 300)):
        found.append(run(form, few, *shape))
    found.append(run(form, torch.arange(9).flip(0), 2, 3, 20))
    found.append(run(form, torch.tensor([1, 4]), 2, 3, 20, torch.bfloat16))
    found.append(run(form, torch.tensor([0, 1]).repeat(50), 1, 3, 16, longest=7))
print(json.dumps(found))
"""

COMPILING = """
import itertools
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vademecum.ops.codes import FORMATS
from vademecum.ops.codes import triton as kernels

for form in (form for form in FORMATS.values() if form.bits):
    pointers = ["*fp32", "*u8", "*i64", "*i64", "*i64", "*fp32", "fp32"]
    types = dict(itertools.zip_longest(kernels._mix.arg_names, pointers, fillvalue="constexpr"))
    constants = {"H": 4, "M": 8, "D": 64, "MP": 16, "DP": 64, "T": kernels.TOKENS,
                 "BITS": form.bits, "BLOCK": form.block, "SLOT": form.slot_bytes(256)}
    made = triton.compile(ASTSource(kernels._mix, types, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    print(form.name, len(made.asm["ptx"]))
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_kernel_mixes_what_the_specification_decodes() -> None:
    found: list[dict[str, Any]] = json.loads(run(SCRIPT, TRITON_INTERPRET="1").strip().splitlines()[-1])
    assert len(found) == 4 * 8
    assert {each["case"]: each["worst"] for each in found if each["worst"] > (1e-2 if each["narrow"] else 1e-6)} == {}
    assert all(each["kept"] for each in found)


def test_the_kernel_compiles_for_a_gpu_that_need_not_be_here(tmp_path: Path) -> None:
    made = run(COMPILING, TRITON_CACHE_DIR=str(tmp_path)).split()
    assert made[::2] == ["int8", "int4", "int3", "int2"]
    assert all(int(size) > 1000 for size in made[1::2])
