"""Vademecum: neural memory and experts for any Transformers model.

``vm.attach(model, vm.MoVE(slots=8))`` gives a model a memory, ``vm.detach(model)`` takes it off again.
"""

from vademecum import hosts, kinds, ops
from vademecum.attach import attach, detach, knocked_out, memories, record
from vademecum.kinds.lave import LaVE
from vademecum.kinds.moe import MoE
from vademecum.kinds.move import MoVE
from vademecum.kinds.none import NoMemory
from vademecum.memory.base import every
from vademecum.roles import param_groups
from vademecum.saving import load, save

__all__ = [
    "LaVE",
    "MoE",
    "MoVE",
    "NoMemory",
    "attach",
    "detach",
    "every",
    "hosts",
    "kinds",
    "knocked_out",
    "load",
    "memories",
    "ops",
    "param_groups",
    "record",
    "save",
]
