"""Surgery: build memories for a host, put them on, take them off.

``attach`` knows no kind by name: a kind says which parts it wants at which sites, and surgery wraps the few host
modules those parts stand at. Everything is checked and built before the first module moves, so that an error leaves
the host as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.attached import ROOT, Memories, real_tokens
from vademecum.experts.host_routers import HostRouters, routers_of
from vademecum.lookup import Frame
from vademecum.memory import placing
from vademecum.memory.base import Kind, Part, Shared, Site
from vademecum.memory.layers import chosen_layers
from vademecum.recording import Listener, Recording
from vademecum.stores.placement import Placement

Model = TypeVar("Model", bound=nn.Module)

#: What rows of a bank may be kept in.
BANK_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def memories(model: nn.Module) -> Memories:
    """What is attached to ``model``; its ``repr`` is a table of kinds with parameters, bytes and FLOPs per token.

    Raises:
        ValueError: nothing is attached.
    """
    root = getattr(model, ROOT, None)
    if not isinstance(root, Memories):
        inner = getattr(model, "module", None)
        if isinstance(getattr(inner, ROOT, None), Memories):
            raise ValueError(
                f"this {type(model).__name__} wraps a model with memories; give the model inside, .module."
            )
        raise ValueError(f"this {type(model).__name__} has no memory; attach one with vm.attach(model, vm.MoVE()).")
    return root


def attach(
    model: Model,
    *kinds: Kind,
    host: hosts.Family | None = None,
    bank: str = "auto",
    bank_folder: str | Path | None = None,
    bank_cap: int | str | None = None,
    bank_dtype: torch.dtype | None = None,
) -> Model:
    """Attach memories to a Transformers decoder, in place.

    A bank on the device is a parameter like any other. One in RAM or on disk is not: ``model.to()`` leaves it where it
    is, :class:`vademecum.RowOptimizer` trains it, and what it learns is the same, bit for bit.

    Args:
        model: the host, with or without its language-model head.
        kinds: configs such as ``vm.MoVE(slots=8)`` and ``vm.MoE(experts=8, top_k=2)``; any number, any mix.
        host: names of the host's modules, for families that ``vademecum.hosts`` does not know.
        bank: where rows of banks live: ``"device"``, ``"ram"``, ``"disk"``, or ``"auto"``, the first of these with
            room (half of what is free). ``print(vm.memories(model))`` and the log say where and how large.
        bank_folder: where a bank on disk keeps its files, begun anew even where some lie there already; without it in
            a folder that goes when the memory does.
        bank_cap: bytes of rows of a bank on disk that may be kept in memory, such as ``"4GB"``; 1 GiB where not given.
        bank_dtype: of the rows; the host's where not given.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: an unknown host, a layer that does not exist, two kinds that both want to take the same module's
            place, a place that there is not, or a model that has memories already. The model is then unchanged.
        OSError: there is no room for the bank; the model is then unchanged.
    """
    placement = Placement.of(bank, bank_folder, bank_cap)
    if bank_dtype not in (None, *BANK_DTYPES):
        raise ValueError(
            f"bank_dtype={bank_dtype!r} was given; expected one of {', '.join(map(str, BANK_DTYPES))}, or None for the "
            "host's; fewer bits are for afterwards (vademecum convert)."
        )
    root = assemble(model, kinds, host, bank_dtype)
    try:
        root.scratch = placing.place(root.banks(), placement)
        placing.tell(root.banks())
    except BaseException:
        root.remove()
        raise
    return model


def assemble(
    model: nn.Module, kinds: tuple[Kind, ...], host: hosts.Family | None, bank_dtype: torch.dtype | None = None
) -> Memories:
    """Everything of :func:`attach` but the banks' rows, which have no place yet."""
    if getattr(model, ROOT, None) is not None:
        raise ValueError(
            f"this {type(model).__name__} has memories already ({', '.join(memories(model).kinds)}); give attach all "
            f"kinds in one call, or call vm.detach(model) first."
        )
    for kind in kinds:
        if not isinstance(kind, Kind):
            raise ValueError(
                f"attach was given {kind!r}; expected a kind such as vm.MoVE(slots=8), not its class or name."
            )
    found = hosts.find(model, host)
    keyed = keys_of(kinds)
    shared: dict[str, Shared] = {}
    parts: dict[tuple[int, str], dict[str, Part]] = {}
    site = site_of(found)
    for key, kind in keyed.items():
        layers = chosen_layers(kind.layers, found.shape.layers, type(kind).__name__)
        kind.fit(site, layers)
        built = kind.build(site, layers)
        if built.shared is not None:
            shared[key] = built.shared
        for layer, part in built.parts.items():
            put(parts, key, layer, part)
    root = Memories(found, keyed, shared)
    root.place(parts)
    for module in root.named().values():
        module.train(found.model.training)
    for bank in root.banks().values():
        bank.dtype = bank_dtype or bank.dtype
    return root


def detach(model: Model) -> Model:
    """Take all memories off again: the host's own modules stand where they stood, bit for bit.

    Raises:
        ValueError: nothing is attached.
    """
    memories(model).remove()
    return model


@contextmanager
def record(model: nn.Module, *, tokens: bool = True) -> Iterator[Recording]:
    """Within the block, every forward of ``model`` reports gates, expert load and auxiliary losses.

    A host that is a mixture of experts already reports its own routers, whether or not anything is attached to it.

    Args:
        model: a model with memories, or a bare host with experts of its own.
        tokens: keep what there is per token (gates, chosen experts); without it a recording is light enough to
            stay on through a training.

    Yields:
        A :class:`~vademecum.recording.Recording` that fills as forwards run.

    Raises:
        ValueError: nothing is attached, and the host has no experts of its own.
    """
    root = getattr(model, ROOT, None)
    attached_root = root if isinstance(root, Memories) else None
    host = _sparse_host(model) if attached_root is None else attached_root.host
    listener = Listener(Recording(tokens=tokens), HostRouters(host))
    handles = [host.base.register_forward_pre_hook(lambda *_: listener.routers.begin())]
    if attached_root is None:
        handles.append(host.base.register_forward_hook(_bare_forward(listener), with_kwargs=True))
    else:
        attached_root.listeners.append(listener)
    try:
        yield listener.recording
    finally:
        listener.routers.close()
        for handle in handles:
            handle.remove()
        if attached_root is not None:
            attached_root.listeners.remove(listener)


def _sparse_host(model: nn.Module) -> hosts.Host:
    """A bare model as a host with experts of its own; the error of :func:`memories` where it has none."""
    if not hasattr(model, "base_model") or getattr(model, "config", None) is None:
        memories(model)  # raises
    host = hosts.find(model)
    if all(routers_of(host, layer) is None for layer in range(host.shape.layers)):
        memories(model)  # raises
    return host


def _bare_forward(listener: Listener) -> Any:
    """Hook of a bare host's base model: what an attached model's frame would carry, made when the forward ends."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        frame = Frame(ids=None if ids is None else ids.reshape(-1))
        frame.mask = real_tokens(kwargs.get("attention_mask"), ids, kwargs.get("inputs_embeds"))
        listener.hear(frame)

    return hook


def prefetch(model: nn.Module, ids: Tensor) -> None:
    """Say that a forward on ``ids`` comes soon: banks on disk begin to read its rows in the background.

    Banks that are not read by token id are left alone. Changes no result. Of use between requests and between batches;
    a forward that starts at once gains nothing.

    Raises:
        ValueError: nothing is attached, no tensor of ids, or an id that a bank does not have.
    """
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"prefetch was given {type(ids).__name__}; expected a tensor of token ids.")
    banks = [bank for bank in memories(model).banks().values() if bank.store is not None and bank.by_token]
    if not banks or not ids.numel():
        return
    wanted = torch.unique(ids.cpu().long())
    for bank in banks:
        if wanted[0] < 0 or wanted[-1] >= bank.rows:
            raise ValueError(
                f"prefetch was given ids {int(wanted[0])} to {int(wanted[-1])}, but the bank has rows 0 to "
                f"{bank.rows - 1}."
            )
        assert bank.store is not None
        bank.store.prefetch(wanted)


@contextmanager
def knocked_out(model: nn.Module) -> Iterator[None]:
    """Within the block, memories contribute nothing; experts stay, since nothing is left else.

    A memory that took a feed-forward's place is silent too, and that layer then has neither.
    """
    root = memories(model)
    before, root.muted = root.muted, True
    try:
        yield
    finally:
        root.muted = before
        now = getattr(model, ROOT, None)  # memories may have come or gone meanwhile
        if isinstance(now, Memories):
            now.muted = before


def put(parts: dict[tuple[int, str], dict[str, Part]], key: str, layer: int, part: Part) -> None:
    """Add ``part`` of ``key`` to ``parts`` (by layer and site, then by key).

    Raises:
        ValueError: its place, or the module that it stands in, is taken.
    """
    for (at, site), there in parts.items():
        if at != layer:
            continue
        inside = hosts.WITHIN.get(part.site) == site or hosts.WITHIN.get(site) == part.site
        for name, other in there.items():
            both = site == part.site and other.exclusive and part.exclusive
            outer = other if hosts.WITHIN.get(part.site) == site else part
            if both or (inside and outer.exclusive):
                what = "both want to take the place of" if both else "want each other's place, or one inside of it, at"
                raise ValueError(
                    f"{name} and {key} {what} layer {layer}'s {outer.site.replace('_', '-')}; "
                    f"give them different layers, for instance layers=[{layer}] and the other layers."
                )
    parts.setdefault((layer, part.site), {})[key] = part


def keys_of(kinds: tuple[Kind, ...]) -> dict[str, Kind]:
    """Kinds by name, numbered from the second of the same name on."""
    keyed: dict[str, Kind] = {}
    for kind in kinds:
        count = sum(other.name == kind.name for other in keyed.values())
        keyed[kind.name if not count else f"{kind.name}_{count + 1}"] = kind
    return keyed


def site_of(host: hosts.Host) -> Site:
    """What kinds may know of ``host``."""
    base: Any = host.base

    def value(layer: int) -> Tensor:
        weight: Tensor = host.module(layer, "value").weight  # type: ignore[assignment]
        if weight.is_meta:
            raise ValueError(
                f"layer {layer} of the host holds no weights yet (device meta); load or materialise the host first."
            )
        return weight

    def feed_forward(layer: int) -> nn.Module:
        try:
            return host.module(layer, "feed_forward")
        except AttributeError as error:
            raise ValueError(
                f"layer {layer} of this {host.shape.family} host has no {host.family.feed_forward!r}; give attach a "
                f"host=vm.hosts.Family(feed_forward=...) with the name that print(model) shows."
            ) from error

    def activation() -> str:
        name = getattr(host.config, host.family.activation, None)
        if name is None:
            raise ValueError(
                f"the config of this {host.shape.family} host has no {host.family.activation!r}; give attach a "
                f"host=vm.hosts.Family(activation=...) with the entry that names the feed-forward's activation."
            )
        return str(name)

    def own_values(layer: int) -> Callable[[Tensor], Tensor]:
        # The modules are found now: they are asked when a table is placed, and something may stand before them then.
        table, project, shape = base.get_input_embeddings(), host.module(layer, "value"), host.shape
        norm = nn.Identity() if host.family.norm is None else host.layers[layer].get_submodule(host.family.norm)

        @torch.no_grad()
        def values(ids: Tensor) -> Tensor:
            hidden = table(ids.to(table.weight.device)).to(value(layer).device)
            return host.family.slice.split(project(norm(hidden)), shape.value_heads, shape.value_dim)

        return values

    # Quantised weights are integers; the memory is then held in the type the host computes in.
    dtype = value(0).dtype if value(0).dtype.is_floating_point else getattr(host.config, "dtype", None) or torch.float32
    return Site(
        shape=host.shape,
        dtype=dtype,
        device=lambda layer: value(layer).device,
        feed_forward=feed_forward,
        names=host.family.names,
        activation=activation,
        init_std=float(getattr(host.config, "initializer_range", 0.02)),
        slice=host.family.slice,
        embedding=base.get_input_embeddings,
        own_values=own_values,
    )
