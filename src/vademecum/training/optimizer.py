"""Optimizers by role behind one object: rows for banks; AdamW for the rest, or Muon for the host's matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vademecum import roles
from vademecum.memory.base import Role
from vademecum.rows import RowOptimizer
from vademecum.state import Rows
from vademecum.training.recipe import Recipe

BETAS = (0.9, 0.95)
ROWS = "rows/"  # what the state of the banks' optimizer is called by

#: A parameter with its learning rate and weight decay.
_Wanted = tuple[nn.Parameter, float, float]


class Optimizer:
    """Steps every trainable parameter of a model with the optimizer its role asks for.

    Attributes:
        parts: the torch optimizers by name, "adamw" and perhaps "muon".
        rows: the optimizer of the banks.
        roles: trainable parameters by role, as clipping sees them; those of banks are rows, not listed.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        self.clip = recipe.clip
        # First: it takes the banks out of what the others see.
        self.rows = RowOptimizer(model, lr=recipe.lr, rule=recipe.bank_rule, seed=recipe.seed)
        self.roles: dict[str, list[nn.Parameter]] = {}
        self._names: dict[Tensor, str] = {}
        wanted: dict[str, list[_Wanted]] = defaultdict(list)
        tables = _looked_up(model)
        groups = roles.param_groups(
            model, lr=recipe.lr, weight_decay=recipe.weight_decay, embedding_ratio=recipe.embedding_ratio
        )
        for group in groups:
            self.roles.setdefault(group["role"], []).extend(group["params"])
            self._names |= dict(zip(group["params"], group["names"], strict=True))
            for param in group["params"]:
                muon = recipe.optimizer == "muon" and _is_matrix(param, group["role"], tables)
                wanted["muon" if muon else "adamw"].append((param, group["lr"], group["weight_decay"]))
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if wanted["adamw"]:
            # One kernel over all tensors: measured at 0.28 (1 thread) and 0.22 (2) of foreach's time on CPU.
            self.parts["adamw"] = torch.optim.AdamW(_groups(wanted["adamw"]), betas=BETAS, fused=True)
        if wanted["muon"]:
            # This adjustment makes an update as large as AdamW's, so that one learning rate serves both.
            self.parts["muon"] = torch.optim.Muon(_groups(wanted["muon"]), adjust_lr_fn="match_rms_adamw")
        for part in self.parts.values():
            for group in part.param_groups:
                group["base_lr"] = group["lr"]

    def grad_norms(self) -> dict[str, Tensor]:
        """Norm of the gradient of each role, before clipping, as 0-d tensors; nothing waits for the device."""
        norms = {role: torch.nn.utils.get_total_norm(_grads(params)) for role, params in self.roles.items()}
        banks = self.rows.grad_norms()
        return norms | ({str(Role.BANK): torch.stack(banks).norm()} if banks else {})

    def step(self, *, factor: float, norms: Mapping[str, float]) -> None:
        """Clip each role to the recipe's norm and step.

        Args:
            factor: the schedule's factor on every group's learning rate.
            norms: what :meth:`grad_norms` gave, as numbers.
        """
        for role, params in self.roles.items():
            if 0 < self.clip < norms[role]:
                torch._foreach_mul_(_grads(params), self.clip / norms[role])
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = group["base_lr"] * factor
            part.step()
        norm = norms.get(Role.BANK, 0.0)
        self.rows.step(factor=factor, scale=self.clip / norm if 0 < self.clip < norm else 1.0)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)
        self.rows.zero_grad()

    def state_dict(self) -> dict[str, Rows]:
        """All state as tensors named ``part/entry/parameter``, such as ``adamw/exp_avg/lm_head.weight``."""
        found: dict[str, Rows] = {
            f"{name}/{entry}/{self._names[param]}": value
            for name, part in self.parts.items()
            for param, state in part.state.items()
            for entry, value in state.items()
        }
        return found | ({f"{ROWS}{name}": value for name, value in self.rows.state_dict().items()} if self.rows else {})

    def load_state_dict(self, state: Mapping[str, Rows]) -> None:
        """Take what :meth:`state_dict` gave, copied.

        Raises:
            ValueError: a tensor belongs to no parameter of this model or has another shape.
        """
        params = {name: param for param, name in self._names.items()}
        homes = {param: one for one in self.parts.values() for group in one.param_groups for param in group["params"]}
        # A fused kernel keeps its step counts beside the weights, the others on the CPU.
        beside = {
            param
            for one in self.parts.values()
            for group in one.param_groups
            if group.get("fused") or group.get("capturable")
            for param in group["params"]
        }
        loaded: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        rows = {key.removeprefix(ROWS): value for key, value in state.items() if key.startswith(ROWS)}
        if self.rows or rows:
            self.rows.load_state_dict(rows)
        for key, value in state.items():
            if key.startswith(ROWS) or not isinstance(value, Tensor):
                continue
            part, entry, name = [*key.split("/", 2), "", ""][:3]
            param = params.get(name)
            if param is None or homes[param] is not self.parts.get(part):
                raise ValueError(f"the optimizer state {key!r} belongs to no parameter that {part} trains here.")
            if value.ndim and value.shape != param.shape:
                raise ValueError(f"the optimizer state {key!r} is {list(value.shape)}, expected {list(param.shape)}.")
            # A clone owns aligned memory, unlike a mapped file.
            loaded[param][entry] = value.to(param.device if value.ndim or param in beside else "cpu", copy=True)
        for param, home in homes.items():
            home.state.pop(param, None)
            if param in loaded:
                home.state[param] = loaded[param]


def _grads(params: Iterable[nn.Parameter]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def _looked_up(model: PreTrainedModel) -> set[Tensor]:
    """Tables and the head: matrices by shape, but their rows are vectors that are used one at a time."""
    tables: set[Tensor] = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return tables | ({head.weight} if head is not None else set())


def _is_matrix(param: nn.Parameter, role: str, tables: set[Tensor]) -> bool:
    return role == "host" and param.ndim == 2 and param not in tables


def _groups(wanted: list[_Wanted]) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for param, lr, decay in wanted:
        groups[lr, decay].append(param)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]
