"""Rows that are looked up, not computed."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vademecum.lookup import Frame, Lookup
from vademecum.memory.base import Cost, Role, Shared
from vademecum.memory.ledger import Ledger
from vademecum.ops.codes import Format, decode, mix_codes
from vademecum.ops.mix import shared_rows
from vademecum.stores.base import Store
from vademecum.stores.coded import Coded
from vademecum.stores.disk import Disk
from vademecum.stores.ram import Ram

#: Name of the one tensor in a bank's own file.
TENSOR = "weight"


@dataclass(frozen=True)
class CodedRows:
    """A forward's distinct rows, still in codes.

    Attributes:
        codes: uint8 ``[U, row_bytes]``.
        form: what they are in.
        dim: width D of a head.
        slots, heads: M and H.
    """

    codes: Tensor
    form: Format
    dim: int
    slots: int
    heads: int

    def to(self, device: torch.device) -> CodedRows:
        """The same rows on another device."""
        return self if self.codes.device == device else dataclasses.replace(self, codes=self.codes.to(device))

    def mixed(self, gates: Tensor, lookup: Lookup) -> Tensor:
        """The mix ``[N, H, D]``, rows decoded inside of it."""
        return mix_codes(gates, self.codes, self.form, lookup, self.dim)

    def decoded(self) -> Tensor:
        """``[U, M, H, D]`` in fp32."""
        rows = decode(self.codes, self.form, self.slots, self.heads * self.dim)
        return rows.view(-1, self.slots, self.heads, self.dim)


class Bank(Shared):
    """A table with M slots of H x D values for every address, such as a token id.

    Only the distinct rows of a forward are read, whatever the table's size. It is described first and placed by
    ``attach`` (:meth:`place`): as a parameter on the host's device, or in a store in main memory or a file.

    Attributes:
        by_token: whether row t is read where token id t stands, and nowhere else.
        values: whether its rows are added to the value stream, or are the value, as they are; with ``by_token`` a fact
            can then be written into the rows of its subject (:func:`vademecum.editing.rows.banks_of`).
        weight: ``[rows, M, H*D]``, role ``bank``; None where the rows live in a store.
        store: the rows, where they are no parameter.
        ledger: where gradients of rows go while a row optimizer trains the bank; None otherwise.
        rewrites: what an edit laid over rows (:class:`vademecum.memory.rewrites.Rewrites`); None where none did.
        lr_scale: the optimizer's step relative to a single slot's. All slots of a token receive nearly the same
            gradient while their gates are near 1, so a step of size lr moves the value by about M*lr; dividing by M
            keeps the effective step independent of the number of slots.
    """

    role: ClassVar[Role] = Role.BANK

    def __init__(
        self,
        rows: int,
        slots: int,
        heads: int,
        dim: int,
        *,
        std: float,
        dtype: torch.dtype,
        device: torch.device,
        by_token: bool = False,
        values: bool = False,
        start: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Describe a table whose rows start around what ``start`` says, with standard deviation ``std``.

        ``start`` gives ``[n, M, H*D]`` for rows ``[n]`` of the table, zeros where it is None. It is asked once, when
        the table is placed, a slice at a time.
        """
        super().__init__()
        self.rows, self.slots, self.heads, self.dim = rows, slots, heads, dim
        self.std, self.dtype, self.device = std, dtype, device
        self.by_token, self.values = by_token, values
        self._around = start
        self.lr_scale = 1.0 / slots
        self.weight: nn.Parameter | None
        self.register_parameter("weight", None)
        self.store: Store | None = None
        self.ledger: Ledger | None = None
        self.rewrites: Any = None
        self._cap = 0  # what the store may keep when its rows are not lent

    @property
    def row_shape(self) -> tuple[int, int]:
        """``(M, H*D)``."""
        return (self.slots, self.heads * self.dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows where they live."""
        if self.store is not None:
            return self.store.nbytes
        if self.weight is not None:
            return self.weight.nbytes
        return self.rows * self.slots * self.heads * self.dim * self.dtype.itemsize

    def begin_as(self, rows: Callable[[Tensor], Tensor]) -> None:
        """Let the table start as ``rows`` says, instead of as it was described; before it is placed."""
        self._around, self.std = rows, 0.0

    def place(self, where: str, file: Path, cap: int) -> None:
        """Make the table and give its rows their start.

        Args:
            where: ``"device"``, ``"ram"`` or ``"disk"``.
            file: where a bank on disk keeps its rows; replaced if it is there.
            cap: bytes of a bank on disk that may be kept in memory.
        """
        if where == "device":
            self.weight = nn.Parameter(torch.zeros(self.rows, *self.row_shape, dtype=self.dtype, device=self.device))
        elif where == "ram":
            self.store = Ram(torch.zeros(self.rows, *self.row_shape, dtype=self.dtype))
        else:
            self.store = Disk.create(file, TENSOR, self.rows, self.row_shape, self.dtype, cap=cap)
        try:
            if self.std or self._around is not None:
                table = self.table()
                table.fill(self._start(table))
        except BaseException:
            self.table().discard()
            raise
        self._around = None  # it may hold on to a host

    def lend(self, ledger: Ledger | None, beside: Sequence[Store] = ()) -> None:
        """Hand the rows to a row optimizer, or take them back (None).

        Args:
            ledger: where gradients of rows go from now on.
            beside: the optimizer's own tables; on disk they share with the bank the memory that it may take.
        """
        if self.weight is not None and (ledger is None) != (self.ledger is None):
            # While it is lent, other optimizers and what counts trainable parameters leave it alone.
            self.weight.requires_grad_(ledger is None)
        if isinstance(self.store, Disk):
            self._cap = self._cap or self.store.cap
            shared = [self.store, *(table for table in beside if isinstance(table, Disk))]
            total = sum(table.row_bytes for table in shared)
            for table in shared:
                table.recap(self._cap * table.row_bytes // max(1, total))
        self.ledger = ledger

    def __deepcopy__(self, memo: dict[int, Any]) -> Bank:
        """A copy is lent to nobody: on the device its rows are a trainable parameter."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        if self.ledger is not None and twin.weight is not None:
            twin.weight.requires_grad_(True)
        return twin

    def put(self, store: Store) -> None:
        """Take the rows from ``store``, which has them already."""
        self.register_parameter("weight", None)
        self.store = store
        self._around = None

    def table(self) -> Store:
        """The rows as a store, wherever they live."""
        if self.store is not None:
            return self.store
        assert self.weight is not None, "a bank is placed before it is used"
        return Ram(self.weight, place="device")

    def gathered(self, rows: Tensor) -> Tensor:
        """``[n, *row_shape]`` of ``rows`` ``[n]``, outside of any forward."""
        table = self.table()
        return table.gather(rows.to(self.weight.device) if self.weight is not None else rows.cpu())

    def beside(self, name: str, row_shape: tuple[int, ...]) -> Store:
        """Another table of fp32 zeros, of as many rows, where the bank's rows are: an optimizer's state."""
        if isinstance(self.store, Disk):
            file = self.store.path.with_name(f"{self.store.path.stem}.{name}{self.store.path.suffix}")
            return Disk.create(file, TENSOR, self.rows, row_shape, torch.float32, cap=self.store.cap)
        device = "cpu" if self.weight is None else self.weight.device
        return Ram(torch.zeros(self.rows, *row_shape, device=device), place=self.where)

    def read(self, frame: Frame) -> Any:
        """Rows ``[U, M, H, D]`` of the forward's distinct ids; in a compiled graph the table itself.

        Raises:
            ValueError: as :meth:`at`.
        """
        return self.at(frame.addresses(), frame)

    def at(self, lookup: Lookup, frame: Frame) -> Tensor | CodedRows:
        """Rows ``[U, M, H, D]`` of the distinct addresses in ``lookup``, whatever they were made from.

        Compressed rows stay in their codes, unless a gradient will pass by them, or there is but one token, whose row
        is decoded once for all layers.

        Raises:
            ValueError: an address below 0 or past the last row (inside a compiled graph the index itself fails).
        """
        lookup.require_within(self.rows)
        if self.ledger is not None and torch.is_grad_enabled():
            rows = self._lent(lookup)
        elif self.weight is not None:
            rows = lookup.rows_of(self.weight)
        elif isinstance(self.store, Coded) and not (
            frame.training or torch.is_grad_enabled() or lookup.inverse.numel() == 1
        ):
            coded: CodedRows = self._coded(self.store, lookup)
            return coded
        else:
            rows = self._stored(lookup, frame.training and torch.is_grad_enabled())
        return shared_rows(rows.view(-1, self.slots, self.heads, self.dim), lookup)

    def addressed(self, addresses: Tensor) -> Lookup:
        """Rows ``addresses`` of any shape, in the order that suits where the table lies."""
        if not torch.compiler.is_compiling():
            return Lookup.of(addresses)
        # A compiled graph reads a table whole, and keeps its shapes; what lies in a store is ordered outside of it.
        return Lookup.of_table(addresses) if self.resident else _ordered(addresses)

    @property
    def resident(self) -> bool:
        """Whether its rows are a parameter that nobody borrowed."""
        return self.weight is not None and self.ledger is None

    def cost(self) -> Cost:
        """All rows are parameters; one row is read for a token."""
        row = self.slots * self.heads * self.dim
        return Cost(params=self.rows * row, active_params=row, bytes_per_token=self.nbytes // max(1, self.rows))

    def extra_repr(self) -> str:
        return f"rows={self.rows}, slots={self.slots}, heads={self.heads}, dim={self.dim}, {self.dtype}, {self.where}"

    @property
    def where(self) -> str:
        """Where the rows live, in a word."""
        return "device" if self.store is None else self.store.place

    # A compiler cannot look into a store: it breaks its graph here, once, before the first layer.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _stored(self, lookup: Lookup, training: bool) -> Tensor:
        assert self.store is not None
        self.store.require_room(len(lookup.unique))
        if training and not self.store.refusal:
            warnings.warn(
                f"a training forward read a bank in {self.store.place} that nobody trains: make a "
                "vm.RowOptimizer(model, lr=...) before the other optimizer, or attach with bank='device'.",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.store.gather(lookup.unique.cpu()).to(lookup.unique.device, self.dtype, non_blocking=True)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _coded(self, store: Coded, lookup: Lookup) -> CodedRows:
        store.stored.require_room(len(lookup.unique))
        codes = store.codes(lookup.unique.cpu()).to(lookup.unique.device)
        return CodedRows(codes, store.form, self.dim, self.slots, self.heads)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _lent(self, lookup: Lookup) -> Tensor:
        assert self.ledger is not None
        table = self.table()
        table.require_room(len(lookup.unique))
        ids = lookup.unique if table.place == "device" else lookup.unique.cpu()
        return self.ledger.lend(lookup.unique, table.gather(ids).to(lookup.unique.device))

    def _start(self, table: Store) -> Iterator[Tensor]:
        # Drawn on the CPU wherever the rows live, so that they start the same.
        for piece in table.slices():
            shape = (piece.stop - piece.start, *self.row_shape)
            rows = torch.empty(shape, dtype=self.dtype).normal_(std=self.std) if self.std else None
            if self._around is not None:
                around = self._around(torch.arange(piece.start, piece.stop)).detach().cpu().reshape(shape)
                rows = around if rows is None else around.float() + rows.float()
            assert rows is not None
            yield rows.to(self.dtype)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _ordered(addresses: Tensor) -> Lookup:
    return Lookup.of(addresses)


def rows_at(rows: Tensor | CodedRows, lookup: Lookup) -> Tensor:
    """The row of each address in ``lookup``: ``[N, M, H, D]`` of rows ``[U, M, H, D]``."""
    if isinstance(rows, CodedRows):
        rows = rows.decoded()
    lookup = lookup.on(rows.device)
    # As an embedding, whose gradient adds up in one order on a GPU too.
    return F.embedding(lookup.inverse, rows.flatten(1)).view(-1, *rows.shape[1:])
