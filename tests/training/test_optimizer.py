import math

import pytest
import torch
from tiny_runs import build, recipe

import vademecum as vm
from vademecum.rows import DECAY
from vademecum.training.optimizer import Optimizer

ROWS = {"vademecum.shared.move.weight"}
KINDS = (vm.MoVE(slots=2), vm.MoE(experts=4, top_k=2, layers=[1]))


def _with_gradients(model, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in ROWS:
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return model


def _read(optimizer, scale=1.0):
    """Every row of the bank read once, with random gradients."""
    bank = next(held.bank for held in optimizer.rows._held.values())
    rows = bank.ledger.lend(torch.arange(bank.rows), torch.zeros(bank.rows, *bank.row_shape))
    grads = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    (rows * scale * grads).sum().backward()
    return bank


def _names(optimizer, part):
    return {key.split("/", 2)[2] for key in optimizer.state_dict() if key.startswith(part + "/")}


def _stepped(model, name):
    optimizer = Optimizer(model, recipe(optimizer=name))
    if optimizer.rows:
        _read(optimizer)
    norms = {role: float(norm) for role, norm in optimizer.grad_norms().items()}
    optimizer.step(factor=1.0, norms=norms)
    return optimizer


def test_adamw_steps_every_trainable_parameter():
    model = _with_gradients(build(*KINDS))
    optimizer = _stepped(model, "adamw")
    assert _names(optimizer, "adamw") == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not _names(optimizer, "adamw") & ROWS
    assert set(optimizer.state_dict()) >= {"rows/square/move.shared.weight", "rows/steps"}


def test_muon_takes_the_hosts_matrices_and_nothing_else():
    model = _with_gradients(build(*KINDS))
    optimizer = _stepped(model, "muon")
    muon = _names(optimizer, "muon")
    assert muon
    for name, parameter in model.named_parameters():
        host_matrix = name.endswith(("proj.weight", "v_proj.host.weight"))
        assert (name in muon) == (host_matrix and parameter.ndim == 2), name


def test_muon_leaves_a_learned_position_table_to_adamw():
    from vademecum.training import presets

    model = _with_gradients(vm.attach(presets.build_host("gpt2", size=1, vocab_size=64, length=16), vm.NoMemory()))
    optimizer = _stepped(model, "muon")
    assert not [name for name in _names(optimizer, "muon") if "wpe" in name or "wte" in name]


def test_every_parameter_moves_with_muon():
    model = _with_gradients(build(*KINDS))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _stepped(model, "muon")
    wanted = {name for name, p in model.named_parameters() if p.requires_grad} | ROWS
    still = [name for name, p in model.named_parameters() if name in wanted and torch.equal(p, before[name])]
    assert not still


def test_each_role_is_clipped_by_itself():
    model = _with_gradients(build(*KINDS), scale=10.0)
    optimizer = Optimizer(model, recipe(clip=0.5))
    bank = _read(optimizer, scale=10.0)
    for parameter in optimizer.roles["router"]:
        parameter.grad.mul_(1e-6)
    small = [parameter.grad.clone() for parameter in optimizer.roles["router"]]
    norms = {role: float(norm) for role, norm in optimizer.grad_norms().items()}
    optimizer.step(factor=1.0, norms=norms)
    clipped = {role: float(norm) for role, norm in optimizer.grad_norms().items()}
    assert clipped["host"] == pytest.approx(0.5, rel=1e-4)
    # A row's step is its gradient over its own size, whatever that is: the state tells how large the gradient was.
    square = optimizer.state_dict()["rows/square/move.shared.weight"]
    seen = square.double() / (1 - DECAY) * bank.row_shape[1]
    assert float(seen.sum().sqrt()) == pytest.approx(0.5, rel=1e-4)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(optimizer.roles["router"], small, strict=True))


def test_a_norm_is_that_of_all_gradients_of_the_role_together():
    model = _with_gradients(build(*KINDS))
    optimizer = Optimizer(model, recipe())
    _read(optimizer)
    norms = optimizer.grad_norms()
    rows = optimizer.rows._held["move.shared.weight"].bank.ledger.merge()[1]
    assert float(norms.pop("bank")) == pytest.approx(float(rows.double().norm()), rel=1e-4)
    for role, norm in norms.items():
        expected = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in optimizer.roles[role]))
        assert float(norm) == pytest.approx(expected, rel=1e-4)


def test_the_schedules_factor_scales_every_rate_and_does_not_pile_up():
    model = _with_gradients(build(*KINDS))
    optimizer = Optimizer(model, recipe(lr=1e-2))
    groups = optimizer.parts["adamw"].param_groups
    base = [group["lr"] for group in groups]
    for factor in (0.5, 0.5, 0.25):
        optimizer.step(factor=factor, norms=dict.fromkeys(optimizer.roles, 0.0))
        assert [group["lr"] for group in groups] == [lr * factor for lr in base]


def test_banks_vectors_and_routers_do_not_decay():
    model = build(*KINDS)
    optimizer = Optimizer(model, recipe(weight_decay=0.3))
    decay = {p: group["weight_decay"] for group in optimizer.parts["adamw"].param_groups for p in group["params"]}
    assert {decay[p] for p in optimizer.roles["router"]} == {0.0}
    bank = _read(optimizer)
    bank.ledger.clear()
    before = bank.weight.detach().clone()
    optimizer.rows.step()
    assert torch.equal(before, bank.weight), "a bank whose rows were not read stays as it is"
    assert {decay[p] for p in optimizer.roles["host"] if p.ndim == 1} == {0.0}
    table = model.get_input_embeddings().weight
    assert decay[table] == 0.0
    assert {decay[p] for p in optimizer.roles["host"] if p.ndim == 2 and p is not table} == {0.3}


def test_a_frozen_host_is_no_role():
    assert "host" not in Optimizer(build(*KINDS, freeze=True), recipe()).roles


def test_state_of_another_parameter_or_shape_is_refused():
    optimizer = _stepped(_with_gradients(build(*KINDS)), "adamw")
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="belongs to no parameter"):
        optimizer.load_state_dict({**state, "adamw/exp_avg/nothing": torch.zeros(1)})
    for part in ("adamw/", "rows/"):
        key = next(key for key, value in state.items() if value.ndim == 2 and key.startswith(part))
        with pytest.raises(ValueError, match="expected"):
            optimizer.load_state_dict({**state, key: torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"lacks 'square/move.shared.weight'"):
        optimizer.load_state_dict({key: value for key, value in state.items() if "square" not in key})
