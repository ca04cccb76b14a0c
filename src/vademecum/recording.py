"""What a forward reports: gates, expert load, auxiliary losses, kept only while someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vademecum.lookup import Frame


@dataclass
class Recording:
    """Statistics of every forward inside ``with vm.record(model) as rec``.

    Attributes:
        forwards: one mapping per forward, from a layer's key (``"move.layers.3"``) to its statistics: value memories
            give ``gates`` ``[N, H, M+1]`` (the host's own value first), experts give ``load`` ``[E]``, ``experts`` and
            ``weights`` ``[N, k]`` and ``entropy`` (nats).
        losses: auxiliary losses of the last forward by key and name, already weighted (training mode only). They carry
            their gradient: a loop that computes its own loss adds ``sum(rec.losses.values())``.
        ids: the token ids ``[N]`` of each forward, where there were any.
    """

    forwards: list[Mapping[str, Mapping[str, Tensor]]] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    ids: list[Tensor] = field(default_factory=list)
    _per_token: set[str] = field(default_factory=set, repr=False)

    def take(self, frame: Frame) -> None:
        """Keep what ``frame`` reported."""
        self.forwards.append(dict(frame.stats))
        self.losses = dict(frame.losses)
        self._per_token |= frame.per_token
        if frame.lookup is not None:
            self.ids.append(frame.lookup.ids.reshape(-1))

    def layers(self) -> list[str]:
        """Keys of the layers that reported anything, such as ``move.layers.3``."""
        return sorted({key for stats in self.forwards for key in stats}, key=_natural)

    def all(self, key: str, name: str) -> Tensor:
        """Statistic ``name`` of layer ``key`` over all forwards: per-token ones joined, others stacked."""
        found = [stats[key][name] for stats in self.forwards if key in stats]
        if not found:
            known = ", ".join(self.layers()) or "no layers"
            raise ValueError(f"nothing was recorded for {key!r}; recorded are {known}.")
        return torch.cat(found) if name in self._per_token else torch.stack(found)


def _natural(key: str) -> tuple[object, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))
