"""Facts as entries: a value row at a headword and a gate that sees what is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vademecum import grafting, interrupts
from vademecum.attached import ROOT, Memories
from vademecum.editing.content import Content, bytes_of
from vademecum.kinds.entries import Entries
from vademecum.memory.base import Built

#: What a file keeps of them.
TENSORS = ("rows", "gate", "gate_weights", "gate_biases", "whom_weights", "whom_biases")


@dataclass(frozen=True, kw_only=True, eq=False)
class AsEntries(Content):
    """Entries of :class:`vademecum.Entries`.

    Attributes:
        layers: that they speak in.
        rows: ``[E, L, H*D]`` what they say.
        gate: int64 ``[E]`` number of the gate on what is asked that each has; those of one relation share one.
        gate_weights: ``[G, L, d]``.
        gate_biases: ``[G, L]``.
        whom_weights: ``[E, L, d]`` of each one's gate on whom it is asked of, half precision.
        whom_biases: ``[E, L]``.
    """

    name: ClassVar[str] = "entries"
    spills: ClassVar[bool] = False

    layers: tuple[int, ...]
    rows: Tensor
    gate: Tensor
    gate_weights: Tensor
    gate_biases: Tensor
    whom_weights: Tensor
    whom_biases: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in TENSORS}

    def about(self) -> dict[str, Any]:
        return {"layers": list(self.layers)}

    @classmethod
    def of(cls, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        return cls(layers=tuple(about["layers"]), **tensors)

    def said(self, number: int) -> bytes:
        gate = int(self.gate[number])
        whom = (self.whom_weights[number], self.whom_biases[number])
        parts = (self.rows[number], self.gate_weights[gate], self.gate_biases[gate], *whom)
        return repr(self.layers).encode() + b"".join(map(bytes_of, parts))

    def joined(self, other: Self) -> Self:
        if self.layers != other.layers:
            raise ValueError(
                f"entries in layers {list(self.layers)} and in {list(other.layers)} do not go into one overlay; plan "
                f"them with the same layers."
            )
        return dataclasses.replace(
            self,
            rows=torch.cat([self.rows, other.rows]),
            gate=torch.cat([self.gate, other.gate + len(self.gate_weights)]),
            gate_weights=torch.cat([self.gate_weights, other.gate_weights]),
            gate_biases=torch.cat([self.gate_biases, other.gate_biases]),
            whom_weights=torch.cat([self.whom_weights, other.whom_weights]),
            whom_biases=torch.cat([self.whom_biases, other.whom_biases]),
        )

    def kept(self, numbers: Sequence[int]) -> Self:
        used, gate = torch.unique(self.gate[list(numbers)], return_inverse=True)
        return dataclasses.replace(
            self,
            rows=self.rows[list(numbers)],
            gate=gate,
            gate_weights=self.gate_weights[used],
            gate_biases=self.gate_biases[used],
            whom_weights=self.whom_weights[list(numbers)],
            whom_biases=self.whom_biases[list(numbers)],
        )

    def put(self, model: nn.Module, overlay: Any) -> None:
        kind = self.kind(overlay)
        if _labelled(model, kind.label):
            raise ValueError(
                "entries of this edit are on the model already; undo the edit, or load the memory without them."
            )

        def prepare(built: Built) -> None:
            self.fill(built, overlay.order)
            built.shared.overlay = overlay  # type: ignore[union-attr]

        try:
            grafting.extend(model, kind, prepare=prepare)
        except BaseException:
            off(model, kind.label)
            raise

    def take(self, model: nn.Module, overlay: Any) -> None:
        off(model, overlay.digest)

    def again(self) -> dict[str, Any]:
        return {"into": self.name, "layers": self.layers}

    def kind(self, overlay: Any) -> Entries:
        """The entries of ``overlay`` that speak."""
        return Entries(
            headwords=tuple(overlay.written[number].spellings for number in overlay.order),
            layers=self.layers,
            reach="after",
            conditions=2,
            label=overlay.digest,
        )

    def fill(self, built: Built, order: Sequence[int]) -> None:
        """Give the modules of :meth:`kind` what is said."""
        own = list(order)
        gates = self.gate[own]
        for place, layer in enumerate(self.layers):
            part: Any = built.parts[layer]
            part.rows.weight.data.copy_(self.rows[own, place])
            weights = self.gate_weights[gates, place], self.whom_weights[own, place].float()
            part.gate.weight.data.copy_(torch.cat(weights, 1))
            biases = self.gate_biases[gates, place], self.whom_biases[own, place]
            part.gate.bias.data.copy_(torch.stack(biases, 1))
            part.requires_grad_(False)


def off(model: nn.Module, label: str) -> None:
    """Take the entries called ``label`` off, if they are on."""
    with interrupts.finished():
        for kind in _labelled(model, label):
            grafting.withdraw(model, kind)


def _labelled(model: nn.Module, label: str) -> list[Entries]:
    root = getattr(model, ROOT, None)
    kinds = root.kinds.values() if isinstance(root, Memories) else ()
    return [kind for kind in kinds if isinstance(kind, Entries) and kind.label == label]
