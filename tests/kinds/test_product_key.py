"""ProductKey: the equation, the flat top-k, norms, gate, one table for all layers, edits that stay local, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vademecum as vm
from tests import tiny
from tests.kinds.reading import rows_read, seen_at
from vademecum.lookup import Frame
from vademecum.memory.query_norms import BatchNorm
from vademecum.state import memory_state_dict


def attached(**settings: object) -> torch.nn.Module:
    model = vm.attach(tiny.host("qwen3"), vm.ProductKey(**{"slots": 64, "heads": 2, "topk": 3, **settings}))
    tiny.shake(model)
    return model


def flat_update(part: torch.nn.Module, table: Tensor, hidden: Tensor) -> Tensor:
    """What a search of all slots, one query at a time, would add."""
    keys, out = part.keys, torch.zeros(len(hidden), table.shape[-1])
    query = F.linear(hidden, keys.weight, keys.bias).view(len(hidden), keys.heads, 2, -1)
    for n in range(len(hidden)):
        for h in range(keys.heads):
            halves = [keys.keys[h, half] @ query[n, h, half] for half in range(2)]
            scores = (halves[0][:, None] + halves[1][None, :]).flatten()
            best = scores.topk(keys.topk)
            out[n] += best.values.softmax(0) @ table[best.indices, 0]
    return out


def test_it_is_a_flat_top_k_over_all_slots_exactly() -> None:
    model, ids = attached(layers="all"), tiny.ids(2, 7)
    for layer in (0, 1):
        hidden, plain, out = seen_at(model, layer, ids)
        part = model.model.layers[layer].mlp.memory["product_key"]
        expected = plain + flat_update(part, model.vademecum.shared["product_key"].weight, hidden)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_in_the_feed_forwards_place_it_is_alone() -> None:
    model, ids = attached(replace=True), tiny.ids(1, 5)
    hidden, plain, out = seen_at(model, 1, ids)
    part = model.model.layers[1].mlp.memory["product_key"]
    assert plain is None
    expected = flat_update(part, model.vademecum.shared["product_key"].weight, hidden)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    with vm.knocked_out(model):
        assert not seen_at(model, 1, ids)[2].any()


def test_the_gate_is_its_equation() -> None:
    model, ids = attached(gate=True, value_dim=10), tiny.ids(1, 5)
    hidden, plain, out = seen_at(model, 1, ids)
    part = model.model.layers[1].mlp.memory["product_key"]
    read = flat_update(part, model.vademecum.shared["product_key"].weight, hidden)
    gated = (read * F.silu(hidden @ part.gate.up.T)) @ part.gate.down.T
    torch.testing.assert_close(out, plain + gated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scores", "of"), [("relu", torch.relu), ("sigmoid", torch.sigmoid)])
def test_other_scores_do_not_compete(scores: str, of) -> None:
    model, ids = attached(scores=scores), tiny.ids(1, 5)
    part = model.model.layers[1].mlp.memory["product_key"]
    with vm.record(model) as rec:
        hidden, _, _ = seen_at(model, 1, ids)
    with torch.no_grad():
        wanted = of(part.keys(hidden, Frame(), "")[0])
    torch.testing.assert_close(rec.all("product_key.layers.1", "weights"), wanted)


def test_with_the_root_mean_square_the_size_of_queries_and_keys_does_not_count() -> None:
    model, ids = attached(query_norm="rms"), tiny.ids(1, 5)
    part = model.model.layers[1].mlp.memory["product_key"]
    hidden = seen_at(model, 1, ids)[0]
    with torch.no_grad():
        scores, slots = part.keys(hidden, Frame(), "")
        for tensor in (part.keys.weight, part.keys.bias, part.keys.keys):
            tensor.mul_(50.0)
        large, same = part.keys(hidden, Frame(), "")
    assert torch.equal(slots, same)
    torch.testing.assert_close(scores, large, rtol=1e-3, atol=1e-3)


def test_batch_norm_is_pytorchs_over_real_tokens_and_learns_once_a_forward() -> None:
    norm = BatchNorm(2, 3, torch.float32, torch.device("cpu"))
    reference = torch.nn.BatchNorm1d(6)
    query, mask = 3 * torch.randn(9, 2, 3) + 1, torch.tensor([True] * 6 + [False] * 3)
    frame = Frame(training=True, mask=mask)
    out, _ = norm(query, torch.zeros(1), frame, "here")
    torch.testing.assert_close(out[:6].flatten(1), reference(query[:6].flatten(1)), rtol=1e-4, atol=1e-5)
    assert not norm.mean.any()
    norm.learn(frame.tallies["here"])
    torch.testing.assert_close(norm.mean, query[:6].mean(0))
    torch.testing.assert_close(norm.variance, query[:6].var(0, correction=0))
    quiet, _ = norm(query, torch.zeros(1), Frame(), "here")
    torch.testing.assert_close(quiet[:6], out[:6], rtol=1e-4, atol=1e-4)
    assert norm.bfloat16().mean.dtype == torch.float32


def test_batch_norm_sees_later_tokens_in_training_and_none_at_evaluation() -> None:
    model, ids = attached(query_norm="batch"), tiny.ids(1, 8)
    changed = ids.clone()
    changed[:, -1] = changed[:, -1] % 60 + 1

    def earlier(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return model(input_ids=tokens).logits[:, :-1]

    assert not torch.allclose(earlier(ids), model.train()(input_ids=changed).logits[:, :-1], atol=1e-4)
    assert not torch.allclose(earlier(ids), earlier(changed), atol=1e-5)
    model.eval()
    torch.testing.assert_close(earlier(ids), earlier(changed), rtol=1e-5, atol=1e-5)


def test_a_recomputed_forward_teaches_batch_norm_once() -> None:
    counts = []
    for checkpointing in (False, True):
        model = attached(query_norm="batch").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for seed in (1, 2):
            model(input_ids=tiny.ids(seed=seed), labels=tiny.ids(seed=seed)).loss.backward()
        counts.append({name: one.clone() for name, one in memory_state_dict(model).items() if "norm." in name})
    assert int(counts[0]["product_key.layers.1.keys.norm.seen"]) == 2
    assert all(torch.equal(counts[0][name], counts[1][name]) for name in counts[0])


def test_all_layers_share_one_table_and_have_keys_of_their_own() -> None:
    model = attached(layers="all")
    names = list(memory_state_dict(model))
    assert [name for name in names if name.endswith("shared.weight")] == ["product_key.shared.weight"]
    assert sum(name.endswith("keys.keys") for name in names) == 2
    assert model.vademecum.shared["product_key"].weight.shape == (64, 1, 32)
    twin = copy.deepcopy(model)
    assert type(twin.vademecum.shared["product_key"]) is type(model.vademecum.shared["product_key"])


@pytest.mark.parametrize("kind", [vm.ProductKey(slots=1024, heads=1, topk=2), vm.PEER(experts=1024, heads=1, topk=2)])
def test_writing_a_row_changes_the_texts_that_read_it_and_no_other(kind) -> None:
    model = vm.attach(tiny.host("qwen3"), kind)
    tiny.shake(model)
    ids = tiny.ids(2, 6)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        read = rows_read(model, ids)
        own = sorted(set(read[0].flatten().tolist()) - set(read[1].flatten().tolist()))
        row, table = own[0], model.vademecum.shared[kind.name].weight
        first = int((read[0] == row).any(-1).nonzero()[0])
        kept = table[row].clone()
        table[row] += torch.randn(table[row].shape, generator=torch.Generator().manual_seed(0))
        after = model(input_ids=ids).logits
        assert torch.equal(after[1], before[1])
        torch.testing.assert_close(after[0, :first], before[0, :first], rtol=1e-6, atol=1e-6)
        assert not torch.equal(after[0, first], before[0, first])
        table[row] = kept
        assert torch.equal(model(input_ids=ids).logits, before)


def test_rows_that_a_row_optimizer_trains_have_no_gradient_of_the_tables_size() -> None:
    model = attached(layers="all").train()
    rows = vm.RowOptimizer(model, lr=1e-3)
    model(input_ids=tiny.ids(1, 2), labels=tiny.ids(1, 2)).loss.backward()
    bank = model.vademecum.shared["product_key"]
    ids, grads = bank.ledger.merge()
    assert bank.weight.grad is None
    assert len(ids) == len(grads) <= 2 * 2 * 2 * 3
    rows.step()


def test_a_compiled_model_is_one_graph_and_says_the_same() -> None:
    model, ids = attached(layers="all"), tiny.ids()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(input_ids=ids).logits, model(input_ids=ids).logits)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slots": 1000}, r"slots=1000.*a square, such as 961 \(31 x 31\) or 1024 \(32 x 32\)"),
        ({"slots": 0}, r"such as 1 \(1 x 1\)"),
        ({"slots": 64, "topk": 9}, "topk from 1 to the 8 keys of a half: write topk=8, or slots=81"),
        ({"topk": 0}, "write topk=1"),
        ({"key_dim": 7}, "key_dim=7.*an even number, such as 6 or 8"),
        ({"key_dim": 0}, "such as 2"),
        ({"key_dim": 1}, "such as 2"),
        ({"heads": 0}, "heads=4"),
        ({"topk": 1}, "write topk=2 or more, or scores='sigmoid'"),
        ({"scores": "tanh"}, "expected one of 'softmax', 'relu', 'sigmoid'"),
        ({"query_norm": "layer"}, "expected one of 'none', 'rms', 'batch'"),
        ({"bank_std": -1.0}, "0 or more"),
        ({"value_dim": 0}, "expected 1 or more"),
        ({"layers": "centre"}, "'middle'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vm.attach(tiny.host("qwen3"), vm.ProductKey(**settings))


def test_a_shared_table_of_another_width_than_the_hosts_needs_a_gate() -> None:
    model = tiny.host("qwen3")
    with pytest.raises(ValueError, match=r"value_dim=48.*hidden width 32.*write value_dim=32, or gate=True"):
        vm.attach(model, vm.ProductKey(slots=64, topk=2, value_dim=48))
    assert not hasattr(model, "vademecum")
    vm.attach(model, vm.ProductKey(slots=64, topk=2, value_dim=48, gate=True))


def test_two_that_want_the_same_place_are_refused_and_two_that_add_are_not() -> None:
    taking = vm.ProductKey(slots=64, topk=2, replace=True)
    with pytest.raises(ValueError, match="both want to take the place of layer 1's feed-forward"):
        vm.attach(tiny.host("qwen3"), taking, vm.PEER(experts=64, topk=2, replace=True))
    vm.attach(tiny.host("qwen3"), taking, vm.PEER(experts=64, topk=2), vm.ProductKey(slots=49, topk=2))


def test_one_real_token_does_not_vary_and_teaches_batch_norm_nothing() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.ProductKey(slots=64, heads=1, topk=4, query_norm="batch")).train()
    norm = next(module for module in model.modules() if isinstance(module, BatchNorm))
    ids = tiny.ids(batch=1, length=3)
    model(input_ids=ids, attention_mask=torch.tensor([[0, 0, 1]]))
    assert int(norm.seen) == 0
    assert bool((norm.variance == 1).all())
    model(input_ids=ids)
    assert int(norm.seen) == 1


def test_statistics_of_batch_norm_are_never_rounded() -> None:
    model = vm.attach(tiny.host("qwen3"), vm.ProductKey(slots=64, heads=1, topk=4, query_norm="batch"))
    norm = next(module for module in model.modules() if isinstance(module, BatchNorm))
    norm.mean.copy_(torch.randn_like(norm.mean))
    before = norm.mean.clone()
    model.to(torch.bfloat16)
    assert norm.gain.dtype == torch.bfloat16
    assert torch.equal(norm.mean, before)


@pytest.mark.parametrize(
    "kind",
    [
        vm.ProductKey(slots=64, heads=1, topk=4, replace=True, bank_std=1.0),
        vm.PEER(experts=64, heads=2, topk=2, replace=True, bank_std=1.0),
        vm.Lattice(slots=256, replace=True, heads=1),
        vm.LookupExperts(experts=2, width=8, replace=True, out_std=0.1),
    ],
    ids=lambda kind: kind.name,
)
@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_none_takes_the_place_of_experts_of_the_hosts_own(kind: vm.kinds.Kind, family: str) -> None:
    model, ids = tiny.host(family), tiny.ids()
    with torch.no_grad():
        before = model(input_ids=ids, output_router_logits=True).logits
        with pytest.raises(ValueError, match=r"\(replace=True\) takes the place of a dense feed-forward"):
            vm.attach(model, kind)
        assert torch.equal(model(input_ids=ids, output_router_logits=True).logits, before)
