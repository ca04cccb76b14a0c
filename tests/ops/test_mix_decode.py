"""A few tokens in one compiled call: the equation, and everything it leaves to the other paths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vademecum as vm
from tests import tiny
from vademecum.ops.mix import decode


@given(
    tokens=st.integers(1, 5),
    slots=st.integers(1, 9),
    heads=st.integers(1, 4),
    dim=st.sampled_from([1, 3, 8, 64]),
    wide=st.sampled_from([1, 5, 32]),
    bias=st.sampled_from([0.0, -1.5]),
)
def test_it_is_the_equation(tokens: int, slots: int, heads: int, dim: int, wide: int, bias: float) -> None:
    draw = torch.Generator().manual_seed(slots)
    hidden, value = torch.randn(tokens, 1, 32, generator=draw), torch.randn(tokens, 1, heads, dim, generator=draw)
    weight = torch.randn(heads * (slots + 1), wide, generator=draw)
    rows, places = torch.randn(3, slots, heads, dim, generator=draw), torch.randint(3, (tokens,), generator=draw)
    with torch.no_grad():
        out = decode.step(hidden, value, weight, rows, places, scale=0.7, bias=bias)
    assert out is not None
    assert out.shape == value.shape
    logits = (hidden[:, 0, :wide] @ weight.t()).view(tokens, heads, slots + 1)
    gates = 2 * torch.sigmoid(logits + torch.tensor([0.0] + [bias] * slots))
    expected = gates[..., :1] * value[:, 0] + 0.7 * torch.einsum("nhm,nmhd->nhd", gates[..., 1:], rows[places])
    torch.testing.assert_close(out[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_serve_goes_the_other_way() -> None:
    hidden, value, weight, rows = (torch.zeros(s) for s in ((1, 1, 8), (1, 1, 2, 4), (6, 8), (1, 2, 2, 4)))

    @torch.no_grad()
    def served(*tensors: object) -> bool:
        return decode.step(*tensors, torch.zeros(1, dtype=torch.long), scale=1.0, bias=0.0) is not None  # type: ignore[arg-type]

    assert served(hidden, value, weight, rows)
    assert not served(hidden.bfloat16(), value, weight, rows)
    assert not served(hidden, value.bfloat16(), weight, rows)
    assert not served(hidden, value, weight.double(), rows)
    assert not served(hidden, value, weight, rows.half())
    assert not served(hidden, torch.zeros(1, 1, 4, 2).transpose(2, 3), weight, rows)
    assert not served(hidden, value, torch.zeros(8, 6).t(), rows)
    assert not served(hidden, value, weight, object())
    assert not served(torch.zeros(1, 2, 8), value, weight, rows)
    assert not served(hidden, torch.zeros(1, 2, 2, 4), weight, rows)
    with torch.no_grad(), torch.enable_grad():
        assert decode.step(hidden, value, weight, rows, torch.zeros(1, dtype=torch.long), scale=1.0, bias=0.0) is None


@pytest.mark.parametrize("few", [True, False])
def test_it_is_taken_where_tokens_are_few_and_nothing_else_is_wanted(
    few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    taken = decode.step
    monkeypatch.setattr(decode, "step", lambda *given, **more: calls.append(1) or taken(*given, **more))
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2))
    tokens = decode.FEW if few else decode.FEW + 1
    ids = tiny.ids(batch=1)[:, :1].expand(1, tokens)
    with torch.no_grad():
        model(input_ids=ids)
        assert bool(calls) == few
        calls.clear()
        with vm.ops.backend("naive"):
            model(input_ids=ids)
        with vm.record(model):
            model(input_ids=ids)
        with vm.knocked_out(model):
            model(input_ids=ids)
    model(input_ids=ids)
    assert not calls


def test_a_gate_that_someone_listens_to_runs_as_a_module() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=2)).eval()
    (_, _, site), *_ = vm.memories(model).sites()
    heard = []
    handle = site.memory["move"].gate.register_forward_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        model(input_ids=tiny.ids(1, 4))
    handle.remove()
    assert heard == [1]


def test_in_training_mode_a_few_tokens_without_gradients_have_the_loss_of_many() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3, selectivity=0.5)).train()
    tiny.shake(model)
    ids = tiny.ids(1, 8)
    with torch.no_grad():
        few = model(input_ids=ids, labels=ids).loss
        with vm.ops.backend("naive"):
            torch.testing.assert_close(few, model(input_ids=ids, labels=ids).loss)


def test_gradients_turned_on_between_two_layers_come_through() -> None:
    def gradient() -> torch.Tensor:
        model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3))
        tiny.shake(model)
        steer = torch.zeros(32, requires_grad=True)

        def before(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> object:
            torch.set_grad_enabled(True)
            return (args[0] + steer, *args[1:]), kwargs

        model.model.layers[1].register_forward_pre_hook(before, with_kwargs=True)
        with torch.no_grad():
            model(input_ids=tiny.ids(1, 6)).logits.sum().backward()
        assert steer.grad is not None
        return steer.grad

    fast = gradient()
    with vm.ops.backend("naive"):
        torch.testing.assert_close(fast, gradient(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [1, 2, 5, 32])
def test_ids_that_are_not_those_of_the_tokens_are_refused(given: int) -> None:
    model = vm.attach(tiny.host("qwen3"), vm.MoVE(slots=3))
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"memory_ids is \[1, \d+\], but the model was given \[1, 4\]"),
    ):
        model(input_ids=tiny.ids(1, 4), memory_ids=tiny.ids(1, given))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "deepseek_v3"])
def test_tokens_decoded_are_tokens_of_a_pass(name: str, batch: int) -> None:
    model = vm.attach(tiny.host(name), vm.MoVE(slots=3, gate_width=7, gate_bias=-0.5, scale=1.3))
    tiny.shake(model)
    ids = tiny.ids(batch=batch)
    with torch.no_grad(), vm.ops.backend("naive"):
        whole = model(input_ids=ids).logits[:, -1]
    with torch.no_grad():
        past = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
        one = model(input_ids=ids[:, -1:], past_key_values=past).logits[:, -1]
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-4)
