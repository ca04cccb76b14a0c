"""Tokens that travel to their experts come back as if all experts were at home."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from tests import processes
from vademecum.experts.dispatch import AllToAll, Local
from vademecum.experts.routes import Routes
from vademecum.ops.experts import Networks

PROCESSES = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tokens of each process; how many experts each has; which of them are ever chosen; share of -1."""

    tokens: tuple[int, int, int] = (7, 5, 9)
    held: int = 2
    top_k: int = 2
    chosen: tuple[int, ...] | None = None
    none: float = 0.0
    biased: bool = False
    dtype: torch.dtype = torch.float64

    def rank(self, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hidden states, choices, weights and the gradient of the result, of one process."""
        generator = torch.Generator().manual_seed(rank)
        tokens, experts = self.tokens[rank], torch.tensor(self.chosen or range(self.held * PROCESSES))
        hidden, grad = (torch.randn(tokens, 8, generator=generator).to(self.dtype) for _ in range(2))
        weights = torch.rand(tokens, self.top_k, generator=generator)
        chosen = experts[torch.rand(tokens, len(experts), generator=generator).argsort(-1)[:, : self.top_k]]
        nobody = torch.rand(chosen.shape, generator=generator) < self.none
        return hidden, torch.where(nobody, -1, chosen), torch.where(nobody, 0.0, weights), grad

    def tensors(self) -> list[Tensor]:
        """Up, down and their biases, of all experts."""
        generator = torch.Generator().manual_seed(9)
        shapes = [(8, 12), (6, 8), *([(12,), (8,)] if self.biased else [])]
        return [
            torch.randn(self.held * PROCESSES, *shape, generator=generator).to(self.dtype).div(2) for shape in shapes
        ]


CASES = {
    "all experts in use": Case(),
    "one expert each": Case(held=1, top_k=1),
    "some assignments go nowhere": Case(none=0.4),
    "no assignment goes anywhere": Case(none=1.0),
    "biases": Case(biased=True, top_k=3),
    "one process without tokens": Case(tokens=(6, 0, 4)),
    "no process with tokens": Case(tokens=(0, 0, 0)),
    "a process whose experts nobody chooses": Case(chosen=(0, 1, 4), biased=True),
    "half precision": Case(dtype=torch.bfloat16),
    "many tokens": Case(tokens=(900, 700, 1100), held=1, dtype=torch.float32),
}


def run(case: Case, dispatch: Any, rank: int, tensors: list[Tensor]) -> dict[str, Any]:
    hidden, chosen, weights, grad = case.rank(rank)
    leaves = [hidden.requires_grad_(), weights.requires_grad_()]
    padded = [*tensors, *[None] * (4 - len(tensors))]
    networks = Networks(*padded, act=F.silu, gated=True)
    out = dispatch(leaves[0], Routes(chosen, leaves[1], weights, weights), networks)
    out.backward(grad)
    return {"out": out.detach(), "hidden": hidden.grad, "weights": weights.grad}


def travel(folder: Path) -> dict[str, Any]:
    """Every case twice, in one of the processes."""
    rank = dist.get_rank()
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        for time in ("first", "again"):
            held = slice(rank * case.held, (rank + 1) * case.held)
            mine = [tensor[held].clone().requires_grad_() for tensor in case.tensors()]
            done = run(case, AllToAll(None), rank, mine)
            results[f"{name} {time}"] = {**done, **{f"network {i}": t.grad for i, t in enumerate(mine)}}
    return results


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return processes.together(travel, tmp_path_factory.mktemp("travelled"), size=PROCESSES)


@pytest.mark.parametrize("name", CASES)
def test_travelling_tokens_get_the_results_and_gradients_of_tokens_at_home(
    name: str, travelled: list[dict[str, Any]]
) -> None:
    """The networks' gradients are those of the mean over processes, the tokens' those of their own process."""
    case = CASES[name]
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float64: 1e-6}[case.dtype]  # weights are fp32

    def assert_alike(got: Tensor, expected: Tensor, what: str) -> None:
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * largest + 1e-12, msg=what)

    whole = [tensor.requires_grad_() for tensor in case.tensors()]
    for rank in range(PROCESSES):
        expected = run(case, Local(), rank, whole)
        for part, tensor in expected.items():
            assert_alike(travelled[rank][f"{name} first"][part], tensor, f"{part} of process {rank}")
    for i, tensor in enumerate(whole):
        assert tensor.grad is not None
        got = torch.cat([travelled[rank][f"{name} first"][f"network {i}"] for rank in range(PROCESSES)])
        assert_alike(got, tensor.grad / PROCESSES, f"network {i}")


@pytest.mark.parametrize("name", CASES)
def test_travelling_twice_gives_the_same_bits(name: str, travelled: list[dict[str, Any]]) -> None:
    for result in travelled:
        first, again = result[f"{name} first"], result[f"{name} again"]
        assert all(torch.equal(first[part], again[part]) for part in first)


def test_a_process_that_nobody_sends_a_token_has_gradients_of_zero(travelled: list[dict[str, Any]]) -> None:
    idle = travelled[1]["a process whose experts nobody chooses first"]
    assert all(not idle[f"network {i}"].any() for i in range(4))
    assert idle["out"].any()
