"""PEER: the equation, the feed-forward that it is at k = 1, shared keys, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN

import vademecum as vm
from tests import tiny
from tests.kinds.reading import seen_at
from vademecum.lookup import Frame
from vademecum.memory.pool import Pool
from vademecum.memory.product_keys import ProductKeys
from vademecum.memory.retrieval import RetrievedNeurons


def test_it_is_its_equation() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.PEER(experts=64, heads=3, topk=4, activation="gelu"))
    tiny.shake(model)
    with vm.record(model) as rec:
        hidden, plain, out = seen_at(model, 1, tiny.ids(2, 5))
    slots, weights = (rec.all("peer.layers.1", name) for name in ("slots", "weights"))
    table, expected = model.vademecum.shared["peer"].weight.detach(), plain.clone()
    for n in range(len(hidden)):
        for h in range(3):
            for slot, weight in zip(slots[n, h], weights[n, h], strict=True):
                into, back = table[slot]
                expected[n] += weight * F.gelu(into @ hidden[n]) * back
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_with_one_expert_a_head_it_is_a_feed_forward_of_as_many_neurons(activation: str) -> None:
    """One weight under softmax is 1, so the chosen neurons are the rows and columns of two ordinary linear maps."""
    cpu, hidden, heads = torch.device("cpu"), 12, 5
    keys = ProductKeys(
        hidden, 6, heads=heads, topk=1, key_dim=4, norm="none", shared=True, dtype=torch.float32, device=cpu
    )
    part = RetrievedNeurons(keys, "softmax", hidden, ACT2FN[activation], replace=True)
    part.name("peer", 0)
    pool = Pool(36, hidden, stds=(1.0, 1.0), reads=heads, lr_scale=1.0, dtype=torch.float32, device=cpu)
    pool.place("device", "", 0)
    x = torch.randn(1, 7, hidden)
    frame = Frame(shared={"peer": pool}, recording=True)
    out = part(x, frame)
    for n, slots in enumerate(frame.stats["peer.layers.0"]["slots"]):
        into, back = torch.nn.Linear(hidden, heads, bias=False), torch.nn.Linear(heads, hidden, bias=False)
        with torch.no_grad():
            into.weight.copy_(pool.weight[slots.flatten(), 0])
            back.weight.copy_(pool.weight[slots.flatten(), 1].T)
        torch.testing.assert_close(out[0, n], back(ACT2FN[activation](into(x[0, n]))), rtol=1e-4, atol=1e-5)


def test_heads_share_keys_or_have_their_own() -> None:
    for shared, sets in ((True, 1), (False, 4)):
        model = vm.attach(tiny.host("qwen3"), vm.PEER(experts=64, heads=4, topk=2, shared_keys=shared))
        assert model.model.layers[1].mlp.memory["peer"].keys.keys.shape == (sets, 2, 8, 8)


def test_its_neurons_step_like_a_dense_matrix() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.PEER(experts=64, topk=2))
    steps = {group["role"]: group["lr"] for group in vm.param_groups(model, lr=1e-3)}
    assert steps["bank"] == pytest.approx(steps["host"])


def test_attached_it_says_nothing_and_then_learns() -> None:
    model = tiny.host("qwen3")
    ids = tiny.ids()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        vm.attach(model, vm.PEER(experts=64, topk=2))
        assert torch.equal(before, model(input_ids=ids).logits)
    table = model.vademecum.shared["peer"].weight
    assert float(table[:, 0].detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    assert not table[:, 1].any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experts": 10**6 + 1}, r"experts=1000001.*such as 1000000 \(1000 x 1000\) or 1002001 \(1001 x 1001\)"),
        ({"experts": 64, "topk": 12}, "write topk=8, or experts=144"),
        ({"key_dim": 9}, "such as 8 or 10"),
        ({"topk": 1}, "write topk=2 or more, or scores='sigmoid'"),
        ({"activation": "gleu"}, "did you mean 'gelu'"),
        ({"scores": "max"}, "expected one of"),
        ({"query_norm": "layer"}, "expected one of"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vm.attach(tiny.host("qwen3"), vm.PEER(**settings))


def test_an_activation_with_parameters_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="'xielu', which has parameters of its own; write activation='silu'"):
        vm.attach(tiny.host("qwen3"), vm.PEER(experts=64, heads=2, topk=2, activation="xielu"))
