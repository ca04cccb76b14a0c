"""Vademecum: neural memory and experts for any Transformers model.

``vm.attach(model, vm.MoVE(slots=8))`` gives a model a memory, ``vm.detach(model)`` takes it off again.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vademecum import data, hosts, kinds, ops, training
    from vademecum.kinds.lave import LaVE
    from vademecum.kinds.moe import MoE
    from vademecum.kinds.move import MoVE
    from vademecum.kinds.none import NoMemory
    from vademecum.memory.base import every
    from vademecum.roles import param_groups
    from vademecum.saving import load, save
    from vademecum.surgery import attach, detach, knocked_out, memories, record

__all__ = [
    "LaVE",
    "MoE",
    "MoVE",
    "NoMemory",
    "attach",
    "data",
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
    "training",
]

#: Where each public name lives. Names are fetched when they are asked for, so that ``vademecum --help`` answers without
#: waiting for torch.
_HOMES: Mapping[str, str] = {
    "LaVE": "kinds.lave",
    "MoE": "kinds.moe",
    "MoVE": "kinds.move",
    "NoMemory": "kinds.none",
    "attach": "surgery",
    "data": "",
    "detach": "surgery",
    "every": "memory.base",
    "hosts": "",
    "kinds": "",
    "knocked_out": "surgery",
    "load": "saving",
    "memories": "surgery",
    "ops": "",
    "param_groups": "roles",
    "record": "surgery",
    "save": "saving",
    "training": "",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module(f"{__name__}.{home or name}")
    return getattr(value, name) if home else value


def __dir__() -> list[str]:
    return __all__
