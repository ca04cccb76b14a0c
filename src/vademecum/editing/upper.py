"""A batch of texts whose lower layers are run once: entries speak above them, so what they read does not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vademecum import hosts, interrupts
from vademecum.editing.reading import require_places

#: Of the places of one batch, how many two may have at most to be worth two calls.
WORTH = 0.85


class Upper:
    """What a model says at some places of a batch, over and over, from the first layer that changes on."""

    def __init__(
        self, model: Any, host: hosts.Host, ids: Tensor, mask: Tensor, first: int, rows: Tensor, places: Tensor
    ) -> None:
        """Run the lower layers.

        Args:
            model: with its head.
            host: the same, seen through its family's names.
            ids: ``[B, T]``.
            mask: ``[B, T]`` of what is no padding, which comes last.
            first: the lowest layer that changes from call to call.
            rows: ``[P]``, by place that is asked about, its text.
            places: ``[P]``, where in that text it is.
        """
        require_places(model, ids.shape[1])
        lengths = mask.sum(1)
        self._parts = []
        for texts in _alike(lengths):
            width = int(lengths[texts].max())
            part = _Part(model, host, ids[texts, :width], mask[texts, :width], first)
            self._parts.append((texts, part))
        self._asked = rows, places

    def logits(self) -> Tensor:
        """``[P, V]``."""
        rows, places = self._asked
        found, order = [], []
        for texts, part in self._parts:
            here = torch.isin(rows, texts).nonzero()[:, 0]
            if len(here):
                found.append(part.logits(torch.searchsorted(texts, rows[here]), places[here]))
                order.append(here)
        return torch.cat(found)[torch.cat(order).argsort()]

    def some(self, texts: Tensor) -> Upper:
        """Of some texts alone, by their ascending numbers ``[b]``, at places still to be named by :meth:`at`.

        No layer runs.
        """
        fewer = copy.copy(self)
        fewer._parts = []
        for own, part in self._parts:
            staying = torch.isin(own, texts).nonzero()[:, 0]
            if len(staying):
                fewer._parts.append((torch.searchsorted(texts, own[staying]), part.some(staying)))
        return fewer

    def at(self, rows: Tensor, places: Tensor) -> Upper:
        """The same at other places."""
        other = copy.copy(self)
        other._asked = rows, places
        return other


def _alike(lengths: Tensor) -> list[Tensor]:
    """Numbers of texts, ascending, in one group or in a short and a long one, whichever is the least to run.

    Short texts beside long ones are mostly padding; two groups are two calls.
    """
    order = lengths.argsort(stable=True)
    sizes = lengths[order]
    counts = torch.arange(1, len(sizes) + 1, device=sizes.device)
    whole = len(sizes) * sizes[-1]
    cost = counts * sizes + (len(sizes) - counts) * sizes[-1]
    cut = int(cost.argmin()) + 1
    if cut == len(sizes) or float(cost[cut - 1]) > WORTH * float(whole):
        return [torch.arange(len(sizes), device=lengths.device)]
    return [order[:cut].sort().values, order[cut:].sort().values]


class _Part:
    """Texts of like length, whose lower layers are run once."""

    def __init__(self, model: Any, host: hosts.Host, ids: Tensor, mask: Tensor, first: int) -> None:
        self._model, self._layers, self._first = model, host.layers, first
        self._ids, self._mask = ids, mask
        self._below: Tensor | None = None
        self._tupled = False  # whether layers return what they made in a tuple
        if first:
            nowhere = torch.zeros(1, dtype=torch.long, device=ids.device)
            with torch.no_grad(), self._noting():
                self._said(nowhere, nowhere)

    def logits(self, rows: Tensor, places: Tensor) -> Tensor:
        """``[P, V]``."""
        with self._resting():
            return self._said(rows, places)

    def some(self, texts: Tensor) -> _Part:
        width = int(self._mask[texts].sum(1).max())
        fewer = copy.copy(self)
        fewer._ids, fewer._mask = self._ids[texts, :width], self._mask[texts, :width]
        if self._below is not None:
            fewer._below = self._below[texts, :width]
        return fewer

    def _said(self, rows: Tensor, places: Tensor) -> Tensor:
        """The head is given the places that are asked about alone: over all of them it would be most of the work."""
        given = 0

        def only(_: Any, args: tuple[Any, ...]) -> Any:
            nonlocal given
            if not (args and args[0].dim() == 3 and args[0].shape[:2] == self._ids.shape):
                return None  # a head that is called in a way of its own says all
            given += 1
            here = args[0].device  # of a host on several devices it need not be the input's
            return (args[0][rows.to(here), places.to(here)][None], *args[1:])

        handle = self._model.get_output_embeddings().register_forward_pre_hook(only)
        try:
            found: Tensor = self._model(input_ids=self._ids, attention_mask=self._mask, use_cache=False).logits
        finally:
            with interrupts.finished():
                handle.remove()
        found = found.to(self._ids.device)
        return found[0] if given else found[rows, places]

    @contextmanager
    def _noting(self) -> Iterator[None]:
        def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._below = args[0] if args else kwargs["hidden_states"]

        def look(_: Any, __: Any, output: Any) -> None:
            self._tupled = isinstance(output, tuple)

        handles: list[Any] = []
        try:
            handles.append(self._layers[self._first].register_forward_pre_hook(note, with_kwargs=True))
            handles.append(self._layers[0].register_forward_hook(look))
            yield
        finally:
            with interrupts.finished():
                for handle in handles:
                    handle.remove()

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Within the block the lower layers pass on what they get, and the first one above gets what was noted."""
        if self._below is None:
            yield
            return

        def give(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (self._below, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": self._below}

        lower: list[Any] = list(self._layers[: self._first])
        # Some layers have a forward of their own (as those that another library moves about), and get it back.
        own = [layer.__dict__.get("forward") for layer in lower]
        handles: list[Any] = []
        try:
            above = self._layers[self._first]
            handles.append(above.register_forward_pre_hook(give, with_kwargs=True, prepend=True))
            for layer in lower:
                # As an attribute of the object it hides the class's own for as long as it is there.
                layer.forward = _passing(self._tupled)
            yield
        finally:
            with interrupts.finished():
                for layer, forward in zip(lower, own, strict=True):
                    layer.__dict__.pop("forward", None)
                    if forward is not None:
                        layer.forward = forward
                for handle in handles:
                    handle.remove()


def _passing(tupled: bool) -> Any:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if tupled else hidden_states

    return forward
