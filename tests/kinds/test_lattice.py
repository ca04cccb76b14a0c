"""Lattice: the equation, both query maps, one table for its layers, how slots are used, smoothness, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import vademecum as vm
from tests import tiny
from tests.kinds.reading import rows_read, seen_at
from vademecum.analysis.usage import usage, usages
from vademecum.lookup import Frame
from vademecum.memory.lattice import QUERIES, Angles, Query
from vademecum.ops.lattice import near, periods_for, point


def attached(**settings: object) -> torch.nn.Module:
    model = vm.attach(tiny.host("qwen3"), vm.Lattice(**{"slots": 1024, "width": 6, **settings}))
    tiny.shake(model)
    return model


def part_of(model: torch.nn.Module, layer: int = 1) -> torch.nn.Module:
    return model.model.layers[layer].mlp.memory["lattice"]


def by_hand(part: torch.nn.Module, table: Tensor, hidden: Tensor, periods: tuple[int, ...]) -> Tensor:
    """The update, from a look at every point of the torus."""
    x = hidden @ part.query.weight.T
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    out = torch.zeros(len(hidden), part.query.heads, table.shape[-1])
    points, sizes = point(torch.arange(len(table)), periods), torch.tensor(periods)
    for n, h in torch.cartesian_prod(torch.arange(len(hidden)), torch.arange(part.query.heads)):
        if isinstance(part.query, Angles):
            z = torch.view_as_complex(x[n].view(-1, 8, 2)[h])
            q, factor = sizes * z.angle() / (2 * math.pi), z.abs().pow(-2).mean() ** -0.5
        else:
            q, factor = part.query.spread * sizes * x[n].view(-1, 8)[h], torch.tensor(1.0)
        away = q - points
        away = away - (away / sizes).round() * sizes
        far, nearest = away.square().sum(-1).topk(32, largest=False)
        weights = (1 - far / 8).clamp_min(0) ** 4
        out[n, h] = factor * (weights @ table[nearest, 0])
    return out.flatten(1) @ part.out.weight.T


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("replace", [False, True])
def test_it_is_the_equation(query: str, replace: bool) -> None:
    # Of periods of 8 and more, so that no point is near twice.
    model = attached(query=query, replace=replace, slots=65536, heads=3)
    hidden, plain, out = seen_at(model, 1, tiny.ids(1, 3))
    table = vm.memories(model).banks()["lattice.shared.weight"].weight.detach()
    update = by_hand(part_of(model), table, hidden, (8,) * 8).detach()
    assert (plain is None) == replace
    torch.testing.assert_close(out, update if replace else plain + update, rtol=1e-4, atol=1e-5)
    with vm.knocked_out(model):
        silent = seen_at(model, 1, tiny.ids(1, 3))[2]
    assert torch.equal(silent, torch.zeros_like(silent) if replace else plain)


def test_where_it_is_neutral_it_says_so() -> None:
    assert vm.Lattice().neutral
    assert vm.Lattice(bank_std=0.0, out_std=1.0).neutral
    assert not vm.Lattice(out_std=0.5).neutral
    assert not vm.Lattice(replace=True).neutral


def test_one_table_serves_all_layers_and_each_looks_for_itself() -> None:
    model = attached(layers="all")
    assert list(vm.memories(model).banks()) == ["lattice.shared.weight"]
    read = rows_read(model, tiny.ids(1, 4)).view(4, 2, -1)
    assert not torch.equal(read[:, 0], read[:, 1])
    per_layer = vm.attach(
        tiny.host("qwen3"), vm.Lattice(slots=256, layers=[0]), vm.Lattice(slots=512, width=3, layers=[1])
    )
    assert {name: bank.rows for name, bank in vm.memories(per_layer).banks().items()} == {
        "lattice.shared.weight": 256,
        "lattice_2.shared.weight": 512,
    }


def test_heads_are_the_papers_where_none_are_asked_for() -> None:
    part = part_of(attached())
    assert part.query.heads == 2
    assert part.out.weight.shape == (32, 2 * 6)


def test_a_record_has_slots_best_first_and_their_weights() -> None:
    model = attached(heads=2)
    with vm.record(model) as rec, torch.no_grad():
        model(input_ids=tiny.ids(2, 5), attention_mask=torch.tensor([[0] * 2 + [1] * 3, [1] * 5]))
    slots, weights = rec.all("lattice.layers.1", "slots"), rec.all("lattice.layers.1", "weights")
    assert slots.shape == weights.shape == (10, 2, 32)
    assert bool((weights[..., :-1] >= weights[..., 1:]).all())
    assert bool((slots[:2] == -1).all())
    assert not weights[:2].any()
    assert bool(((weights[2:].sum(-1) > 0.74) & (weights[2:].sum(-1) <= 1.0001)).all())
    found = usages(rec.forwards)["lattice.layers.1"]
    assert found.reads == 8 * 2 * 32
    assert 0 < found.share <= 1


def query_of(name: str, slots: int, spread: float = 0.5, heads: int = 8, hidden: int = 128) -> Query:
    periods = periods_for(slots)
    assert periods is not None
    kind = {"dtype": torch.float32, "device": torch.device("cpu")}
    return QUERIES[name](hidden, heads, periods, spread=spread, **kind)


def used(query: Query, hidden: Tensor, slots: int):
    with torch.no_grad():
        places, factor = query(hidden)
        found, weights = near(places, tuple(query.periods.tolist()))
    weights = weights if factor is None else weights * factor
    order = weights.argsort(-1, descending=True)
    shape = (len(hidden), query.heads, -1)
    return usage(found.gather(-1, order).view(shape), weights.gather(-1, order).view(shape), slots), places


@pytest.mark.parametrize("name", QUERIES)
def test_at_the_start_places_spread_over_lattice_units_and_use_all_slots_evenly(name: str) -> None:
    slots = 65536
    found, places = used(query_of(name, slots), torch.randn(2000, 128), slots)
    assert bool((places.std(0) > 2).all())
    assert found.share > 0.98
    assert found.unevenness < 0.5


def test_hidden_states_that_share_a_direction_crowd_angles_and_not_the_scaled_projection() -> None:
    slots, hidden = 65536, torch.randn(1500, 128) + 2 * torch.randn(128)
    scaled, angles = (used(query_of(name, slots), hidden, slots)[0] for name in ("rms", "angle"))
    assert scaled.share > 0.9
    assert scaled.unevenness < 1
    assert angles.share < 0.6
    assert angles.unevenness > 2


def test_a_narrow_spread_uses_few_slots() -> None:
    slots, hidden = 65536, torch.randn(1500, 128)
    shares = [used(query_of("rms", slots, spread), hidden, slots)[0].share for spread in (0.05, 0.125, 0.5)]
    assert shares[0] < shares[1] < 0.5 < shares[2]


@pytest.mark.parametrize("name", QUERIES)
def test_nothing_but_zeros_and_next_to_nothing_have_finite_gradients(name: str) -> None:
    query = query_of(name, 65536, heads=2, hidden=16)
    for size in (0.0, 1e-30, 1e-12, 1e-3):
        hidden = (size * torch.randn(4, 16)).requires_grad_()
        places, factor = query(hidden)
        weights = near(places, (8,) * 8)[1]
        (weights if factor is None else weights * factor).square().sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()
        assert query.weight.grad is not None
        assert query.weight.grad.isfinite().all()


def test_what_is_read_does_not_jump_where_an_angle_does() -> None:
    query = query_of("angle", 65536, heads=1, hidden=16)
    unit = torch.randn(1, 16)
    sides = []
    for tilt in (1e-4, -1e-4):
        unit[0, :2] = torch.tensor([-1e-4, tilt])  # past the cut at minus one, next to zero
        places, factor = query.placed(unit.clone())
        assert factor is not None
        slots, weights = near(places, (8,) * 8)
        sides.append(torch.zeros(65536).scatter_add(0, slots[0], (weights * factor)[0]))
    assert float((sides[0] - sides[1]).abs().sum()) < 1e-2
    # Elsewhere on the cut the two ends of a period are one place.
    for tilt in (1e-6, -1e-6):
        unit[0, :2] = torch.tensor([-1.0, tilt])
        slots, weights = near(query.placed(unit.clone())[0], (8,) * 8)
        sides.append(torch.zeros(65536).scatter_add(0, slots[0], weights[0]))
    assert float((sides[2] - sides[3]).abs().max()) < 1e-4


@pytest.mark.parametrize("name", QUERIES)
def test_places_are_found_in_fp32_whatever_the_autocast_and_the_hosts_type(name: str) -> None:
    query, hidden = query_of(name, 65536, heads=2, hidden=16), torch.randn(5, 16)
    exact = query(hidden)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(query(hidden)[0], exact)
    half = copy.deepcopy(query).to(torch.bfloat16)
    assert half.periods.dtype == torch.int64
    assert half(hidden.bfloat16())[0].dtype == torch.float32


def test_a_bf16_host_trains() -> None:
    model = vm.attach(tiny.host("qwen3").bfloat16(), vm.Lattice(slots=256, width=4, layers="all", query="angle"))
    optimizer = torch.optim.SGD(vm.param_groups(model, lr=1e-2))
    for step in range(2):
        model(input_ids=tiny.ids(seed=step), labels=tiny.ids(seed=step)).loss.backward()
        optimizer.step()
    grads = [p.grad for p in vm.memories(model).parameters()]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads)


def test_an_edited_row_reaches_the_tokens_that_read_it_alone() -> None:
    model, ids = attached(slots=65536, heads=1, replace=True), tiny.ids(1, 6)
    read = rows_read(model, ids)[0]
    others = set(read[:5].flatten().tolist())
    own = next(row for row in read[5].tolist() if row not in others)
    before = seen_at(model, 1, ids)[2]
    with torch.no_grad():
        vm.memories(model).banks()["lattice.shared.weight"].weight[own] += 1.0
    after = seen_at(model, 1, ids)[2]
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5], after[5])


def test_a_row_optimizer_moves_what_was_read_and_makes_no_gradient_of_the_table() -> None:
    model = attached(slots=65536, heads=1, layers="all").train()
    bank = vm.memories(model).banks()["lattice.shared.weight"]
    before = bank.weight.detach().clone()
    rows = vm.RowOptimizer(model, lr=1e-2)
    with vm.record(model) as rec:
        model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    rows.step()
    moved = (bank.weight != before).flatten(1).any(1).nonzero().flatten()
    read = torch.cat([rec.all(key, "slots").flatten() for key in rec.layers()])
    assert bank.weight.grad is None
    assert set(moved.tolist()) <= set(read.tolist())
    assert len(moved) > 0.5 * len(read.unique())


@pytest.mark.parametrize("query", QUERIES)
def test_a_compiled_host_gives_the_same_logits_and_gradients(query: str) -> None:
    model = attached(query=query, layers="all").train()
    ids = tiny.ids()
    model(input_ids=ids, labels=ids).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(input_ids=ids, labels=ids).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads.get(name), rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 1000}, r"slots=1000.*multiples of 4.*nearest: 512 or 1024\."),
        ({"slots": 1_000_000}, r"nearest: 995328 or 1048576\."),
        ({"slots": 0}, r"nearest: 256\."),
        ({"slots": -4}, r"nearest: 256\."),
        ({"heads": 0}, "heads=0.*1 or more, or None for one in 16"),
        ({"width": 0}, "width=0.*1 or more"),
        ({"query": "cos"}, "query='cos'.*'rms', 'angle'"),
        ({"spread": 0.0}, r"spread=0\.0.*one place"),
        ({"bank_std": 0.0}, "both start at zero"),
        ({"out_std": -1.0}, r"out_std=-1\.0"),
        ({"slots": 65536.0}, "expected int"),
    ],
)
def test_settings_that_cannot_be_are_named_with_the_nearest_that_can(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.Lattice(**settings)


def test_a_width_that_no_number_of_heads_fits_is_named_and_the_host_stays_as_it_was() -> None:
    import transformers as tf

    settings = {**tiny.LLAMA, "hidden_size": 40}
    model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**settings)).eval()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=r"width 40 is no multiple of 16; write heads=2 or heads=3.* width 32 or 48\."):
        vm.attach(model, vm.Lattice(slots=256))
    assert [name for name, _ in model.named_modules()] == names
    vm.attach(model, vm.Lattice(slots=256, heads=3))


def test_it_does_not_take_the_place_of_experts() -> None:
    model = tiny.host("mixtral")
    with pytest.raises(ValueError, match=r"Lattice\(replace=True\) takes the place of a dense feed-forward"):
        vm.attach(model, vm.Lattice(slots=256, replace=True))
    vm.attach(model, vm.Lattice(slots=256))
    assert model(input_ids=tiny.ids()).logits.isfinite().all()


def test_a_place_that_is_not_finite_is_seen_in_the_loss() -> None:
    part = part_of(attached())
    pool = vm.memories(attached()).banks()["lattice.shared.weight"]
    hidden = torch.randn(1, 3, 32)
    hidden[0, 1, 4] = math.nan
    frame = Frame(shared={"lattice": pool})
    out = part(hidden, frame)
    assert out[0, 1].isnan().all()
    assert out[0, ::2].isfinite().all()
