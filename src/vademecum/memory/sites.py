"""Thin wrappers that stand where a host module stood, visible in ``print(model)`` and taken off again whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vademecum.hosts import Host, ValueSlice
from vademecum.lookup import Frame
from vademecum.memory.base import FeedForwardPart, Part


def thread() -> int:
    """The running thread; 0 inside a compiled graph, which cannot ask."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class SiteWrapper(nn.Module):
    """The host's module and the memory parts that act beside it.

    The frame of the running forward is handed over by the attention module's pre-hook, which lies inside what
    activation checkpointing recomputes; a wrapper that runs without one raises instead of going on without memory.

    Attributes:
        given: that frame and the thread it runs in, for one call; empty outside of a forward.
    """

    def __init__(self, host: nn.Module, layer: int) -> None:
        super().__init__()
        self.host = host
        self.memory = nn.ModuleDict()
        self.layer = layer
        # In a list: a module looks over every attribute that is set on it, twice a layer and token in decoding.
        self.given: list[tuple[Frame, int]] = []

    def give(self, frame: Frame, whose: int) -> None:
        """Hand over the running forward's frame, for one call in thread ``whose``."""
        self.given[:] = [(frame, whose)]

    def take_frame(self) -> Frame:
        """The frame of the running forward; it serves one call, so that none is ever stale."""
        frame, whose = self.given.pop() if self.given else (None, 0)
        if frame is None or whose != thread():
            raise RuntimeError(
                f"the memory at layer {self.layer} ran outside a forward of its model, so it has no token ids to look "
                f"up; call the model that vm.attach returned (or its base model), not a layer of it, and run one "
                f"forward at a time: another thread's would read this one's rows."
            )
        return frame

    @property
    def replaced(self) -> bool:
        """Whether a part took the host module's place."""
        return isinstance(self.host, Resting)

    def original(self) -> nn.Module:
        """The host module that stood here before, as it was."""
        return self.host.module if isinstance(self.host, Resting) else self.host


class ValueSite(SiteWrapper):
    """Wraps the linear map that makes the values; acts on the slice of its output that is the value."""

    def __init__(self, host: nn.Module, layer: int, where: ValueSlice, heads: int, dim: int) -> None:
        super().__init__(host, layer)
        self.where, self.heads, self.dim = where, heads, dim

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` to the projection's ``[..., width]``, its value part changed by the memory."""
        frame = self.take_frame()
        out: Tensor = self.host(hidden)
        value = self.where.split(out, self.heads, self.dim)
        for part in self.memory.values():
            value = part(value, hidden, frame)
        return self.where.join(out, value)

    @property
    def weight(self) -> Any:
        """The host projection's weight, for code that looks at it."""
        return self.host.weight

    @property
    def bias(self) -> Any:
        """The host projection's bias, for code that looks at it."""
        return self.host.bias


class FeedForwardSite(SiteWrapper):
    """Wraps the feed-forward: an exclusive part takes its place, the others add to it.

    A replaced host module rests: it is kept for ``detach`` but no longer trains, counts or is saved with the memory.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., d]``."""
        frame = self.take_frame()
        parts = [cast(FeedForwardPart, part) for part in self.memory.values()]
        replacing = [part for part in parts if part.exclusive]
        out: Tensor = replacing[0](hidden, frame) if replacing else self.host(hidden)
        for part in parts:
            if not part.exclusive:
                out = out + part(hidden, frame)
        return out


class Resting(nn.Module):
    """A host module that something took the place of: kept for ``detach``, out of sight of optimizers and counts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # In a plain tuple the module is not a child: its parameters neither train, nor count, nor are saved.
        self._kept = (module,)

    @property
    def module(self) -> nn.Module:
        """The module as it was."""
        return self._kept[0]

    def train(self, mode: bool = True) -> Resting:
        self.module.train(mode)
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Resting:
        self.module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """Never called: an exclusive part answers in its place."""
        raise RuntimeError("the replaced host module is resting; this is a bug in the site that called it.")

    def extra_repr(self) -> str:
        return f"{type(self.module).__name__}, replaced"


def _value_site(host: Host, layer: int, _: Mapping[str, Part]) -> SiteWrapper:
    shape = host.shape
    return ValueSite(host.module(layer, "value"), layer, host.family.slice, shape.value_heads, shape.value_dim)


def _feed_forward_site(host: Host, layer: int, parts: Mapping[str, Part]) -> SiteWrapper:
    module = host.module(layer, "feed_forward")
    replaced = any(part.exclusive for part in parts.values())
    return FeedForwardSite(Resting(module) if replaced else module, layer)


#: How the wrapper of each site is made from (host, layer, the parts that will stand there).
WRAPPERS: Mapping[str, Callable[[Host, int, Mapping[str, Part]], SiteWrapper]] = {
    "value": _value_site,
    "feed_forward": _feed_forward_site,
}
