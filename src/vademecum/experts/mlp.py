"""The experts themselves: stacked feed-forward networks of the host's own form."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from vademecum.experts.dispatch import Dispatch, Local
from vademecum.experts.routes import Routes
from vademecum.hosts import FeedForwardNames, input_output
from vademecum.memory.base import Role
from vademecum.ops.experts import Networks


def biased(feed_forward: nn.Module, names: FeedForwardNames) -> bool:
    """Whether the linear maps of a dense host feed-forward have biases; all of them or none."""
    maps = [feed_forward.get_submodule(name) for name in (names.gate, names.up, names.down) if name]
    found = {getattr(linear, "bias", None) is not None for linear in maps}
    if len(found) > 1:
        raise ValueError(
            f"some linear maps of the {type(feed_forward).__name__} have a bias and some have none, but experts are "
            f"alike throughout; MoE cannot take this feed-forward's place, leave its layers out with layers=[...]."
        )
    return found.pop()


class Experts(nn.Module):
    """E feed-forward networks: ``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` where the host's is ungated.

    Attributes:
        up: ``[E, d, f]`` (ungated) or ``[E, d, 2f]`` (gate and up side by side), role ``expert``.
        down: ``[E, f, d]``.
        up_bias, down_bias: ``[E, f or 2f]`` and ``[E, d]``, present where the host's linear maps have biases.
        dispatch: how tokens reach the experts. Where processes share them (``vm.shard_experts``), each holds E/P, and
            the parameters begin with that instead of E.
    """

    role: ClassVar[Role] = Role.EXPERT

    def __init__(
        self,
        experts: int,
        hidden: int,
        width: int,
        *,
        gated: bool,
        biased: bool,
        activation: str,
        std: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.experts, self.width, self.gated = experts, width, gated
        self.dispatch: Dispatch = Local()
        # Torch's own form of the commonest one, which expert compute knows the derivative of.
        self.act = nn.SiLU() if activation in ("silu", "swish") else ACT2FN[activation]
        inner = 2 * width if gated else width

        def drawn(fan_in: int, fan_out: int) -> nn.Parameter:
            weight = torch.empty(experts, fan_in, fan_out, dtype=dtype, device=device)
            return nn.Parameter(nn.init.normal_(weight, std=std))

        def zeros(size: int) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(experts, size, dtype=dtype, device=device)) if biased else None

        self.up = drawn(hidden, inner)
        self.down = drawn(width, hidden)
        self.up_bias, self.down_bias = zeros(inner), zeros(hidden)

    @torch.no_grad()
    def copy(self, feed_forward: nn.Module, names: FeedForwardNames) -> None:
        """Fill every expert with the host's own feed-forward (upcycling, arXiv:2212.05055)."""
        ups = [names.gate, names.up] if names.gate else [names.up]
        ups_modules = [feed_forward.get_submodule(name) for name in ups]
        down = feed_forward.get_submodule(names.down)
        self.up.copy_(torch.cat([input_output(m) for m in ups_modules], dim=-1))
        self.down.copy_(input_output(down))
        if self.up_bias is not None and self.down_bias is not None:
            self.up_bias.copy_(torch.cat([m.bias for m in ups_modules]))  # type: ignore[misc]
            self.down_bias.copy_(down.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor, routes: Routes) -> Tensor:
        """``[N, d]`` through each token's chosen experts, weighed and added: ``[N, d]``."""
        networks = Networks(self.up, self.down, self.up_bias, self.down_bias, act=self.act, gated=self.gated)
        return self.dispatch(hidden, routes, networks.to(hidden.dtype))

    def each(self, hidden: Tensor) -> Tensor:
        """What every expert makes of every row of ``[U, d]``: ``[U, E, d]``."""
        inner = torch.einsum("ud,edf->euf", hidden, self.up.to(hidden.dtype))
        if self.up_bias is not None:
            inner = inner + self.up_bias[:, None]
        if self.gated:
            gate, up = inner.chunk(2, dim=-1)
            inner = self.act(gate) * up
        else:
            inner = self.act(inner)
        out = torch.einsum("euf,efd->ued", inner, self.down.to(inner.dtype))
        return out if self.down_bias is None else out + self.down_bias

    def params_of_one(self) -> int:
        """Parameters of a single expert."""
        return sum(p.numel() for p in self.parameters()) // len(self.up)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._require_whole()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._require_whole()
        super()._load_from_state_dict(*args)

    def _require_whole(self) -> None:
        """A part must never pass for the whole: not in ``vm.save``, nor in the host's own ``save_pretrained``."""
        if len(self.up) != self.experts:
            raise ValueError(
                f"this process holds {len(self.up)} of the {self.experts} experts of a MoE layer, so it can neither "
                f"save nor load them; call vm.gather_experts(model) on every process first, and "
                f"vm.shard_experts(model) afterwards to go on."
            )

    def extra_repr(self) -> str:
        held = "" if len(self.up) == self.experts else f" ({len(self.up)} of them here)"
        return f"experts={self.experts}{held}, width={self.width}, gated={self.gated}"
