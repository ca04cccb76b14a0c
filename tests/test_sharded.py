"""Several processes give the losses, gradients and steps of one, whether or not they share out the experts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import vademecum as vm
from tests import processes, tiny
from vademecum.sharding import clip_grad_norm_
from vademecum.state import load_memory_state_dict, memory_state_dict

STEPS, CLIP = 2, 0.5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A host with memories, and how it is trained."""

    kinds: tuple[str, ...]
    sharded: bool = True
    host: str = "qwen3"
    checkpointing: bool = False
    frozen: bool = False
    idle: bool = False

    def model(self) -> Any:
        model = vm.attach(tiny.host(self.host), *map(vm.kinds.parse, self.kinds)).train()
        tiny.shake(model)
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.frozen:
            memory = {id(p) for module in vm.memories(model).named().values() for p in module.parameters()}
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in memory)
        if self.idle:
            for name, buffer in model.named_buffers():
                if name.endswith("offsets"):
                    buffer.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
        return model


CASES = {
    "move": Case(kinds=("move:slots=2",), sharded=False),
    "lave": Case(kinds=("lave",), sharded=False),
    "whole experts": Case(kinds=("moe:experts=4",), sharded=False),
    "whole experts, bias": Case(kinds=("moe:experts=4,balance=bias",), sharded=False),
    "whole experts, global balance": Case(kinds=("moe:experts=4,balance_scope=global",), sharded=False),
    "softmax, auxiliary loss": Case(kinds=("moe:experts=4,top_k=2",)),
    "sigmoid, bias, shared expert": Case(kinds=("moe:like=deepseek,experts=6,top_k=3,shared_width=8",)),
    "global balance": Case(kinds=("moe:like=olmoe,experts=4,top_k=2,balance_scope=global",)),
    "capacity": Case(kinds=("moe:experts=4,top_k=2,capacity=0.8",)),
    "top 1 with capacity": Case(kinds=("moe:experts=2,top_k=1,capacity=1.0",)),
    "experts choose": Case(kinds=("moe:experts=4,top_k=2,choice=expert,balance_weight=0.0",)),
    "biases, no gate": Case(kinds=("moe:experts=4,top_k=2",), host="gpt2"),
    "beside a bank": Case(kinds=("move:slots=2", "moe:experts=4,top_k=2")),
    "checkpointing": Case(kinds=("moe:like=deepseek,experts=4,top_k=2,shared_width=8",), checkpointing=True),
    "frozen host": Case(kinds=("moe:experts=4,top_k=2,layers=0",), frozen=True),
    "no token for the second process": Case(kinds=("moe:like=deepseek,experts=4,top_k=2",), idle=True),
    "no token, checkpointing": Case(
        kinds=("moe:like=deepseek,experts=4,top_k=2",), idle=True, checkpointing=True, frozen=True
    ),
}


def halves() -> tuple[torch.Tensor, ...]:
    return tiny.ids(4, 12).split(2)


def grads(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(folder: Path) -> dict[str, Any]:
    """Every case, in one of two processes."""
    results = {}
    for name, case in CASES.items():
        model = case.model()
        if case.sharded:
            vm.shard_experts(model)
        ddp = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        ids, steps = halves()[dist.get_rank()], []
        for _ in range(STEPS):
            loss = ddp(input_ids=ids, labels=ids).loss
            loss.backward()
            found = grads(model)
            clip = clip_grad_norm_ if case.sharded else clip_whole
            steps.append({"loss": loss.detach(), "grads": found, "norm": clip(model, CLIP)})
            optimizer.step()
            optimizer.zero_grad()
        if case.sharded:
            vm.gather_experts(model)
        results[name] = {"steps": steps, "end": {n: t.detach().clone() for n, t in model.state_dict().items()}}
    return results


def clip_whole(model: nn.Module, most: float) -> torch.Tensor:
    return nn.utils.clip_grad_norm_(model.parameters(), most)


def in_one_process(case: Case) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The same steps on both halves in turn, and the tensors at the end.

    Losses are means over a micro-batch; what a balance counts over both processes is made the same by running the
    other half first, without its loss.
    """
    model = case.model()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    steps = []
    for _ in range(STEPS):
        start, losses = {name: b.clone() for name, b in model.named_buffers()}, []
        for mine, other in (halves(), halves()[::-1]):
            for name, buffer in model.named_buffers():
                buffer.copy_(start[name])
            model(input_ids=other, labels=other)
            loss = model(input_ids=mine, labels=mine).loss
            (loss / 2).backward()
            losses.append(loss.detach())
        found = grads(model)
        steps.append({"losses": losses, "grads": found, "norm": clip_whole(model, CLIP)})
        optimizer.step()
        optimizer.zero_grad()
    return steps, model.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return processes.together(train, tmp_path_factory.mktemp("trained"))


def is_shard(name: str) -> bool:
    return ".experts." in name


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_losses_gradients_and_steps_of_one(name: str, trained: list[dict[str, Any]]) -> None:
    case = CASES[name]
    steps, end = in_one_process(case)
    close = {"rtol": 1e-4, "atol": 2e-6}
    for number, expected in enumerate(steps):
        both = [trained[rank][name]["steps"][number] for rank in (0, 1)]
        for rank in (0, 1):
            torch.testing.assert_close(both[rank]["loss"], expected["losses"][rank])
            torch.testing.assert_close(both[rank]["norm"], expected["norm"])
            assert both[rank]["grads"].keys() == expected["grads"].keys()
        for parameter, grad in expected["grads"].items():
            if case.sharded and is_shard(parameter):
                got = torch.cat([both[rank]["grads"][parameter] for rank in (0, 1)])
                torch.testing.assert_close(got, grad, **close, msg=parameter)
            else:
                for rank in (0, 1):
                    torch.testing.assert_close(both[rank]["grads"][parameter], grad, **close, msg=parameter)
    for rank in (0, 1):
        # Experts that choose see their own process's tokens: what they learn is a mean over processes.
        for parameter, tensor in ((n, t) for n, t in end.items() if ".choice." not in n):
            torch.testing.assert_close(trained[rank][name]["end"][parameter], tensor, **close, msg=parameter)
    learned = [{n: t for n, t in trained[rank][name]["end"].items() if ".choice." in n} for rank in (0, 1)]
    for buffer, tensor in learned[0].items():
        torch.testing.assert_close(learned[1][buffer], tensor, msg=buffer)


@pytest.mark.parametrize("name", ["no token for the second process", "no token, checkpointing"])
def test_a_process_that_receives_no_token_gives_gradients_of_zero(name: str, trained: list[dict[str, Any]]) -> None:
    for rank, busy in ((0, True), (1, False)):
        for found in (step["grads"] for step in trained[rank][name]["steps"]):
            assert all(bool(grad.any()) == busy for parameter, grad in found.items() if is_shard(parameter))
            assert any(is_shard(parameter) for parameter in found)


def sentence(call: Callable[[], Any]) -> str:
    """The ValueError that ``call`` raises, or nothing."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def attached(kind: str = "moe:experts=4,top_k=2", seed: int = 0) -> Any:
    model = vm.attach(tiny.host("qwen3", seed), vm.kinds.parse(kind))
    tiny.shake(model, seed=seed + 2)
    return model


def memory(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in memory_state_dict(model).items()}


def handle(folder: Path) -> dict[str, Any]:
    """What can be done to a sharded model besides training it, in one of two processes."""
    rank = dist.get_rank()
    ids = tiny.ids(4, 8).split(2)[rank]
    model = attached(seed=rank)  # other experts in each process
    costs = [dataclasses.astuple(vm.memories(model).cost())]
    experts = model.model.layers[0].mlp.memory["moe"].experts
    identity = id(experts.up)
    vm.shard_experts(model)
    costs.append(dataclasses.astuple(vm.memories(model).cost()))
    held, shown, said = list(experts.up.shape), repr(experts), {}
    said["twice"] = sentence(lambda: vm.shard_experts(model))
    said["save"] = sentence(lambda: vm.save(model, folder / f"never {rank}"))
    said["state dict"] = sentence(lambda: model.state_dict())
    said["load"] = sentence(lambda: load_memory_state_dict(model, {}))
    said["uneven"] = sentence(lambda: vm.shard_experts(attached("moe:experts=5,top_k=2")))
    said["too few"] = sentence(lambda: vm.shard_experts(attached("moe:experts=1,top_k=1")))
    said["no experts"] = sentence(lambda: vm.shard_experts(attached("move:slots=2")))
    said["part of the processes"] = sentence(lambda: vm.shard_experts(attached(), dist.new_group([0])))
    said["whole"] = sentence(lambda: vm.gather_experts(attached()))
    said["clip whole"] = sentence(lambda: clip_grad_norm_(attached(), 1.0))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        copied = copy.deepcopy(model)(input_ids=ids).logits
    generated = model.generate(ids, max_new_tokens=3, do_sample=False)
    ignored = len(list(model._ddp_params_and_buffers_to_ignore))
    vm.gather_experts(model)
    gathered = {"memory": memory(model), "same": id(experts.up) == identity}
    ignored_gathered = len(list(model._ddp_params_and_buffers_to_ignore))
    if rank == 0:
        vm.save(model, folder / "memory")
    dist.barrier()
    loaded = vm.shard_experts(vm.load(tiny.host("qwen3", rank), folder / "memory"))
    with torch.no_grad():
        logits_loaded = loaded(input_ids=ids).logits
    vm.detach(loaded)
    with torch.no_grad():
        detached = loaded(input_ids=ids).logits
    ignored_detached = len(list(loaded._ddp_params_and_buffers_to_ignore))
    return {
        "said": said,
        "shown": shown,
        "held": held,
        "costs": costs,
        "gathered": gathered,
        "logits": {"sharded": logits, "copied": copied, "loaded": logits_loaded, "detached": detached},
        "generated": generated,
        "ignored": [ignored, ignored_gathered, ignored_detached],
    }


@pytest.fixture(scope="module")
def handled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("handled")
    return folder, processes.together(handle, folder)


Handled = tuple[Path, list[dict[str, Any]]]

SENTENCES = {
    "twice": ("shared out over 2 processes already", "vm.gather_experts(model)"),
    "save": ("2 of the 4 experts", "vm.gather_experts(model)"),
    "state dict": ("2 of the 4 experts", "vm.gather_experts(model)"),
    "load": ("2 of the 4 experts", "vm.gather_experts(model)"),
    "uneven": ("moe.layers.0 has 5 experts, which 2 processes", "MoE(experts=4 or 6)"),
    "too few": ("moe.layers.0 has 1 experts, which 2 processes", "MoE(experts=2)"),
    "no experts": ("no MoE among its memories (move)", "vm.MoE(experts=8)"),
    "whole": ("whole already",),
    "clip whole": ("whole", "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1)"),
}


@pytest.mark.parametrize("fault", SENTENCES)
def test_what_cannot_be_done_with_experts_shared_out_is_said_in_one_sentence(fault: str, handled: Handled) -> None:
    for result in handled[1]:
        said = result["said"][fault]
        assert all(part in said for part in SENTENCES[fault]), said
        assert said.count(". ") == 0
    assert not list(handled[0].glob("never*"))


def test_a_group_of_some_processes_is_refused_within_and_outside_of_it(handled: Handled) -> None:
    member, stranger = (result["said"]["part of the processes"] for result in handled[1])
    assert "holds 1 of the 2 processes" in member
    assert "holds not this process" in stranger


def test_each_process_holds_its_part_and_the_costs_are_those_of_the_whole(handled: Handled) -> None:
    for result in handled[1]:
        assert result["held"][0] == 2
        assert "experts=4 (2 of them here)" in result["shown"]
        assert result["costs"][0] == result["costs"][1]


def test_gathered_experts_are_those_of_the_first_process_bit_for_bit(handled: Handled) -> None:
    first = memory(attached(seed=0))
    for result in handled[1]:
        assert result["gathered"]["same"]
        got = {n: t for n, t in result["gathered"]["memory"].items() if is_shard(f".{n}")}
        assert got
        assert all(torch.equal(tensor, first[name]) for name, tensor in got.items())


def test_a_saved_memory_is_loaded_shared_out_and_computes_what_the_whole_model_does(handled: Handled) -> None:
    folder, results = handled
    for rank, result in enumerate(results):
        ids = tiny.ids(4, 8).split(2)[rank]
        bare = tiny.host("qwen3", rank)
        with torch.no_grad():
            torch.testing.assert_close(result["logits"]["detached"], bare(input_ids=ids).logits, rtol=0, atol=0)
            whole = vm.load(bare, folder / "memory")
            torch.testing.assert_close(result["logits"]["loaded"], whole(input_ids=ids).logits)
    assert not torch.allclose(results[0]["logits"]["loaded"], results[0]["logits"]["detached"])


def test_sharded_models_answer_and_generate_like_whole_ones(handled: Handled) -> None:
    first = memory(attached(seed=0))
    for rank, result in enumerate(handled[1]):
        model = attached(seed=rank)
        state = {n: first[n] if is_shard(f".{n}") else tensor for n, tensor in memory(model).items()}
        load_memory_state_dict(model, state)
        ids = tiny.ids(4, 8).split(2)[rank]
        with torch.no_grad():
            expected = model(input_ids=ids).logits
        torch.testing.assert_close(result["logits"]["sharded"], expected)
        assert torch.equal(result["logits"]["copied"], result["logits"]["sharded"])
        assert torch.equal(result["generated"], model.generate(ids, max_new_tokens=3, do_sample=False))


def test_distributed_training_leaves_alone_what_is_shared_out_and_nothing_else(handled: Handled) -> None:
    for result in handled[1]:
        assert result["ignored"] == [4, 0, 0]  # up and down of two layers; none once gathered or detached


def test_without_other_processes_nothing_is_shared_out() -> None:
    model = attached()
    with pytest.raises(ValueError, match=r"init_process_group first"):
        vm.shard_experts(model)
    assert model.model.layers[0].mlp.memory["moe"].experts.up.shape[0] == 4
