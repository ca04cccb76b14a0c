"""Experts and memory that share a budget: how many slots and how many experts a share of it buys on a plan's host.

The budget is *sparse* parameters, those that a token does not all make use of: slots of a memory's table, and experts
beyond the ones that are active. Active compute is therefore the dense arm's at every share, up to the slots' gates and
the router, which the report states.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import vademecum as vm

if TYPE_CHECKING:
    from vademecum.compare.arms import Arm
    from vademecum.compare.plan import Plan
    from vademecum.memory.base import Kind


@dataclass(frozen=True, kw_only=True)
class Units:
    """What one more slot and one more expert add to a model's parameters, gates and router rows included."""

    slot: int
    expert: int
    active: int

    def split(self, budget: int, share: float) -> tuple[int, int]:
        """Slots, and experts beyond the ``active`` ones, for ``share`` percent of ``budget`` parameters in memory.

        Slots are rounded to the nearest whole number; experts take what is left of the budget, rounded likewise. Both
        ends are exact: no slot at 0, no further expert at 100.
        """
        slots = round(budget * share / 100 / self.slot) if share else 0
        experts = round((budget - slots * self.slot) / self.expert) if share < 100 else 0
        return slots, max(0, experts)


def resolve(plan: Plan) -> Plan:
    """``plan`` with the kinds of every arm that has a share given their slots and experts; other arms as they are.

    Raises:
        ValueError: an arm whose kinds are not one with slots and one with experts.
    """
    if all(arm.share is None for arm in (*plan.arms, *plan.curve)):
        return plan
    known: dict[tuple[str, ...], Units] = {}

    def concrete(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return tuple(arm if arm.share is None else _concrete(arm, plan, known) for arm in arms)

    return dataclasses.replace(plan, arms=concrete(plan.arms), curve=concrete(plan.curve))


def _concrete(arm: Arm, plan: Plan, known: dict[tuple[str, ...], Units]) -> Arm:
    share = arm.share or 0.0
    with_slots = [spec for spec in arm.kinds if hasattr(vm.kinds.parse(spec), "slots")]
    with_experts = [spec for spec in arm.kinds if hasattr(vm.kinds.parse(spec), "top_k")]
    if len(with_experts) != 1 or len(with_slots) > 1 or (share and not with_slots):
        raise ValueError(
            f"the arm '{arm.name}' has a share of {share:g} % and the kinds {', '.join(arm.kinds) or 'none'}; expected "
            "one kind with slots and one with experts, such as move and moe:top_k=4."
        )
    memory, experts = (with_slots or ["move"])[0], with_experts[0]
    # Only what is not decided here tells one pair of units from another.
    template = (setting(memory, "slots", 1), setting(experts, "experts", _active(experts)))
    if template not in known:
        known[template] = measure(plan, *template)
    units = known[template]
    slots, more = units.split(plan.budget * units.expert, share)
    bought = {memory: setting(memory, "slots", slots), experts: setting(experts, "experts", units.active + more)}
    kinds = tuple(bought.get(spec, spec) for spec in arm.kinds if slots or spec != memory)
    return dataclasses.replace(arm, kinds=kinds, sparse=(slots * units.slot, more * units.expert))


def measure(plan: Plan, memory: str, experts: str) -> Units:
    """Units of the kinds ``memory`` and ``experts`` on the plan's host, counted on models."""
    active = _active(experts)
    slot = _parameters(plan, setting(memory, "slots", 2)) - _parameters(plan, setting(memory, "slots", 1))
    expert = _parameters(plan, setting(experts, "experts", active + 1)) - _parameters(plan, experts)
    return Units(slot=slot, expert=expert, active=active)


def setting(spec: str, name: str, value: Any) -> str:
    """``spec`` such as "moe:top_k=4" with one setting changed or added: "moe:top_k=4,experts=8"."""
    kind, _, settings = spec.partition(":")
    named = dict(item.split("=", 1) for item in settings.split(",") if item) | {name: str(value)}
    return f"{kind}:{','.join(f'{key}={given}' for key, given in named.items())}"


def _active(experts: str) -> int:
    kind: Any = vm.kinds.parse(experts)
    return int(kind.top_k)


def _parameters(plan: Plan, spec: str) -> int:
    kind: Kind = vm.kinds.parse(spec)
    with torch.random.fork_rng():
        return sum(p.numel() for p in vm.attach(plan.host_model(), kind).parameters())
