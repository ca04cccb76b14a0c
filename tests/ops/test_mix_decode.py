"""One token in one compiled call: the equation, and everything it leaves to the other paths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from tests import tiny
from vademecum.ops.mix import decode


@given(
    slots=st.integers(1, 9),
    heads=st.integers(1, 4),
    dim=st.sampled_from([1, 3, 8, 64]),
    wide=st.sampled_from([1, 5, 32]),
    bias=st.sampled_from([0.0, -1.5]),
)
def test_it_is_the_equation(slots: int, heads: int, dim: int, wide: int, bias: float) -> None:
    draw = torch.Generator().manual_seed(slots)
    hidden, value = torch.randn(1, 1, 32, generator=draw), torch.randn(1, 1, heads, dim, generator=draw)
    weight = torch.randn(heads * (slots + 1), wide, generator=draw)
    rows = torch.randn(1, slots, heads, dim, generator=draw)
    with torch.no_grad():
        assert decode.serves(hidden, value, weight, rows)
        out = decode.step(hidden, value, weight, rows, scale=0.7, bias=bias)
    logits = (weight @ hidden[0, 0, :wide]).view(heads, slots + 1)
    gates = 2 * torch.sigmoid(logits + torch.tensor([0.0] + [bias] * slots))
    expected = gates[:, :1] * value[0, 0] + 0.7 * torch.einsum("hm,mhd->hd", gates[:, 1:], rows[0])
    torch.testing.assert_close(out[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_serve_goes_the_other_way() -> None:
    hidden, value, weight, rows = (torch.zeros(s) for s in ((1, 1, 8), (1, 1, 2, 4), (6, 8), (1, 2, 2, 4)))
    assert not decode.serves(hidden, value, weight, rows), "a gradient may be wanted"
    with torch.no_grad():
        assert decode.serves(hidden, value, weight, rows)
        assert not decode.serves(torch.zeros(1, 2, 8), value, weight, rows)
        assert not decode.serves(hidden.bfloat16(), value, weight, rows)
        assert not decode.serves(hidden, value, weight, rows.expand(2, -1, -1, -1))
        assert not decode.serves(hidden, value.transpose(2, 3), weight, rows)
        with vm.ops.backend("naive"):
            assert not decode.serves(hidden, value, weight, rows)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "deepseek_v3"])
def test_a_token_decoded_is_a_token_of_a_pass(name: str) -> None:
    model = vm.attach(tiny.host(name), vm.MoVE(slots=3, gate_width=7, gate_bias=-0.5, scale=1.3))
    tiny.shake(model)
    ids = tiny.ids(batch=1)
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, -1]
        past = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
        one = model(input_ids=ids[:, -1:], past_key_values=past).logits[:, -1]
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-4)
