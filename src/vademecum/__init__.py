"""Vademecum: neural memory and experts for any Transformers model.

``vm.attach(model, vm.MoVE(slots=8))`` gives a model a memory, ``vm.detach(model)`` takes it off again.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # What type checkers see; a kind that is not listed here works all the same.
    from vademecum import hosts as hosts
    from vademecum import kinds as kinds
    from vademecum import ops as ops
    from vademecum.kinds.bank_of_values import BankOfValues as BankOfValues
    from vademecum.kinds.entries import Entries as Entries
    from vademecum.kinds.lave import LaVE as LaVE
    from vademecum.kinds.lookup_experts import LookupExperts as LookupExperts
    from vademecum.kinds.memory_attention import MemoryAttention as MemoryAttention
    from vademecum.kinds.moe import MoE as MoE
    from vademecum.kinds.move import MoVE as MoVE
    from vademecum.kinds.ngram import NGram as NGram
    from vademecum.kinds.none import NoMemory as NoMemory
    from vademecum.kinds.peer import PEER as PEER
    from vademecum.kinds.product_key import ProductKey as ProductKey
    from vademecum.kinds.token_ffn import TokenFFN as TokenFFN
    from vademecum.memory.layers import every as every
    from vademecum.roles import param_groups as param_groups
    from vademecum.rows import RowOptimizer as RowOptimizer
    from vademecum.saving import load as load
    from vademecum.saving import save as save
    from vademecum.sharding import gather_experts as gather_experts
    from vademecum.sharding import shard_experts as shard_experts
    from vademecum.surgery import attach as attach
    from vademecum.surgery import detach as detach
    from vademecum.surgery import knocked_out as knocked_out
    from vademecum.surgery import memories as memories
    from vademecum.surgery import prefetch as prefetch
    from vademecum.surgery import record as record
    from vademecum.tabulating import tabulate as tabulate

__version__ = "0.1.0"

#: Where each public name lives. Names are fetched when they are asked for, so that ``vademecum --help`` answers without
#: waiting for torch.
_HOMES: Mapping[str, str] = {
    "RowOptimizer": "rows",
    "attach": "surgery",
    "detach": "surgery",
    "every": "memory.layers",
    "gather_experts": "sharding",
    "hosts": "",
    "kinds": "",
    "knocked_out": "surgery",
    "load": "saving",
    "memories": "surgery",
    "ops": "",
    "param_groups": "roles",
    "prefetch": "surgery",
    "record": "surgery",
    "save": "saving",
    "shard_experts": "sharding",
    "tabulate": "tabulating",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        return _kind(name)
    value = importlib.import_module(f"{__name__}.{home or name}")
    return getattr(value, name) if home else value


def _kind(name: str) -> Any:
    """The class of a kind, such as ``vm.MoVE``: whatever the files in ``kinds/`` define."""
    # Only classes are looked for: ``from vademecum import files`` asks here first, and must not import every kind.
    if name[:1].isupper():
        for kind in importlib.import_module(f"{__name__}.kinds").all().values():
            if kind.__name__ == name:
                return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *(kind.__name__ for kind in importlib.import_module(f"{__name__}.kinds").all().values())])
