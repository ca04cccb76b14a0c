"""Tables of a layer's own, by token id, that take the place of what one of the host's linear maps computes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vademecum.lookup import Frame
from vademecum.memory.bank import Bank, rows_at
from vademecum.memory.base import Cost, InputPart, Part, Role, Source, dense_cost


class Scale(nn.Module):
    """A learned factor, or one for each of ``width`` channels; starts at 1, role ``router``."""

    role: ClassVar[Role] = Role.ROUTER

    def __init__(self, width: int | None, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones([] if width is None else [width], dtype=dtype, device=device))

    def forward(self, given: Tensor) -> Tensor:
        """``given`` ``[..., width]`` times the factor."""
        return given * self.weight


def normalised(given: Tensor, eps: float = 1e-6) -> Tensor:
    """``given`` over the root of its mean square along the last dimension, computed in fp32 or wider."""
    wide = given if given.dtype == torch.float64 else given.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(given.dtype)


class OwnRows(Part):
    """A part that reads the row of each token from a bank of its own."""

    bank: Bank

    def prepare(self, frame: Frame) -> None:
        # Before the layers: a compiled graph is then broken once, if rows come from a store.
        if not frame.muted:
            frame.shared[self.key] = self.bank.read(frame)

    def rows(self, frame: Frame, like: Tensor) -> Tensor:
        """``[B, T, H, D]`` of a bank with one slot, in the type that layers compute in at ``like`` ``[B, T, ...]``."""
        kept = frame.shared[self.key].to(like.device)
        read = rows_at(kept, frame.addresses().on(like.device))
        cast = torch.is_autocast_enabled(like.device.type)
        dtype = torch.get_autocast_dtype(like.device.type) if cast else like.dtype
        return read.view(*like.shape[:-1], *read.shape[-2:]).to(dtype)

    def silent(self, like: Tensor) -> Tensor:
        """Zeros in the place of :meth:`rows`, for a memory that is knocked out."""
        return like.new_zeros(*like.shape[:-1], self.bank.heads, self.bank.dim)


class TableValues(OwnRows, Source):
    """``v = gamma E_l[id]``: values are looked up and scaled (Bank of Values)."""

    def __init__(self, bank: Bank, scale: Scale) -> None:
        super().__init__()
        self.bank, self.scale = bank, scale

    def forward(self, hidden: Tensor, frame: Frame, key: Tensor | None) -> Tensor:
        if frame.muted:
            return self.silent(hidden)
        rows = self.rows(frame, hidden)
        return self.scale(rows).to(rows.dtype)  # type: ignore[no-any-return]

    def cost(self) -> Cost:
        return self.bank.cost() + dense_cost(self.scale)


class KeyedValues(OwnRows, Source):
    """``v = k + norm(E_l[id])``: the attention's key and a row beside it (Memory Attention).

    Without ``norm`` rows are added as they are, the norm having been worked into them.
    """

    from_key = True

    def __init__(self, bank: Bank, scale: Scale | None) -> None:
        super().__init__()
        self.bank, self.scale = bank, scale

    def forward(self, hidden: Tensor, frame: Frame, key: Tensor | None) -> Tensor:
        assert key is not None
        if frame.muted:
            return key
        return key + self.normed(self.rows(frame, hidden)).to(key.dtype)

    def normed(self, rows: Tensor) -> Tensor:
        """What is added for rows ``[..., H, D]``."""
        return rows if self.scale is None else self.scale(normalised(rows))

    def tabulate(self, computed: Part) -> None:
        assert isinstance(computed, KeyedValues)
        before = computed.bank

        def folded(ids: Tensor) -> Tensor:
            rows = before.gathered(ids)
            return computed.normed(rows.view(-1, before.heads, before.dim))

        self.bank.dtype = before.dtype
        self.bank.begin_as(folded)

    def cost(self) -> Cost:
        return self.bank.cost() + (Cost() if self.scale is None else dense_cost(self.scale))


class TableUp(OwnRows, Source):
    """``U_l[id]`` in the place of a gated feed-forward's up-projection (STEM)."""

    site = "up"

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, hidden: Tensor, frame: Frame, key: Tensor | None) -> Tensor:
        return self.silent(hidden) if frame.muted else self.rows(frame, hidden)

    def cost(self) -> Cost:
        return self.bank.cost()


class TableFactor(OwnRows, InputPart):
    """``E_l[id]`` times what goes into a feed-forward's down-projection (DeepEmbed)."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, given: Tensor, frame: Frame) -> Tensor:
        return given if frame.muted else given * self.rows(frame, given).flatten(-2).to(given.dtype)

    def cost(self) -> Cost:
        return self.bank.cost()
