"""What every kind of memory is made of: a frozen config, parts at sites, roles and costs."""

from __future__ import annotations

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vademecum.hosts import FeedForwardNames, HostShape, ValueSlice
from vademecum.lookup import Frame
from vademecum.memory.layers import Every, Layers


class Role(StrEnum):
    """What a parameter is to the optimizer."""

    HOST = "host"
    ROUTER = "router"
    EXPERT = "expert"
    BANK = "bank"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a memory costs.

    Attributes:
        params: all parameters.
        active_params: parameters a token's forward can touch (rows read, experts chosen; everything else whole).
        flops_per_token: floating-point operations of its matrix products, forward, 2 per multiply-add.
        bytes_per_token: bytes of parameters that must be read for one token alone.
    """

    params: int = 0
    active_params: int = 0
    flops_per_token: int = 0
    bytes_per_token: int = 0

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Cost(**{f.name: a + b for f, a, b in zip(dataclasses.fields(Cost), mine, theirs, strict=True)})


def dense_cost(module: nn.Module, flops: int = 0) -> Cost:
    """Cost of a module whose every parameter is used for every token."""
    params = sum(p.numel() for p in module.parameters())
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    return Cost(params=params, active_params=params, flops_per_token=flops, bytes_per_token=size)


class Part(nn.Module, ABC):
    """One layer's piece of a memory, standing at one site of the host.

    Attributes:
        site: which of the host's streams it acts on.
        exclusive: whether it takes the host module's place, so that no other part may stand at the same site.
        can_be_silent: whether it contributes nothing where memories are knocked out; experts have no such state.
        key: its name in the attached model, such as ``move.layers.3``; given by ``attach``.
        kind_key: the key of its kind, such as ``move``, under which a forward holds what the kind's layers share.
        looks_back: how many tokens before a forward it must know.
        carries: how many steps of its own before a forward it must know (:meth:`Frame.carry`).
    """

    site: ClassVar[str]
    exclusive: bool = False
    can_be_silent: ClassVar[bool] = True
    key: str = ""
    kind_key: str = ""
    looks_back: int = 0
    carries: int = 0

    def name(self, kind_key: str, layer: int) -> None:
        """Give it its place in the attached model."""
        self.kind_key, self.key = kind_key, f"{kind_key}.layers.{layer}"

    @abstractmethod
    def cost(self) -> Cost:
        """Its cost per token."""

    def begin(self) -> None:
        """Called once before a training forward, before any snapshot: the place to apply what was learned last."""

    def prepare(self, frame: Frame) -> None:
        """Called once before the layers, when what they share was read: the place to compute what follows from it."""
        return

    def snapshot(self) -> Tensor | None:
        """Buffers that must not change between a forward and its recompute, or None."""
        return None

    def tabulate(self, computed: Part) -> None:
        """Begin as the table of ``computed``, the part of the same layer of the kind before :meth:`Kind.as_table`."""
        raise NotImplementedError(f"{type(self).__name__} is no table of anything")

    def settle(self, frame: Frame) -> None:
        """Called once after a training forward, outside the layers: the place to update buffers and add losses."""


class ValuePart(Part):
    """Changes the value stream (MLA: the latent) of one layer."""

    site = "value"

    @abstractmethod
    def forward(self, value: Tensor, hidden: Tensor, frame: Frame) -> Tensor:
        """New value ``[..., H, D]`` from the host's value and the projection's input ``[..., d]``."""


class Source(Part):
    """Makes what a linear map of the host made: the value stream's values, or a feed-forward's up-projection.

    The map's own share is then neither computed nor counted, trained or saved.

    Attributes:
        from_key: whether it is given the attention's key.
    """

    site = "value"
    exclusive = True
    from_key: ClassVar[bool] = False

    @abstractmethod
    def forward(self, hidden: Tensor, frame: Frame, key: Tensor | None) -> Tensor:
        """``[..., H, D]`` from the map's input ``[..., d]`` and, if it asks for it, the key ``[..., H, D]``."""


class InputPart(Part):
    """Changes what goes into one of the host's linear maps."""

    site = "down"

    @abstractmethod
    def forward(self, given: Tensor, frame: Frame) -> Tensor:
        """What goes in instead of ``given`` ``[..., f]``."""


class ResidualPart(Part):
    """Adds to the residual stream before a layer."""

    site = "residual"

    @abstractmethod
    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """Update ``[..., d]`` from the layer's input ``[..., d]``."""


class FeedForwardPart(Part):
    """Takes the place of one layer's feed-forward, or adds to it."""

    site = "feed_forward"

    @abstractmethod
    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """Update ``[..., d]`` from the feed-forward's input ``[..., d]``."""


class Shared(nn.Module, ABC):
    """What a kind owns once for all layers: read once per forward.

    Attributes:
        looks_back: how many tokens before a forward it must know.
        overlay: the edit that put its kind on the model, and keeps it in a file of its own; None for the model's own.
    """

    looks_back: int = 0
    overlay: Any = None

    @abstractmethod
    def read(self, frame: Frame) -> Any:
        """The rows ``[U, ...]`` of this forward, in the form that the kind's parts read."""

    @abstractmethod
    def cost(self) -> Cost:
        """Its cost per token, apart from the parts'."""


@dataclass(frozen=True)
class Built:
    """A kind made for one host: its parts by layer, and what they share."""

    parts: Mapping[int, Part]
    shared: Shared | None = None


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a kind may know of the host while it builds: numbers, and what it asks for of a layer.

    Attributes:
        shape: the host's numbers.
        dtype: floating-point type of the host's value projections.
        device: by layer, where its value projection lies.
        feed_forward: by layer, the module there; ValueError where the host names none.
        names: what the feed-forward's linear maps are called.
        activation: the feed-forward's activation, by its name in Transformers.
        init_std: standard deviation of the host's own weights at the start.
        slice: which part of the value projection's output is the value.
        embedding: gives the host's input embedding, as it is then; a method of the host's, so that a copy asks the
            copy.
        own_values: by layer, what gives the values ``[n, H, D]`` that the host itself would make of bare embeddings of
            token ids ``[n]``, normalised as the layer's input is.
    """

    shape: HostShape
    dtype: torch.dtype
    device: Callable[[int], torch.device]
    feed_forward: Callable[[int], nn.Module]
    names: FeedForwardNames
    activation: Callable[[], str]
    init_std: float
    slice: ValueSlice
    embedding: Callable[[], nn.Module]
    own_values: Callable[[int], Callable[[Tensor], Tensor]]

    def dense(self, layer: int, kind: str, *, does: str) -> nn.Module:
        """The dense feed-forward of ``layer``.

        Raises:
            ValueError: it is none; says that ``kind`` ``does`` something with one.
        """
        module = self.feed_forward(layer)
        for name in filter(None, (self.names.gate, self.names.up, self.names.down)):
            try:
                weight = module.get_submodule(name).weight
            except AttributeError:
                weight = None
            if not isinstance(weight, Tensor):
                raise ValueError(
                    f"{kind} {does} a dense feed-forward, but layer {layer} of this {self.shape.family} host has a "
                    f"{type(module).__name__}, which is no such thing; leave that layer out with layers=[...]."
                )
        return module


class Need(StrEnum):
    """What a kind asks of a host beyond attention and a residual stream."""

    DENSE = "a dense feed-forward"
    GATED = "a gated feed-forward"
    VALUES = "a value projection whose place can be taken"


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """A system of the field as data: one frozen config that can be built for any host.

    Attributes:
        layers: which layers get a part.
    """

    layers: Layers = "all"

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    addressed: ClassVar[bool] = True
    """Whether its rows are found by token ids."""

    @property
    def needs(self) -> frozenset[Need]:
        """What a host must have for it; a host that lacks one is refused."""
        return frozenset({Need.DENSE}) if "feed_forward" in self.takes else frozenset()

    @property
    def takes(self) -> frozenset[str]:
        """Sites of a layer that it must have for itself, or whose own module it needs."""
        return frozenset()

    def as_table(self) -> Self | None:
        """The same kind with what it computes looked up instead (:func:`vademecum.tabulate`); None if there is none."""
        return None

    def __post_init__(self) -> None:
        if isinstance(self.layers, Sequence) and not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))
        for f in dataclasses.fields(self):
            value, allowed = getattr(self, f.name), _TYPES.get(str(f.type))
            # True and False are whole numbers to Python; a setting that wants a number is not given one.
            wrong = allowed is not None and (
                not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)
            )
            if wrong:
                raise ValueError(
                    f"{type(self).__name__}({f.name}={value!r}) was given; expected {f.type}, such as {f.default!r}."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{type(self).__name__}({f.name}={value!r}) was given; expected a finite number, such as "
                    f"{f.default!r}."
                )

    @property
    def neutral(self) -> bool:
        """Whether attaching it leaves the host's logits bitwise as they were."""
        return False

    def fit(self, site: Site, layers: tuple[int, ...]) -> None:
        """Raise ValueError where it would take the place of a feed-forward that is not dense.

        A sparse one has a router whose logits the host goes on asking for.
        """
        name = f"{type(self).__name__}{'(replace=True)' if getattr(self, 'replace', False) else ''}"
        for layer in layers if "feed_forward" in self.takes else ():
            site.dense(layer, name, does="takes the place of")

    @abstractmethod
    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        """Make the modules for ``layers`` of a host."""

    @classmethod
    @abstractmethod
    def examples(cls) -> tuple[Self, ...]:
        """Tiny configurations that the contract tests run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``{"kind": name, ...fields}``."""
        data: dict[str, Any] = {"kind": self.name}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            data[f.name] = {"every": value.step} if isinstance(value, Every) else _plain(value)
        return data

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Make a config from plain data, with a suggestion where a field is unknown."""
        known = {f.name for f in dataclasses.fields(cls)}
        values = dict(fields)
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ValueError(f"{cls.name} has no setting {name!r}; it has {', '.join(sorted(known))}{hint}")
        layers = values.get("layers", "all")
        if isinstance(layers, Mapping):
            values["layers"] = Every(int(layers["every"]))
        elif isinstance(layers, list):
            values["layers"] = tuple(layers)
        return cls(**values)


#: What a setting's annotation admits; a whole number is also a number.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
    "str | None": (str, type(None)),
    "bool": (bool,),
    "bool | None": (bool, type(None)),
}


def _plain(value: Any) -> Any:
    """``value`` as JSON gives it back: tuples become lists, inside of each other too."""
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def require_not_negative(kind: Kind, *names: str) -> None:
    """Raise ValueError for a setting of ``kind`` among ``names`` that is below zero (None passes)."""
    for name in names:
        value = getattr(kind, name)
        if value is not None and not value >= 0:
            raise ValueError(f"{type(kind).__name__}({name}={value!r}) was given; expected 0 or more.")


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)
