"""What is attached to a model, and how one frame travels through its forward.

Three places are hooked. The model's pre-hook opens a frame; the base model's pre-hook fills it with addresses and what
all layers share; each attention module's pre-hook takes it off the keywords and gives it to that layer's sites. The
attention module, not the layer, is hooked because activation checkpointing recomputes a layer's ``forward`` without
the layer's own hooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vademecum import history
from vademecum.hosts import Host
from vademecum.lookup import IDS_KEYWORD, KEYWORD, Frame, Lookup
from vademecum.memory.bank import TENSOR, Bank
from vademecum.memory.base import Cost, Kind, Part, Shared
from vademecum.memory.placing import Scratch
from vademecum.memory.sites import WRAPPERS, SiteModule, SiteWrapper, thread
from vademecum.naming import LoadedNames, SavedNames
from vademecum.ops import specified
from vademecum.ops.mix.decode import FEW
from vademecum.recording import Listener

#: Signs of a setting that are shown.
LONG = 80
#: Name of the submodule under which an attached model holds what its layers share.
ROOT = "vademecum"


class Wires:
    """Hook of one layer's attention module: takes the frame off the keywords and gives it to the layer's sites."""

    def __init__(self, layer: int, sites: tuple[SiteModule, ...]) -> None:
        self.layer, self.sites = layer, sites

    def take(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook: the attention itself never sees the frame."""
        frame = kwargs.pop(KEYWORD, None)
        if not self.sites:
            return args, kwargs
        if frame is None:
            raise RuntimeError(
                f"layer {self.layer} did not hand its keywords on to {type(module).__name__}, so its memory has no "
                f"ids to look up; a host's layers must pass **kwargs to their attention before it can carry a memory."
            )
        whose = thread()
        for site in self.sites:
            site.give(frame, whose)
        return args, kwargs


class Memories(nn.Module):
    """Kinds, shared banks and wrapped sites of one model, held by it as its submodule ``vademecum``.

    Attributes:
        kinds: the attached configs by key (a kind's name, numbered when it is attached more than once).
        shape: the numbers of the host.
        shared: by key, what a kind owns once for all layers.
        muted: whether value memories contribute nothing (``vademecum.surgery.knocked_out``).
        listeners: who is listening (``vm.record``).
        scratch: folders of the banks' files where the caller named none; they go with this object.
    """

    def __init__(self, host: Host, kinds: Mapping[str, Kind], shared: Mapping[str, Shared]) -> None:
        super().__init__()
        self.kinds = dict(kinds)
        self.shape = host.shape
        self.shared = nn.ModuleDict(shared)
        self._looks_back = max((one.looks_back for one in shared.values()), default=0)
        self._carries: dict[str, int] = {}
        self.muted = False
        self.scratch: tuple[Scratch, ...] = ()
        self.listeners: list[Listener] = []
        # A tuple hides the modules in it from nn.Module: a host is not part of its own memory.
        self._host = (host,)
        self._sites: tuple[tuple[str, int, SiteModule], ...] = ()
        self._parts: tuple[Part, ...] = ()
        self._handles: list[Any] = []

    @property
    def host(self) -> Host:
        """The host seen through its family's names."""
        return self._host[0]

    def sites(self) -> Iterator[tuple[str, int, SiteModule]]:
        """``(site name, layer, what stands there)`` of every site that has parts."""
        return iter(self._sites)

    def parts(self) -> Iterator[tuple[str, int, Part]]:
        """``(kind key, layer, part)`` of every part."""
        for _, layer, wrapper in self._sites:
            for name, part in wrapper.memory.items():
                yield name, layer, cast(Part, part)

    def named(self) -> dict[str, Part | Shared]:
        """Every module of the memory under the name its tensors are saved by: ``move.shared``, ``move.layers.3``."""
        modules: dict[str, Part | Shared] = {f"{key}.shared": cast(Shared, m) for key, m in self.shared.items()}
        modules.update({part.key: part for _, _, part in self.parts()})
        return modules

    def banks(self) -> dict[str, Bank]:
        """Every bank under the name its rows are saved by: ``move.shared.weight``."""
        return {
            ".".join(filter(None, (key, inner, TENSOR))): module
            for key, owner in self.named().items()
            for inner, module in owner.named_modules()
            if isinstance(module, Bank)
        }

    def own(self) -> dict[str, Kind]:
        """The kinds that are the model's own, by key; what edits put on is kept in files of their own."""
        edited = {key for key, one in self.shared.items() if cast(Shared, one).overlay is not None}
        return {key: kind for key, kind in self.kinds.items() if key not in edited}

    def cost(self, kind: str | None = None) -> Cost:
        """Cost per token of one kind (by its key), or of all."""
        total = Cost()
        for name, module in self.named().items():
            if kind is None or name.split(".", 1)[0] == kind:
                total += module.cost()
        return total

    def __repr__(self) -> str:
        rows = [("kind", "settings", "layers", "parameters", "active", "MB", "FLOPs/token", "bank")]
        for key, kind in self.kinds.items():
            cost = self.cost(key)
            modules = [module for name, module in self.named().items() if name.split(".", 1)[0] == key]
            banks = [bank for name, bank in self.banks().items() if name.split(".", 1)[0] == key]
            size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
            size += sum(bank.nbytes for bank in banks if bank.store is not None)
            settings = {k: v for k, v in kind.to_dict().items() if k not in ("kind", "layers") and v is not None}
            settings = {k: v if len(str(v)) <= LONG else f"{str(v)[:LONG]}..." for k, v in settings.items()}
            rows.append(
                (
                    key,
                    ", ".join(f"{k}={v}" for k, v in settings.items()) or "-",
                    ",".join(str(layer) for name, layer, _ in self.parts() if name == key) or "-",
                    f"{cost.params:,}",
                    f"{cost.active_params:,}",
                    f"{size / 1e6:.2f}",
                    f"{cost.flops_per_token:,}",
                    ",".join(dict.fromkeys(bank.where for bank in banks)) or "-",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"Memories of a {self.shape.family} host ({self.shape.layers} layers, hidden width {self.shape.hidden})"
        return "\n".join([head, *lines])

    def place(self, parts: Mapping[tuple[int, str], Mapping[str, Part]]) -> None:
        """Put wrappers with ``parts`` (by layer and site, then by kind key) and the hooks in place."""
        placed = []
        for (layer, site), here in sorted(parts.items()):
            wrapper = WRAPPERS[site](self.host, layer, here)
            for name, part in here.items():
                part.name(name, layer)
                wrapper.memory[name] = part
            placed.append((site, layer, wrapper))
        # First noted, then put in place: what is interrupted in between can be taken off again.
        self._sites = tuple(placed)
        self.follow()
        self._parts = tuple(part for _, _, part in self.parts())
        self._looks_back = max((self._looks_back, *(part.looks_back for part in self._parts)))
        self._carries = {part.key: part.carries for part in self._parts if part.carries}
        for _, _, wrapper in placed:
            wrapper.stand(self.host)
        if placed:
            self._hook()
        self.host.model.add_module(ROOT, self)

    def follow(self) -> None:
        """Be in the mode, training or not, that the host is in; parts keep their own."""
        self.training = self.shared.training = self.host.model.training
        for _, _, site in self._sites:
            site.follow()

    def _hook(self) -> None:
        model, base, handles = self.host.model, self.host.base, self._handles
        paths = {id(module): path for path, module in model.named_modules()}
        wrappers = {paths[id(site)]: site for _, _, site in self._sites if isinstance(site, SiteWrapper)}
        handles.append(model.register_state_dict_post_hook(SavedNames(wrappers)))  # type: ignore[no-untyped-call]
        handles.append(model.register_load_state_dict_pre_hook(LoadedNames(wrappers)))  # type: ignore[no-untyped-call]
        if model is not base:
            handles.append(model.register_forward_pre_hook(self.open_model, with_kwargs=True))
            handles.append(model.register_forward_hook(self.close_model, with_kwargs=True))
        handles.append(base.register_forward_pre_hook(self.open_base, with_kwargs=True))
        handles.append(base.register_forward_hook(self.close_base, with_kwargs=True))
        for layer in range(self.shape.layers):
            wires = Wires(layer, tuple(wrapper for _, at, wrapper in self._sites if at == layer))
            handles.append(self.host.attention(layer).register_forward_pre_hook(wires.take, with_kwargs=True))
        for _, _, site in self._sites:
            handles.extend(site.hooks(self.host))

    def remove(self) -> None:
        """Put the host's own modules back and take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for _, _, wrapper in self._sites:
            wrapper.leave()
        if getattr(self.host.model, ROOT, None) is self:
            delattr(self.host.model, ROOT)

    def open_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the model given to ``attach``: opens the frame that will collect this forward's losses."""
        return args, {**kwargs, KEYWORD: Frame(summed=True)}

    def close_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Hook of the model given to ``attach``: auxiliary losses join the loss that the caller will see."""
        frame: Frame = kwargs[KEYWORD]
        if not frame.opened:
            raise RuntimeError(
                f"{type(module).__name__} did not hand its keywords on to its base model, so its memory was not read; "
                f"attach to the base model, or use a newer transformers."
            )
        if not frame.losses:
            return output
        extra = torch.stack(list(frame.losses.values())).sum() * _share_of_batch(kwargs)
        if isinstance(output, Mapping) and output.get("loss") is not None:
            output["loss"] = output["loss"] + extra.to(output["loss"])  # type: ignore[index]
        elif not isinstance(output, Mapping) and kwargs.get("labels") is not None:
            output = (output[0] + extra.to(output[0]), *output[1:])
        else:
            self._warn_of_lost_losses(frame)
        return output

    def open_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the base model: finds the addresses and reads what all layers share."""
        _refuse_reentrant(module, self.host.layers)
        for _, _, wrapper in self._sites:
            wrapper.given[:] = []  # what an interrupted forward left behind
        kwargs = dict(kwargs)
        frame: Frame = kwargs.pop(KEYWORD, None) or Frame()
        frame.opened, frame.training, frame.muted = True, module.training, self.muted
        frame.recording = bool(self.listeners)
        given = kwargs.pop(IDS_KEYWORD, None)
        ids = given if given is not None else kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        if self._looks_back and given is not None:
            ids, frame.before = _apart(given, kwargs.get("input_ids", args[0] if args else None), embeds)
        frame.ids = None if ids is None else ids.reshape(-1)
        frame.mask = real_tokens(kwargs.get("attention_mask"), ids, embeds)
        if frame.mask is not None or kwargs.get("attention_mask") is None:
            frame.positions = kwargs.get("position_ids")
        if any(kind.addressed for kind in self.kinds.values()):
            if ids is None:
                raise ValueError(
                    f"inputs_embeds was given without token ids, but the attached memory is looked up by id; pass the "
                    f"ids the embeddings stand for as {IDS_KEYWORD}=, or pass input_ids instead."
                )
            own = kwargs.get("input_ids", args[0] if args else None)
            own = embeds if own is None else own
            if given is not None and own is not None and ids.shape != own.shape[:2]:
                raise ValueError(
                    f"{IDS_KEYWORD} is {list(given.shape)}, but the model was given {list(own.shape)}; give one id for "
                    f"each position, [batch, tokens]{', or all ids so far' if self._looks_back else ''}."
                )
            frame.lookup = self._addresses(ids)
            frame.few = ids.numel() <= FEW and not (
                frame.training
                or frame.recording
                or frame.muted
                or torch.is_grad_enabled()
                or torch.compiler.is_compiling()
                or specified()
            )
            if self._looks_back and frame.before is None:
                frame.before = history.before(kwargs.get("past_key_values"), len(ids), self._looks_back)
            if self._carries:
                frame.carried = history.carried(kwargs.get("past_key_values"), len(ids), self._carries)
        for key, shared in self.shared.items():
            frame.shared[key] = cast(Shared, shared).read(frame)
        learning = frame.training and torch.is_grad_enabled()
        for part in self._parts:
            if learning:
                part.begin()
            state = part.snapshot()
            if state is not None:
                frame.state[part.key] = state
            part.prepare(frame)
        kwargs[KEYWORD] = frame
        return args, kwargs

    def _addresses(self, ids: Tensor) -> Lookup:
        if not torch.compiler.is_compiling():
            return Lookup.of(ids)
        # A compiled graph reads tables whole, and keeps its shapes; what lies in a store is ordered outside of it.
        resident = all(bank.resident for bank in self.banks().values() if bank.by_token)
        return Lookup.of_table(ids) if resident else _ordered(ids)

    def close_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook of the base model: buffers learn from a training forward, listeners take what it reported."""
        frame: Frame = kwargs[KEYWORD]
        if frame.training and torch.is_grad_enabled():
            for _, _, part in self.parts():
                part.settle(frame)
        if self._looks_back and frame.lookup is not None:
            history.remember(history.of_output(output), frame.tokens(), frame.before)
            history.leave(history.of_output(output), frame.left)
        for listener in self.listeners:
            listener.hear(frame)
        if not frame.summed:
            self._warn_of_lost_losses(frame)

    def _warn_of_lost_losses(self, frame: Frame) -> None:
        if frame.losses and torch.is_grad_enabled() and not self.listeners and not torch.compiler.is_compiling():
            warnings.warn(
                "a training forward computed auxiliary losses that reach no loss: labels were not given, or the base "
                "model or a forward method was called directly. Give the model labels=, or run the forward in "
                "vm.record(model) as rec and add sum(rec.losses.values()) to your loss.",
                RuntimeWarning,
                stacklevel=2,
            )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _ordered(ids: Tensor) -> Lookup:
    return Lookup.of(ids)


def _apart(given: Tensor, ids: Tensor | None, embeds: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The ids of a forward's own tokens, and those before them, from all ids so far."""
    own = ids if ids is not None else embeds
    tokens = given.shape[1] if own is None else own.shape[1]
    earlier = given.shape[1] - tokens
    return (given[:, earlier:], given[:, :earlier]) if earlier > 0 else (given, None)


def _share_of_batch(kwargs: Mapping[str, Any]) -> float | Tensor:
    """How much of an accumulated batch this forward is.

    A caller that passes ``num_items_in_batch`` (Transformers' Trainer) sums token losses over micro-batches and divides
    by that number; the auxiliary losses are means, so each micro-batch may add only its share of them.
    """
    items, labels = kwargs.get("num_items_in_batch"), kwargs.get("labels")
    if items is None or labels is None:
        return 1.0
    share: Tensor = (labels[..., 1:] != -100).sum() / items
    return share


def real_tokens(mask: Any, ids: Tensor | None, embeds: Tensor | None) -> Tensor | None:
    """``[B*T]`` True where a token of this forward is not padding; None where the mask does not say.

    ``mask`` is ``[B, past + T]``, or what ``generate`` makes of it for a static cache: ``[B, 1, T, room]``, True or 0
    where a query sees a key, or a mapping of such masks by the layers' form of attention.
    """
    source = ids if ids is not None else embeds
    if source is None:
        return None
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if isinstance(mask, Tensor) and mask.dim() == 4:
        return _own_keys(mask[:, 0], source.shape[1]).reshape(-1)
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    return mask[:, -source.shape[1] :].bool().reshape(-1)


def _own_keys(mask: Tensor, tokens: int) -> Tensor:
    """``[B, T]`` whether each of the last ``tokens`` queries of ``mask`` ``[B, T, keys]`` sees its own key.

    A token sees itself unless it is padding. Its own key is the last that any row of the batch sees there: in the
    longest row no token is padding.
    """
    seen = mask[:, -tokens:] if mask.dtype == torch.bool else mask[:, -tokens:] == 0
    own = (seen.any(0) * torch.arange(seen.shape[-1], device=seen.device)).amax(-1)
    return seen.gather(-1, own.expand(len(seen), -1)[..., None]).squeeze(-1)


def _refuse_reentrant(base: nn.Module, layers: tuple[nn.Module, ...]) -> None:
    """Re-entrant checkpointing drops gradients that enter through keywords, and the memory's rows enter that way."""
    first = layers[0]
    if not (base.training and torch.is_grad_enabled() and getattr(first, "gradient_checkpointing", False)):
        return
    settings = getattr(getattr(first, "_gradient_checkpointing_func", None), "keywords", {})
    if settings.get("use_reentrant", False):
        raise ValueError(
            "activation checkpointing was enabled with use_reentrant=True, which would drop the memory's gradients; "
            "enable it with gradient_checkpointing_kwargs={'use_reentrant': False}."
        )
