"""What each Transformers family calls its layers, its value projection and its feed-forward: data, not branches.

A :class:`Family` row answers three questions about a decoder: where its layers are, which linear map makes the
attention values and which slice of that map's output they are, and what its feed-forward is called. ``attach``
needs nothing else, so supporting a new family is a new row (or a ``Family`` given to ``attach`` as ``host=``).

Shapes: B batch, T tokens, d hidden width, H key-value heads, D width of one head's value.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class ValueSlice(ABC):
    """Which part of the value projection's output ``[..., width]`` is the value ``[..., H, D]``."""

    @abstractmethod
    def shape(self, config: Any, width: int) -> tuple[int, int]:
        """``(H, D)`` for a host ``config`` whose projection puts out ``width`` features."""

    @abstractmethod
    def split(self, out: Tensor, heads: int, dim: int) -> Tensor:
        """The value ``[..., H, D]`` inside ``out`` ``[..., width]``."""

    @abstractmethod
    def join(self, out: Tensor, value: Tensor) -> Tensor:
        """``out`` with its value part replaced by ``value`` ``[..., H, D]``; everything else unchanged."""

    refusal: ClassVar[str] = ""
    """Why nothing can take the value's place, where nothing can."""

    @abstractmethod
    def rest(self, out: Tensor, heads: int, dim: int) -> Tensor:
        """A view of what is not value in ``out`` ``[..., width]``: ``[..., R]``, R maybe spread over dimensions."""

    @abstractmethod
    def whole(self, rest: Tensor, value: Tensor) -> Tensor:
        """``[..., width]`` from :meth:`rest` ``[..., R]`` and the value ``[..., H, D]``."""

    def key(self, rest: Tensor, heads: int, dim: int) -> Tensor:
        """The key ``[..., H, D]`` before any rotation or norm, inside of :meth:`rest` ``[..., R]``.

        Raises:
            ValueError: it is not there.
        """
        raise ValueError(f"no key is made beside the value ({type(self).__name__}); a map of its own makes it.")


def _kv_heads(config: Any) -> int:
    heads = getattr(config, "num_key_value_heads", None)
    return int(heads if heads is not None else config.num_attention_heads)


@dataclass(frozen=True)
class Whole(ValueSlice):
    """The projection puts out the value and nothing else (``v_proj``)."""

    def shape(self, config: Any, width: int) -> tuple[int, int]:
        heads = _kv_heads(config)
        return heads, width // heads

    def split(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out.view(*out.shape[:-1], heads, dim)

    def join(self, out: Tensor, value: Tensor) -> Tensor:
        return value.flatten(-2)

    def rest(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out[..., :0]

    def whole(self, rest: Tensor, value: Tensor) -> Tensor:
        return value.flatten(-2)


@dataclass(frozen=True)
class Tail(ValueSlice):
    """Query, key and value side by side, the value last (GPT-2's ``c_attn``, Phi-3's ``qkv_proj``)."""

    def shape(self, config: Any, width: int) -> tuple[int, int]:
        heads = _kv_heads(config)
        return heads, width // (int(config.num_attention_heads) + 2 * heads)

    def split(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out[..., -heads * dim :].view(*out.shape[:-1], heads, dim)

    def join(self, out: Tensor, value: Tensor) -> Tensor:
        value = value.flatten(-2)
        return torch.cat([out[..., : -value.shape[-1]], value], dim=-1)

    def rest(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out[..., : -heads * dim]

    def whole(self, rest: Tensor, value: Tensor) -> Tensor:
        return torch.cat([rest, value.flatten(-2)], dim=-1)

    def key(self, rest: Tensor, heads: int, dim: int) -> Tensor:
        return rest[..., -heads * dim :].view(*rest.shape[:-1], heads, dim)


@dataclass(frozen=True)
class Interleaved(ValueSlice):
    """Query, key and value of one head, then of the next (GPT-NeoX's ``query_key_value``)."""

    def shape(self, config: Any, width: int) -> tuple[int, int]:
        heads = int(config.num_attention_heads)
        return heads, width // (3 * heads)

    def split(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out.view(*out.shape[:-1], heads, 3, dim)[..., 2, :]

    def join(self, out: Tensor, value: Tensor) -> Tensor:
        heads, dim = value.shape[-2:]
        parts = out.view(*out.shape[:-1], heads, 3, dim)
        return torch.cat([parts[..., :2, :], value.unsqueeze(-2)], dim=-2).flatten(-3)

    def rest(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out.view(*out.shape[:-1], heads, 3, dim)[..., :2, :]

    def whole(self, rest: Tensor, value: Tensor) -> Tensor:
        heads, dim = value.shape[-2:]
        parts = rest.view(*rest.shape[:-1], heads, 2, dim)
        return torch.cat([parts, value.unsqueeze(-2)], dim=-2).flatten(-3)

    def key(self, rest: Tensor, heads: int, dim: int) -> Tensor:
        return rest.view(*rest.shape[:-1], heads, 2, dim)[..., 1, :]


@dataclass(frozen=True)
class Latent(ValueSlice):
    """Latent attention: the compressed key-value vector comes first, the rotary key after it.

    The latent's width is split into one chunk per attention head (MoVE, arXiv:2601.22887, equation 7); where the
    heads do not divide it, into as many chunks as the greatest common divisor allows.
    """

    def shape(self, config: Any, width: int) -> tuple[int, int]:
        rank = int(config.kv_lora_rank)
        chunks = math.gcd(rank, int(config.num_attention_heads))
        return chunks, rank // chunks

    def split(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out[..., : heads * dim].view(*out.shape[:-1], heads, dim)

    def join(self, out: Tensor, value: Tensor) -> Tensor:
        value = value.flatten(-2)
        return torch.cat([value, out[..., value.shape[-1] :]], dim=-1)

    refusal = "keys are made from the same latent as values, and would go with them"

    def rest(self, out: Tensor, heads: int, dim: int) -> Tensor:
        return out[..., heads * dim :]

    def whole(self, rest: Tensor, value: Tensor) -> Tensor:
        return torch.cat([value.flatten(-2), rest], dim=-1)


@dataclass(frozen=True, kw_only=True)
class FeedForwardNames:
    """What a dense feed-forward's linear maps are called; ``gate=None`` means an ungated one.

    ``fused=True`` says that ``up`` puts out gate and up projections side by side (Phi-3).
    """

    up: str = "up_proj"
    down: str = "down_proj"
    gate: str | None = "gate_proj"
    fused: bool = False

    @property
    def gated(self) -> bool:
        """Whether the feed-forward multiplies an activated gate with a linear branch."""
        return self.fused or self.gate is not None


@dataclass(frozen=True, kw_only=True)
class RouterNames:
    """What a sparse feed-forward calls its own router and experts, and what becomes of the router's logits.

    ``scores`` is a name in ``vademecum.experts.router.SCORES``.
    """

    router: str = "gate"
    experts: str = "experts"
    scores: str = "softmax"


@dataclass(frozen=True, kw_only=True)
class Family:
    """The names one family of decoders uses. Paths are relative to the base model, then to one of its layers.

    ``key`` is the map that makes keys where that is not the one that makes values; ``norm`` is what the attention's
    input passes before, None where it is the layer's input as it comes.
    """

    layers: str = "layers"
    attention: str = "self_attn"
    value: str = "v_proj"
    key: str | None = "k_proj"
    norm: str | None = "input_layernorm"
    slice: ValueSlice = Whole()
    feed_forward: str = "mlp"
    names: FeedForwardNames = FeedForwardNames()
    activation: str = "hidden_act"
    routers: RouterNames = RouterNames()


LLAMA = Family()

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "olmo2": Family(norm=None),
    "mixtral": LLAMA,
    "olmoe": LLAMA,
    "qwen3_moe": LLAMA,
    "gemma3_text": Family(activation="hidden_activation"),
    "nanochat": Family(names=FeedForwardNames(up="fc1", down="fc2", gate=None)),
    "phi3": Family(
        value="qkv_proj",
        key=None,
        slice=Tail(),
        names=FeedForwardNames(up="gate_up_proj", gate=None, fused=True),
    ),
    "gpt2": Family(
        layers="h",
        attention="attn",
        value="c_attn",
        key=None,
        norm="ln_1",
        slice=Tail(),
        names=FeedForwardNames(up="c_fc", down="c_proj", gate=None),
        activation="activation_function",
    ),
    "gpt_neox": Family(
        attention="attention",
        value="query_key_value",
        key=None,
        slice=Interleaved(),
        names=FeedForwardNames(up="dense_h_to_4h", down="dense_4h_to_h", gate=None),
    ),
    "deepseek_v3": Family(value="kv_a_proj_with_mqa", key=None, slice=Latent(), routers=RouterNames(scores="sigmoid")),
}


@dataclass(frozen=True, kw_only=True)
class HostShape:
    """The numbers of a host that a memory must fit; stored with every saved memory and compared on load."""

    family: str
    layers: int
    hidden: int
    vocabulary: int
    value_heads: int
    value_dim: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``memory.json``."""
        return asdict(self)


#: Where each site of a layer is, by the family's names.
SITES: Mapping[str, Callable[[Family], str]] = {
    "value": lambda family: f"{family.attention}.{family.value}",
    "feed_forward": lambda family: family.feed_forward,
    "up": lambda family: f"{family.feed_forward}.{family.names.up}",
    "down": lambda family: f"{family.feed_forward}.{family.names.down}",
}

#: Sites that lie within another: what takes the outer one's place leaves nothing for them to stand at.
WITHIN: Mapping[str, str] = {"up": "feed_forward", "down": "feed_forward"}


@dataclass(frozen=True, kw_only=True)
class Host:
    """A model seen through its family's names: the modules that surgery touches, found once."""

    model: nn.Module
    base: nn.Module
    family: Family
    layers: tuple[nn.Module, ...]
    shape: HostShape
    config: Any

    def attention(self, layer: int) -> nn.Module:
        """The attention module of ``layer``."""
        return self.layers[layer].get_submodule(self.family.attention)

    def path(self, site: str) -> str:
        """Path of a site's module inside a layer, for ``site`` in ``SITES``."""
        return SITES[site](self.family)

    def place(self, layer: int, site: str) -> tuple[nn.Module, str]:
        """The module that holds the one at ``site`` of ``layer``, and what it calls it."""
        above, _, name = self.path(site).rpartition(".")
        return self.layers[layer].get_submodule(above), name

    def module(self, layer: int, site: str) -> nn.Module:
        """The module at ``site`` of ``layer``."""
        return self.layers[layer].get_submodule(self.path(site))


def input_output(linear: nn.Module) -> Tensor:
    """The weight of a linear map as ``[in, out]``, whether ``nn.Linear`` or Transformers' ``Conv1D``."""
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight.t() if isinstance(linear, nn.Linear) else weight


def host_width(feed_forward: nn.Module, names: FeedForwardNames) -> int:
    """Hidden width of a dense host feed-forward."""
    return input_output(feed_forward.get_submodule(names.down)).shape[0]


def projection_width(linear: nn.Module) -> int:
    """Output features of ``nn.Linear`` or of Transformers' ``Conv1D``."""
    for name in ("out_features", "nf"):
        if isinstance(getattr(linear, name, None), int):
            return int(getattr(linear, name))
    raise ValueError(
        f"the value projection is a {type(linear).__name__}, which names no output width; expected nn.Linear or Conv1D "
        f"(attach before quantising, or give attach a Family whose value= names a linear map)."
    )


def require_uncompiled(model: nn.Module) -> None:
    """Raise ValueError for what ``torch.compile`` made of a model.

    Its attributes are those of the model inside, but a module that it is given lies on it alone: what is put on by one
    could not be taken off by the other.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"a compiled model ({type(model).__name__}) was given, which wraps the one whose modules change; give the "
            f"model inside (model._orig_mod), and compile afterwards."
        )


def find(model: nn.Module, family: Family | None = None) -> Host:
    """See ``model`` as a host.

    Args:
        model: a Transformers decoder, with or without its language-model head.
        family: names to use instead of the table's, for families it does not know.

    Raises:
        ValueError: a compiled model, an unknown family, or names that do not fit the model; says what to give instead.
    """
    require_uncompiled(model)
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "base_model"):
        raise ValueError(
            f"attach was given a {type(model).__name__}; expected a Transformers PreTrainedModel such as "
            f"AutoModelForCausalLM.from_pretrained(...) returns."
        )
    base: Any = model.base_model
    config = getattr(base, "config", config)
    name = str(config.model_type)
    family = family or FAMILIES.get(name)
    if family is None:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f" (the nearest known family is {near[0]!r}: host=vm.hosts.FAMILIES[{near[0]!r}])" if near else ""
        raise ValueError(
            f"unknown host family {name!r}; known are {', '.join(sorted(FAMILIES))}. Supply three facts with "
            f"attach(..., host=vm.hosts.Family(layers=..., attention=... and value=..., slice=...)): where the layers "
            f"are, which linear map makes the values, and which slice of its output they are (experts also ask for "
            f"feed_forward=, names= and activation=){hint}."
        )
    try:
        layers = tuple(base.get_submodule(family.layers).children())
        value = layers[0].get_submodule(f"{family.attention}.{family.value}")
    except (AttributeError, IndexError) as error:
        raise ValueError(
            f"the names of family {name!r} do not fit {type(model).__name__}: {error}. Give attach a "
            f"host=vm.hosts.Family(...) with the names that print(model) shows."
        ) from error
    heads, dim = family.slice.shape(config, projection_width(value))
    shape = HostShape(
        family=name,
        layers=len(layers),
        hidden=int(config.hidden_size),
        vocabulary=int(base.get_input_embeddings().weight.shape[0]),
        value_heads=heads,
        value_dim=dim,
    )
    return Host(model=model, base=base, family=family, layers=layers, shape=shape, config=config)
