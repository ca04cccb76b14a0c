"""Host modules that a memory took the place of, whole or in part: kept for ``detach``."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.hosts import ValueSlice, input_output


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


class Remainder(Resting):
    """What is left of a fused linear map when something makes one slice of its output: the slice is not computed.

    Its parameters are views of the host's own weights: a host that learns while the memory is attached has learned
    when it is detached, and one that does not is what it was, bit for bit.

    Attributes:
        weight: ``[in, R]``, R maybe spread over dimensions.
        bias: ``[R]`` or None.
    """

    def __init__(self, module: nn.Module, where: ValueSlice, heads: int, dim: int) -> None:
        super().__init__(module)
        self._slice = (where, heads, dim)
        weight, bias = self._views()
        whole: Any = module
        self.weight = nn.Parameter(weight, requires_grad=whole.weight.requires_grad)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=whole.bias.requires_grad)

    def _views(self) -> tuple[Tensor, Tensor | None]:
        (where, heads, dim), module = self._slice, self._kept[0]
        bias: Tensor | None = getattr(module, "bias", None)
        return (
            where.rest(input_output(module).detach(), heads, dim),
            None if bias is None else where.rest(bias.detach(), heads, dim),
        )

    @property
    def module(self) -> nn.Module:
        """The whole module, with what its remaining part has learned."""
        for mine, view in zip((self.weight, self.bias), self._views(), strict=True):
            # Whoever gave the parameter other memory (a sharding wrapper, a cast) took it away from the host's.
            if mine is not None and view is not None and mine.data_ptr() != view.data_ptr():
                view.copy_(mine.detach())
        return self._kept[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., R]``."""
        return F.linear(hidden, self.weight.flatten(1).t(), None if self.bias is None else self.bias.flatten())

    def _apply(self, fn: Any, recurse: bool = True) -> Remainder:
        super()._apply(fn, recurse)
        for mine, view in zip((self.weight, self.bias), self._views(), strict=True):
            if mine is not None and view is not None:
                mine.data = view
                mine.grad = None if mine.grad is None else fn(mine.grad)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Remainder:
        """A copy's parameters are views of the copy's own weights."""
        twin = Remainder(copy.deepcopy(self.module, memo), *self._slice)
        memo[id(self)] = twin
        for mine, other in zip((self.weight, self.bias), (twin.weight, twin.bias), strict=True):
            if mine is not None and other is not None:
                other.requires_grad_(mine.requires_grad)
                memo[id(mine)] = other
        twin.training = self.training
        return twin

    def extra_repr(self) -> str:
        return f"{type(self._kept[0]).__name__}, replaced in part"
