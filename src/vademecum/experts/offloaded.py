"""Experts that stay in a file: one is read when a token has chosen it, and the least recently used make room for it.

For inference alone. What is known of a layer's experts beforehand is nothing: the router speaks when the layer runs,
so there is nothing to fetch ahead. (A bank's rows are known before the first layer.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vademecum.experts.mixture import ExpertMixture
from vademecum.experts.mlp import Experts
from vademecum.experts.routes import Routes
from vademecum.ops.experts import Networks
from vademecum.ops.experts.networks import Segments
from vademecum.stores.base import Store
from vademecum.stores.cache import ENTRY
from vademecum.stores.disk import Disk

#: Name of the tensor that holds the experts in their file.
TENSOR = "experts"


class ExpertCache:
    """At most ``cap`` bytes of experts, bookkeeping and the one in use included.

    Attributes:
        table: ``[layers * E, parameters of one]``, where they are read.
        capacity: experts that fit.
        hits: experts asked for that were here.
        misses: experts asked for that were not, and were read.
    """

    def __init__(self, table: Store, cap: int) -> None:
        """Keep experts of ``table``.

        Raises:
            ValueError: not even one fits.
        """
        need = table.row_bytes + ENTRY
        if cap < need:
            raise ValueError(f"a cap of {cap} bytes was given for experts of {need} each; expected {need} or more.")
        self.table, self.capacity = table, min(table.rows, cap // need)
        self.hits = self.misses = 0
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def __contains__(self, row: int) -> bool:
        return row in self._kept

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return len(self._kept) * (self.table.row_bytes + ENTRY)

    def take(self, row: int) -> Tensor:
        """The parameters of an expert, ``[parameters of one]``; let go of them before taking the next one."""
        found = self._kept.get(row)
        if found is not None:
            self._kept.move_to_end(row)
            self.hits += 1
            return found
        self.misses += 1
        if len(self._kept) == self.capacity:
            self._kept.popitem(last=False)  # before the new one is read, so that there is never one too many
        self._kept[row] = self.table.gather(torch.tensor([row]))[0]
        return self._kept[row]


@dataclass(frozen=True)
class Offloaded:
    """A layer's dispatch: each expert that was chosen, taken from the cache, on the tokens that chose it.

    Results do not depend on what the cache holds. Experts that are in it come first, since reading the others may push
    them out.

    Attributes:
        cache: of this layer alone, or shared with others.
        first: row of the layer's first expert in the cache's table.
    """

    cache: ExpertCache
    first: int

    # What is read depends on the router's answer, which no compiler knows.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, hidden: Tensor, routes: Routes, networks: Networks) -> Tensor:
        if torch.is_grad_enabled():
            raise ValueError("experts that stay in a file cannot be trained; call the model inside torch.no_grad().")
        tokens, top_k = routes.chosen.shape
        segments = Segments.of(routes.chosen, len(networks))
        updates = hidden.new_zeros(tokens * top_k, hidden.shape[1])
        for number, piece in self._ordered(segments):
            mine = hidden[segments.token[piece]]
            updates[segments.order[piece]] = _one(self.cache.take(self.first + number), mine, networks)
        weighed = updates.view(tokens, top_k, -1) * routes.weights.unsqueeze(-1)
        return weighed.sum(1).to(hidden.dtype)

    def visit(self, numbers: Sequence[int]) -> None:
        """Ask for experts of this layer as a forward whose tokens chose them does, and compute nothing."""
        for number in self._first_those_here(numbers):
            self.cache.take(self.first + number)

    def _first_those_here(self, numbers: Sequence[int]) -> list[int]:
        return sorted(numbers, key=lambda number: self.first + number not in self.cache)

    def _ordered(self, segments: Segments) -> list[tuple[int, slice]]:
        starts = segments.starts()
        used = {number: slice(starts[number], starts[number] + n) for number, n in enumerate(segments.counts) if n}
        return [(number, used[number]) for number in self._first_those_here(list(used))]


def _one(row: Tensor, hidden: Tensor, networks: Networks) -> Tensor:
    """``hidden`` ``[n, d]`` through the expert whose parameters ``row`` holds; ``networks`` lend form and shapes."""
    shapes = [None if tensor is None else tensor.shape[1:] for tensor in networks.tensors()]
    pieces = iter(torch.split(row, [shape.numel() for shape in shapes if shape is not None]))
    up, down, up_bias, down_bias = (None if shape is None else next(pieces).view(shape) for shape in shapes)
    assert up is not None
    assert down is not None
    inner = hidden @ up if up_bias is None else torch.addmm(up_bias, hidden, up)
    middle = networks.middle(inner)
    return middle @ down if down_bias is None else torch.addmm(down_bias, middle, down)


def experts_of(model: nn.Module) -> list[Experts]:
    """The experts that tokens choose among, layer by layer; shared ones, which every token visits, are not offloaded.

    Raises:
        ValueError: there are none, or they are not alike in all layers.
    """
    found = [module.experts for module in model.modules() if isinstance(module, ExpertMixture)]
    kinds = {(len(each.up), each.params_of_one(), each.up.dtype) for each in found}
    if len(kinds) != 1:
        raise ValueError(
            f"this {type(model).__name__} has {len(found)} layers of experts of {len(kinds)} kinds; expected one kind "
            "in one layer or more: attach vm.MoE once."
        )
    return found


@torch.no_grad()
def write(model: nn.Module, path: Path) -> None:
    """Write all experts of ``model`` into a safetensors file, one row each, layer by layer."""
    layers = experts_of(model)
    per, size = len(layers[0].up), layers[0].params_of_one()
    table = Disk.create(path, TENSOR, per * len(layers), (size,), layers[0].up.dtype, cap=0)
    for layer, experts in enumerate(layers):
        for number in range(per):
            row = torch.cat([parameter[number].flatten() for parameter in _parameters(experts)])
            table.write(torch.tensor([layer * per + number]), row.unsqueeze(0).cpu())
    table.close()


def offload(model: nn.Module, table: Store, cap: int, *, per_layer: bool = False) -> list[ExpertCache]:
    """Let go of the experts of ``model`` and read them from ``table`` from now on.

    Their parameters stay as shapes without values (device meta), so whatever would use them without reading fails.

    Args:
        model: a model with the experts that :func:`write` wrote, or others of the same shapes.
        table: what was written.
        cap: bytes of experts that may be in memory.
        per_layer: whether every layer has an even part of the cap for itself, or all share one cache.

    Returns:
        The cache, or each layer's.

    Raises:
        ValueError: the table is not of this model's experts, or the cap holds less than one expert (per layer).
    """
    layers = experts_of(model)
    per, size = len(layers[0].up), layers[0].params_of_one()
    if table.shape != (per * len(layers), size):
        raise ValueError(f"the table is {list(table.shape)}, but this model needs {[per * len(layers), size]}.")
    caches = [ExpertCache(table, cap // len(layers)) for _ in layers] if per_layer else [ExpertCache(table, cap)]
    for layer, (experts, cache) in enumerate(zip(layers, _dealt(caches, len(layers)), strict=True)):
        experts.dispatch = Offloaded(cache, layer * per)
        for name, parameter in list(experts.named_parameters()):
            setattr(experts, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    return caches


def _dealt(caches: Sequence[ExpertCache], layers: int) -> Sequence[ExpertCache]:
    return caches if len(caches) == layers else [caches[0]] * layers


def _parameters(experts: Experts) -> list[Tensor]:
    """In the order of :meth:`Networks.tensors`."""
    return [p for p in (experts.up, experts.down, experts.up_bias, experts.down_bias) if p is not None]
