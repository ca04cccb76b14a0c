"""What a forward reports: gates, expert load, auxiliary losses, kept only while someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vademecum.experts.host_routers import HostRouters
from vademecum.lookup import Frame


@dataclass
class Recording:
    """Statistics of every forward inside ``with vm.record(model) as rec``.

    Attributes:
        forwards: one mapping per forward, from a layer's key (``"move.layers.3"``, ``"moe.layers.3"``, or
            ``"host.layers.3"`` for experts that the host brought along) to its statistics. Value memories give
            ``gates`` ``[N, H, M+1]`` (the host's own value first). Entries give, where any speaks, ``spoken``
            ``[N, K]``, the gates of the K that do, and once per forward which these are, ``entries`` ``[K]``. Experts
            give, per token, ``experts`` ``[N, K]`` (best first, -1 where an assignment was dropped or there is none)
            and ``weights`` ``[N, K]``; once per forward, padding left out, ``load`` ``[E]`` (shares of the
            assignments, sum 1, before any is dropped), ``probability`` ``[E]`` (the router's mean), ``entropy`` (nats,
            of a token's distribution over experts, mean) and ``dropped`` (share of the assignments that found no room).
        losses: auxiliary losses of the last forward by key and name, already weighted (training mode only). They carry
            their gradient: a loop that computes its own loss adds ``sum(rec.losses.values())``.
        ids: the token ids ``[N]`` of each forward, where there were any.
        tokens: whether statistics per token are kept; without them a recording costs next to nothing.
    """

    tokens: bool = True
    forwards: list[Mapping[str, Mapping[str, Tensor]]] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    ids: list[Tensor] = field(default_factory=list)
    _per_token: set[str] = field(default_factory=set, repr=False)

    def take(self, frame: Frame) -> None:
        """Keep what ``frame`` reported."""
        self.losses = dict(frame.losses)
        if not self.tokens:
            light = {
                key: {name: value for name, value in stats.items() if name not in frame.per_token}
                for key, stats in frame.stats.items()
            }
            self.forwards.append({key: stats for key, stats in light.items() if stats})
            return
        self.forwards.append(dict(frame.stats))
        self._per_token |= frame.per_token
        if frame.ids is not None:
            self.ids.append(frame.ids)

    def layers(self) -> list[str]:
        """Keys of the layers that reported anything, such as ``move.layers.3``."""
        return sorted({key for stats in self.forwards for key in stats}, key=_natural)

    def all(self, key: str, name: str) -> Tensor:
        """Statistic ``name`` of layer ``key`` over all forwards: per-token ones joined, others stacked."""
        found = [stats[key][name] for stats in self.forwards if key in stats]
        if not found:
            known = ", ".join(self.layers()) or "no layers"
            raise ValueError(f"nothing was recorded for {key!r}; recorded are {known}.")
        if name not in self._per_token:
            return torch.stack(found)
        # Where experts choose, tokens have different numbers of them: the shorter rows are filled up with "none".
        longest = max(each.shape[-1] for each in found)
        fill = -1 if name == "experts" else 0
        return torch.cat([F.pad(each, (0, longest - each.shape[-1]), value=fill) for each in found])


@dataclass(frozen=True)
class Listener:
    """A recording and the host's own routers that it listens to."""

    recording: Recording
    routers: HostRouters

    def hear(self, frame: Frame) -> None:
        """Take a forward that just ended."""
        self.routers.report(frame)
        self.recording.take(frame)


def _natural(key: str) -> tuple[object, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))
