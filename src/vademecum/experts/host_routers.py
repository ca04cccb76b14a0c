"""The routers of hosts that are mixtures of experts already, read through the same statistics as attached ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vademecum.experts.balance import counts_of, mean_over, share_of
from vademecum.experts.mixture import entropy_of
from vademecum.experts.router import SCORES
from vademecum.experts.routes import Routes
from vademecum.hosts import Host
from vademecum.lookup import Frame


class HostRouters:
    """Listens to a host's own routers and reports them under ``host.layers.3``.

    The router's logits are its output (the first one, where it has several); who goes where is read off what the
    experts are called with, ``(hidden, chosen, weights)``: that is the same in every family and version.
    """

    def __init__(self, host: Host) -> None:
        self.scores = SCORES[host.family.routers.scores]
        self._logits: dict[int, Tensor] = {}
        self._calls: dict[int, tuple[Tensor, Tensor]] = {}
        self._handles: list[Any] = []
        for layer in range(host.shape.layers):
            found = routers_of(host, layer)
            if found is not None:
                router, experts = found
                self._handles.append(router.register_forward_hook(self._heard(layer)))
                self._handles.append(experts.register_forward_pre_hook(self._called(layer)))

    def __bool__(self) -> bool:
        return bool(self._handles)

    def begin(self) -> None:
        """Forget what an interrupted forward, or a recompute, left behind."""
        self._logits.clear()
        self._calls.clear()

    def report(self, frame: Frame) -> None:
        """Write the statistics of the forward that just ended into ``frame``, padding left out of the shares."""
        for layer, (chosen, weights) in self._calls.items():
            logits = self._logits[layer].float()
            scores = self.scores(logits)
            probabilities = Routes(chosen, weights, logits, scores).probabilities
            weights, order = weights.float().sort(-1, descending=True)
            chosen = chosen.gather(-1, order)
            frame.report(
                f"host.layers.{layer}",
                per_token={"experts": chosen, "weights": weights},
                once={
                    "load": share_of(counts_of(chosen, logits.shape[-1], frame.mask)),
                    "entropy": mean_over(entropy_of(probabilities), frame.mask),
                    "probability": mean_over(probabilities, frame.mask),
                    "dropped": logits.new_zeros(()),
                },
            )
        self.begin()

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()

    def _heard(self, layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            logits = output[0] if isinstance(output, tuple) else output
            self._logits[layer] = logits.detach().reshape(-1, logits.shape[-1])

        return hook

    def _called(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            _, chosen, weights = args[:3]
            self._calls[layer] = (chosen.detach().to(torch.int64), weights.detach())

        return hook


def routers_of(host: Host, layer: int) -> tuple[nn.Module, nn.Module] | None:
    """Router and experts of one layer's own feed-forward; None where it is dense or something took its place."""
    names = host.family.routers
    try:
        feed_forward = host.module(layer, "feed_forward")
        return feed_forward.get_submodule(names.router), feed_forward.get_submodule(names.experts)
    except AttributeError:
        return None
