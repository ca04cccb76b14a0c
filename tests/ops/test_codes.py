"""Rows in fewer bits: bounds that hold for every value, a fast path that gives the specification's bytes."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vademecum import ops
from vademecum.lookup import Lookup
from vademecum.ops import codes
from vademecum.ops.codes import FORMATS, Format, naive
from vademecum.ops.codes.formats import SCALE

CODED = [form for form in FORMATS.values() if form.bits]
form_of = st.sampled_from(CODED)
any_width = st.sampled_from([1, 2, 7, 8, 15, 31, 32, 33, 45, 64, 100])
#: Powers of ten of a row's size, from under the smallest number of fp16 to over its largest, and to the ends of fp32.
size = st.sampled_from([-44, -40, -30, -8, -5, 0, 4, 6, 20, 37])


#: 2,048 rows of 16 slots of 64 in fp32 would be 8 MiB; what is mixed is 2 MiB.
PEAK = """
import json
from pathlib import Path
import torch
from vademecum.lookup import Lookup
from vademecum.ops import codes

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
form = codes.find("int4")
lookup = Lookup.of(torch.arange(8192).remainder(2048)[None])
coded = codes.encode(torch.randn(2048, 16, 64), form)
gates = torch.rand(8192, 1, 16)
codes.mix_codes(gates, coded, form, lookup, 64)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
out = codes.mix_codes(gates, coded, form, lookup, 64)
print(json.dumps({"extra": status("VmHWM") - before, "rows": 2048 * 16 * 64 * 4, "out": out.nbytes}))
"""


def drawn(count: int, slots: int, width: int, seed: int, power: int = 0) -> torch.Tensor:
    """Rows whose values differ in size by three orders of magnitude, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, slots, width, generator=generator)
    rows *= 10.0 ** (-3 * torch.rand(count, slots, 1, generator=generator))
    rows[torch.rand(rows.shape, generator=generator) < 0.1] = 0.0
    return (rows.double() * 10.0**power).float()


def scales(coded: torch.Tensor, form: Format, slots: int, width: int) -> torch.Tensor:
    """The size of every value's scale ``[U, M, W]``, read from the bytes as the format's docstring says they lie."""
    parts = coded.view(len(coded), slots, -1)[..., : SCALE * form.blocks(width)]
    return parts.contiguous().view(torch.bfloat16).double().abs().repeat_interleave(form.block, -1)[..., :width]


@given(form=form_of, slots=st.integers(1, 3), width=any_width, seed=st.integers(0, 99), power=size)
def test_no_value_lies_further_off_than_the_bound_times_its_scale(
    form: Format, slots: int, width: int, seed: int, power: int
) -> None:
    rows = drawn(5, slots, width, seed, power)
    coded = codes.encode(rows, form)
    scale = scales(coded, form, slots, width)
    off = (rows.double() - codes.decode(coded, form, slots, width).double()).abs()
    assert bool((off <= form.bound * scale * (1 + 1e-4)).all())


@given(form=form_of, width=any_width, seed=st.integers(0, 99), power=size)
def test_a_scale_is_hardly_larger_than_its_block_needs(form: Format, width: int, seed: int, power: int) -> None:
    rows = drawn(5, 2, width, seed, power)
    scale = scales(codes.encode(rows, form), form, 2, width)
    for begin in range(0, width, form.block):
        block = slice(begin, begin + form.block)
        largest = rows[..., block].double().abs().amax(-1)
        assert bool((scale[..., block].amax(-1) <= 1.008 * largest / form.above + naive.TINY).all())


def test_bounds_are_half_a_step_where_they_are_said_to_be() -> None:
    assert {form.name: form.bound for form in CODED} == {"int8": 0.5, "int4": 0.5, "int3": 1.0, "int2": 1.2}


@given(form=form_of, slots=st.integers(1, 3), width=any_width, seed=st.integers(0, 99), power=size)
def test_the_loops_give_the_bytes_and_the_values_of_the_specification(
    form: Format, slots: int, width: int, seed: int, power: int
) -> None:
    rows = drawn(4, slots, width, seed, power)
    fast = codes.encode(rows, form)
    with ops.backend("naive"):
        slow = codes.encode(rows, form)
        read = codes.decode(fast, form, slots, width)
    assert fast.shape == (4, form.row_bytes(slots, width))
    assert torch.equal(fast, slow)
    torch.testing.assert_close(codes.decode(fast, form, slots, width), read, rtol=1e-6, atol=0)


@given(bits=st.sampled_from([2, 3, 4, 8]), values=st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_packing_keeps_every_code_in_as_few_bytes_as_there_are(bits: int, values: list[int]) -> None:
    given_codes = torch.tensor(values) % 2**bits
    packed = naive.pack(given_codes, bits)
    assert len(packed) == math.ceil(len(values) * bits / 8)
    assert torch.equal(naive.unpack(packed, bits, len(values)), given_codes)
    whole = sum(int(code) << (bits * i) for i, code in enumerate(given_codes))
    assert bytes(packed.tolist()) == whole.to_bytes(len(packed), "little")


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_rows_of_zeros_are_bytes_of_zero_and_come_back_as_zeros(form: Format) -> None:
    rows = torch.randn(4, 2, 45)
    rows[1] = 0.0
    rows[2, 1] = 0.0
    coded = codes.encode(rows, form)
    back = codes.decode(coded, form, 2, 45)
    assert not coded[1].any()
    assert not back[1].any()
    assert not back[2, 1].any()
    assert back[2, 0].any()


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
@pytest.mark.parametrize("value", [0.7, -3.0, 1e-7, 65504.0, 1e30])
def test_a_constant_row_comes_back_within_the_rounding_of_its_scale(form: Format, value: float) -> None:
    rows = torch.full((2, 2, 50), value)
    back = codes.decode(codes.encode(rows, form), form, 2, 50)
    torch.testing.assert_close(back, rows, rtol=2**-7, atol=0)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_rows_in_bf16_are_encoded_as_the_numbers_that_they_are(form: Format) -> None:
    rows = torch.randn(3, 2, 40).bfloat16()
    assert torch.equal(codes.encode(rows, form), codes.encode(rows.float(), form))


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_row_that_is_not_finite_is_refused_and_named(form: Format, value: float) -> None:
    rows = torch.zeros(5, 2, 8)
    rows[3, 1, 2] = value
    with pytest.raises(ValueError, match=r"row 3 of 5 holds a value that is NaN, infinite or beyond"):
        codes.encode(rows, form)


def test_formats_that_keep_the_rows_give_them_back() -> None:
    rows = torch.randn(3, 2, 5)
    assert torch.equal(codes.decode(codes.encode(rows, FORMATS["fp32"]), FORMATS["fp32"], 2, 5), rows)
    assert torch.equal(
        codes.decode(codes.encode(rows, FORMATS["bf16"]), FORMATS["bf16"], 2, 5), rows.bfloat16().float()
    )


def test_fewer_bits_are_fewer_bytes_and_larger_errors() -> None:
    rows = torch.randn(200, 2, 64)
    order = ("fp32", "bf16", "int8", "int4", "int3", "int2")
    sizes = [FORMATS[name].row_bytes(2, 64) for name in order]
    off = [
        float((codes.decode(codes.encode(rows, FORMATS[name]), FORMATS[name], 2, 64) - rows).square().mean())
        for name in order
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert off == sorted(off)
    assert [FORMATS[name].bits_per_value(64) for name in order] == [32, 16, 8.5, 4.5, 3.5, 2.5]


@pytest.mark.parametrize("form", CODED, ids=lambda form: form.name)
def test_the_step_that_is_taken_is_no_worse_than_the_one_that_clips_nothing(form: Format) -> None:
    rows = torch.randn(100, 1, 32)
    plain = Format(form.name, bits=form.bits, zero=form.zero, low=form.low, rooms=form.rooms[:1])
    kept, tried = (
        (codes.decode(codes.encode(rows, each), each, 1, 32) - rows).square().sum(-1) for each in (form, plain)
    )
    assert bool((kept <= tried * (1 + 1e-5)).all())
    assert float(kept.sum()) < float(tried.sum())


def case(form: Format, ids: list[int], heads: int, slots: int, dim: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(len(ids))
    lookup = Lookup.of(torch.tensor([ids]))
    rows = torch.randn(len(lookup.unique), slots, heads * dim, generator=generator)
    gates = torch.rand(len(ids), heads, slots, generator=generator).to(dtype)
    return gates, codes.encode(rows, form), lookup


@given(
    form=st.sampled_from(list(FORMATS.values())),
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    heads=st.integers(1, 3),
    slots=st.integers(1, 6),
    dim=st.sampled_from([1, 3, 16, 33, 64]),
)
def test_mixing_codes_is_mixing_the_decoded_rows(
    form: Format, ids: list[int], heads: int, slots: int, dim: int
) -> None:
    gates, coded, lookup = case(form, ids, heads, slots, dim)
    out = codes.mix_codes(gates, coded, form, lookup, dim)
    rows = codes.decode(coded, form, slots, heads * dim).view(-1, slots, heads, dim)[lookup.inverse]
    expected = torch.einsum("nhm,nmhd->nhd", gates.double(), rows.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    with ops.backend("naive"):
        torch.testing.assert_close(codes.mix_codes(gates, coded, form, lookup, dim), out, rtol=1e-5, atol=1e-5)


def test_many_threads_give_the_bits_of_one() -> None:
    gates, coded, lookup = case(FORMATS["int4"], [i * i % 37 for i in range(2000)], 2, 12, 64)
    before = torch.get_num_threads()
    outs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            outs.append(codes.mix_codes(gates, coded, FORMATS["int4"], lookup, 64))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outs)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_mixing_codes_never_holds_a_table_of_decoded_rows() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["extra"] < found["out"] + found["rows"] / 4


def test_gates_in_bf16_give_an_update_in_bf16() -> None:
    gates, coded, lookup = case(FORMATS["int8"], [1, 2, 1], 2, 3, 8, torch.bfloat16)
    out = codes.mix_codes(gates, coded, FORMATS["int8"], lookup, 8)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, codes.mix_codes(gates.float(), coded, FORMATS["int8"], lookup, 8).bfloat16())


def test_a_gradient_through_codes_is_refused() -> None:
    gates, coded, lookup = case(FORMATS["int8"], [1, 2, 1], 1, 1, 8)
    with pytest.raises(RuntimeError, match="load the bank that was compressed"):
        codes.mix_codes(gates.requires_grad_(), coded, FORMATS["int8"], lookup, 8)


def test_codes_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[2, 5\] was given for rows of 1 x 8 values in int8; expected .*10"):
        codes.decode(torch.zeros(2, 5, dtype=torch.uint8), FORMATS["int8"], 1, 8)
    with pytest.raises(ValueError, match=r"expected rows \[U, slots, width\]"):
        codes.encode(torch.zeros(2, 5), FORMATS["int8"])


def test_an_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'int4'"):
        codes.find("int 4")
