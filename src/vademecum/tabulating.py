"""What a memory computes from the token alone, turned into a table that is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from vademecum import grafting, kinds
from vademecum.memory import placing
from vademecum.memory.bank import Bank
from vademecum.memory.base import Part
from vademecum.memory.layers import chosen_layers
from vademecum.stores.placement import Placement
from vademecum.surgery import memories, site_of

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def tabulate(
    model: Model,
    *,
    bank: str = "auto",
    bank_folder: str | Path | None = None,
    bank_cap: int | str | None = None,
) -> Model:
    """Replace what memories compute from the token alone by a table of it over the vocabulary, in place.

    The model says what it said, up to the rounding of the type it computes in. Of :class:`vademecum.LookupExperts` the
    experts go, of :class:`vademecum.MemoryAttention` the norm; other memories stay the very objects that they are. The
    table is a bank like any other: it can be saved, loaded, placed, compressed, and trained on.

    Args:
        model: with a memory that has something to tabulate.
        bank: where the tables live, as in :func:`vademecum.attach`.
        bank_folder: where tables on disk keep their files.
        bank_cap: bytes of rows of tables on disk that may be kept in memory.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: nothing is attached, there is nothing to tabulate, the model is being recorded, or a row optimizer
            trains the rows that a table would be made of. The model is then unchanged.
        OSError: there is no room for the tables; the model is then unchanged.
    """
    placement = Placement.of(bank, bank_folder, bank_cap)
    root = memories(model)
    wanted: list[grafting.Made] = []
    tables: dict[str, Bank] = {}
    for key, (kind, built) in zip(root.kinds, grafting.made(root), strict=True):
        table = kind.as_table()
        if table is None:
            wanted.append((kind, built))
            continue
        _require_free(key, built.parts)
        with torch.random.fork_rng(devices=[]):  # a table starts as what was learned: nothing is drawn
            fresh = table.build(site_of(root.host), chosen_layers(kind.layers, root.shape.layers, type(kind).__name__))
        for layer, part in fresh.parts.items():
            part.tabulate(built.parts[layer])
            for module in part.modules():
                if isinstance(module, Bank):
                    tables[f"{key}.layers.{layer}.tabulated"] = module
        wanted.append((table, fresh))
    if not tables:
        raise ValueError(
            f"nothing of {', '.join(root.kinds)} is computed from the token alone, so there is nothing to tabulate; "
            f"kinds that can be are {', '.join(_able())}."
        )
    scratch = placing.place(tables, placement)
    before = root.scratch
    root.scratch = (*before, *scratch)
    try:
        grafting.replace(model, root.host, root, wanted)
    except BaseException:
        root.scratch = before
        raise
    placing.tell(tables)
    return model


def _require_free(key: str, parts: Mapping[int, Part]) -> None:
    for part in parts.values():
        for module in part.modules():
            if isinstance(module, Bank) and module.ledger is not None:
                raise ValueError(
                    f"the bank of {key} is being trained by a row optimizer; call its release() before it is tabulated."
                )


def _able() -> list[str]:
    return [name for name, kind in kinds.all().items() if any(one.as_table() is not None for one in kind.examples())]
