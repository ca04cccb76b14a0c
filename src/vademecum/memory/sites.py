"""Thin wrappers that stand where a host module stood, visible in ``print(model)`` and taken off again whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vademecum.hosts import Host, Tail, ValueSlice, Whole, host_width
from vademecum.lookup import KEYWORD, Frame
from vademecum.memory.base import FeedForwardPart, InputPart, Part, ResidualPart, Source
from vademecum.memory.resting import Remainder, Resting


def thread() -> int:
    """The running thread; 0 inside a compiled graph, which cannot ask."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class SiteModule(nn.Module):
    """Where parts of a memory act in one layer.

    The frame of the running forward is handed over by the attention module's pre-hook, which lies inside what
    activation checkpointing recomputes; a site that runs without one raises instead of going on without memory.

    Attributes:
        given: that frame and the thread it runs in, for one call; empty outside of a forward.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
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

    def hooks(self, host: Host) -> list[Any]:
        """Hooks that it needs on modules of ``host``, as handles to take them off by."""
        return []

    def follow(self) -> None:
        """Take the mode, training or not, of the host's module; what is in it keeps its own."""
        raise NotImplementedError

    def stand(self, host: Host) -> None:
        """Take its place in ``host``."""
        raise NotImplementedError

    def leave(self) -> None:
        """Give its place back."""
        raise NotImplementedError


class SiteWrapper(SiteModule):
    """The host's module and the memory parts that act beside it."""

    def __init__(self, host: nn.Module, layer: int, parent: nn.Module, name: str) -> None:
        """Wrap ``host``, which ``parent`` calls ``name``."""
        super().__init__(layer)
        self.host = host
        # A tuple hides the modules in it from nn.Module: a parent is not part of its child.
        self._place = (parent, name)

    def follow(self) -> None:
        for one in (self, self.memory, self.host if self.replaced else self):
            one.training = self.original().training

    def stand(self, host: Host) -> None:
        parent, name = self._place
        setattr(parent, name, self)

    def leave(self) -> None:
        parent, name = self._place
        setattr(parent, name, self.original())

    @property
    def replaced(self) -> bool:
        """Whether a part took the host module's place, or that of some of it."""
        return isinstance(self.host, Resting)

    def original(self) -> nn.Module:
        """The host module that stood here before, as it was."""
        return self.host.module if isinstance(self.host, Resting) else self.host

    @property
    def weight(self) -> Any:
        """The host module's weight, for code that looks at it."""
        return self.original().weight

    @property
    def bias(self) -> Any:
        """The host module's bias, for code that looks at it."""
        return self.original().bias


class OutputSite(SiteWrapper):
    """Wraps a linear map; acts on a slice of its output, such as the one that is the value.

    An exclusive part makes that slice; the map then computes the rest of its output, and nothing where there is none.

    Attributes:
        heard: what the attention's key projection put out last, where a part asks for keys that it makes.
    """

    def __init__(
        self,
        host: nn.Module,
        layer: int,
        parent: nn.Module,
        name: str,
        *,
        where: ValueSlice,
        heads: int,
        dim: int,
        replaced: bool,
    ) -> None:
        rests = host
        if replaced:
            rests = Resting(host) if isinstance(where, Whole) else Remainder(host, where, heads, dim)
        super().__init__(rests, layer, parent, name)
        self.where, self.heads, self.dim = where, heads, dim
        self.heard: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` to the map's ``[..., width]``, its slice changed by the memory."""
        frame = self.take_frame()
        if not self.replaced:
            out: Tensor = self.host(hidden)
            return self.where.join(out, self._changed(self.where.split(out, self.heads, self.dim), hidden, frame))
        source = next(cast(Source, part) for part in self.memory.values() if part.exclusive)
        rest: Tensor = self.host(hidden) if isinstance(self.host, Remainder) else hidden[..., :0]
        key = self._key(rest) if source.from_key else None
        value = self._changed(source(hidden, frame, key), hidden, frame)
        return self.where.whole(rest, value)

    def _changed(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        for part in self.memory.values():
            if not part.exclusive:
                value = part(value, hidden, frame)
        return value

    def _key(self, rest: Tensor) -> Tensor:
        if isinstance(self.host, Remainder):
            return self.where.key(rest, self.heads, self.dim)
        out = self.heard.pop()
        return out.view(*out.shape[:-1], self.heads, self.dim)

    def hooks(self, host: Host) -> list[Any]:
        if not any(isinstance(part, Source) and part.from_key for part in self.memory.values()):
            return []
        if isinstance(self.host, Remainder) or host.family.key is None:
            return []
        # The key projection lies in the attention module as this one does: a recompute runs both.
        return [host.attention(self.layer).get_submodule(host.family.key).register_forward_hook(self.hear)]

    def hear(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Hook of the key projection, which runs before this one."""
        self.heard[:] = [output]


class InputSite(SiteWrapper):
    """Wraps a linear map; changes what goes into it."""

    def forward(self, given: Tensor) -> Tensor:
        """``[..., f]`` to the map's ``[..., width]``."""
        frame = self.take_frame()
        for part in self.memory.values():
            given = cast(InputPart, part)(given, frame)
        out: Tensor = self.host(given)
        return out


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


class ResidualSite(SiteModule):
    """Adds to a layer's input, before its first norm and its first skip connection.

    No module of the host takes in the whole residual stream but the layer itself, so this stands in it as a further
    child and acts in the layer's own pre-hook. That lies outside of what activation checkpointing recomputes: what is
    added is part of the layer's saved input, computed once, with the frame that came in the very same call.
    """

    NAME = "memory_residual"

    def __init__(self, layer: int, parent: nn.Module) -> None:
        super().__init__(layer)
        self._place = (parent,)

    def follow(self) -> None:
        self.training = self.memory.training = self._place[0].training

    def stand(self, host: Host) -> None:
        self._place[0].add_module(self.NAME, self)

    def leave(self) -> None:
        if getattr(self._place[0], self.NAME, None) is self:
            delattr(self._place[0], self.NAME)

    def give(self, frame: Frame, whose: int) -> None:
        """Nothing: the layer's own keywords bring the frame."""

    def hooks(self, host: Host) -> list[Any]:
        return [self._place[0].register_forward_pre_hook(self.enter, with_kwargs=True)]

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the layer: its first argument is the residual stream."""
        frame = kwargs.get(KEYWORD)
        if frame is None:
            raise RuntimeError(
                f"layer {self.layer} was called without the keywords of its model, so its memory has no ids to look "
                f"up; a host must pass **kwargs to its layers before it can carry a memory."
            )
        if args:
            return (self(args[0], frame), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self(kwargs["hidden_states"], frame)}

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """``[..., d]`` to ``[..., d]``."""
        for part in self.memory.values():
            hidden = hidden + cast(ResidualPart, part)(hidden, frame)
        return hidden


def _taken(parts: Mapping[str, Part]) -> bool:
    return any(part.exclusive for part in parts.values())


def _value_site(host: Host, layer: int, parts: Mapping[str, Part]) -> SiteModule:
    shape = host.shape
    return OutputSite(
        host.module(layer, "value"),
        layer,
        *host.place(layer, "value"),
        where=host.family.slice,
        heads=shape.value_heads,
        dim=shape.value_dim,
        replaced=_taken(parts),
    )


def _up_site(host: Host, layer: int, parts: Mapping[str, Part]) -> SiteModule:
    width = host_width(host.module(layer, "feed_forward"), host.family.names)
    return OutputSite(
        host.module(layer, "up"),
        layer,
        *host.place(layer, "up"),
        where=Tail() if host.family.names.fused else Whole(),
        heads=1,
        dim=width,
        replaced=_taken(parts),
    )


def _down_site(host: Host, layer: int, _: Mapping[str, Part]) -> SiteModule:
    return InputSite(host.module(layer, "down"), layer, *host.place(layer, "down"))


def _feed_forward_site(host: Host, layer: int, parts: Mapping[str, Part]) -> SiteModule:
    module = host.module(layer, "feed_forward")
    return FeedForwardSite(Resting(module) if _taken(parts) else module, layer, *host.place(layer, "feed_forward"))


def _residual_site(host: Host, layer: int, _: Mapping[str, Part]) -> SiteModule:
    return ResidualSite(layer, host.layers[layer])


#: How what stands at each site is made from (host, layer, the parts that will stand there).
WRAPPERS: Mapping[str, Callable[[Host, int, Mapping[str, Part]], SiteModule]] = {
    "value": _value_site,
    "feed_forward": _feed_forward_site,
    "up": _up_site,
    "down": _down_site,
    "residual": _residual_site,
}
