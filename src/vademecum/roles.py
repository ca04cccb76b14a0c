"""Which optimizer group a parameter belongs to: facts of the module that owns it, keyed by qualified name."""

from __future__ import annotations

from typing import Any

from torch import nn

from vademecum.memory.base import Role
from vademecum.surgery import memories

#: Step of each role relative to the host's, before a module's own ``lr_scale`` (how it was found:
#: docs/log-2026-11-25.md).
LR_RATIO = {Role.HOST: 1.0, Role.ROUTER: 1.0, Role.EXPERT: 0.5, Role.BANK: 60.0}


def param_groups(
    model: nn.Module, *, lr: float, weight_decay: float = 0.0, embedding_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """Optimizer groups of an attached model's trainable parameters, by role.

    The bank's step is ``lr * 60 / slots``: table rows are read rarely and want large steps, and M slots that move
    together would otherwise move the value M times as far. Experts take half the host's step: each sees a share of the
    tokens, so its gradient is noisier. A host that is trained from scratch beside a memory should
    have the same ratio for its own lookup table, the input embedding; otherwise the memory wins by its step alone
    (docs/decisions/0004). Matrices of the host and the experts decay; vectors, routers and tables do not.

    Args:
        model: a model with memories.
        lr: the host's learning rate.
        weight_decay: of host and expert matrices.
        embedding_ratio: step of the host's input embedding over ``lr``, where it is not tied to the head; 1 leaves a
            pretrained host's embedding to learn like the rest of it.

    Returns:
        Dicts with ``params``, ``lr``, ``weight_decay``, ``role`` and ``names`` (qualified, in the order of ``params``),
        ready for any ``torch.optim`` optimizer; every trainable parameter is in exactly one.

    Raises:
        ValueError: nothing is attached, or nothing is trainable.
    """
    owners = {
        id(p): m for root in memories(model).named().values() for m in root.modules() for p in m.parameters(False)
    }
    table = _own_embedding(model)
    groups: dict[tuple[Role, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = owners.get(id(parameter))
        role = Role.HOST if owner is None else _role_of(owner, name)
        step = lr * LR_RATIO[role] * float(getattr(owner, "lr_scale", 1.0))
        if parameter is table:
            step *= embedding_ratio
        decays = role in (Role.HOST, Role.EXPERT) and parameter.dim() >= 2 and parameter is not table
        decay = weight_decay if decays and not name.endswith("_bias") else 0.0
        group = groups.setdefault(
            (role, step, decay), {"params": [], "lr": step, "weight_decay": decay, "role": str(role), "names": []}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError("no parameter of the model is trainable; set requires_grad_(True) on the memory or the host.")
    return list(groups.values())


def _own_embedding(model: nn.Module) -> nn.Parameter | None:
    """The input embedding's table, or None where the head shares it."""
    host: Any = memories(model).host.model
    table = host.get_input_embeddings().weight
    head = host.get_output_embeddings()
    return None if head is not None and head.weight is table else table


def _role_of(owner: nn.Module, name: str) -> Role:
    role = getattr(owner, "role", None)
    if not isinstance(role, Role):
        raise ValueError(
            f"{type(owner).__name__}, which owns {name}, says no optimizer role; give the class role: ClassVar[Role]."
        )
    return role
