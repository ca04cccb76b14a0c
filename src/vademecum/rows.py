"""The optimizer of banks: its state is by row, and a step touches only the rows that were read."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from vademecum import roles
from vademecum.memory.bank import Bank
from vademecum.memory.base import Role
from vademecum.memory.ledger import Ledger
from vademecum.state import Rows
from vademecum.stores.base import Store
from vademecum.stores.ram import Ram
from vademecum.surgery import memories

DECAY, EPS = 0.95, 1e-8


@dataclass(frozen=True)
class Rule:
    """How gradients of rows become steps.

    Attributes:
        state: names of the state's tables with the shape of their rows, given a bank's ``(M, W)``.
        direction: ``(gradients [U, M, W], state by name, number of the step from 1) -> direction [U, M, W]``, about 1
            per value; changes the state tensors in place. May overwrite the gradients, which are a copy.
    """

    state: Mapping[str, Callable[[tuple[int, int]], tuple[int, ...]]]
    direction: Callable[[Tensor, Mapping[str, Tensor], int], Tensor]


def _rms(grads: Tensor, state: Mapping[str, Tensor], step: int) -> Tensor:
    """RMSprop of a slot (decay 0.95) over its width and over all steps, those in which it was not read included.

    A step that does not read a row has the gradient zero for it: what the mean square lost since is made up for when
    the row is read again, so this is what stepping the whole table would do, bias correction included.
    """
    seen, last = state["square"], state["last"]
    seen.mul_(DECAY ** (step - last)).add_(grads.square().mean(-1), alpha=1 - DECAY)
    last.fill_(step)
    return grads.div_(seen.div(1 - DECAY**step).sqrt_().add_(EPS).unsqueeze(-1))


def _adam(grads: Tensor, state: Mapping[str, Tensor], step: int) -> Tensor:
    """Adam (0.9, 0.95) of every value, its bias corrected by the times that the row was read."""
    first, second, count = state["first"], state["second"], state["count"].add_(1)
    first.lerp_(grads, 0.1)
    second.lerp_(grads.square_(), 0.05)
    scale = (1 - 0.95**count).sqrt_() / (1 - 0.9**count)
    return first.div(second.sqrt().add_(EPS)).mul_(scale.unsqueeze(-1))


#: ``rms`` keeps one number per slot of a row and one per row, ``adam`` two per value and one per slot.
RULES: Mapping[str, Rule] = {
    "rms": Rule({"square": lambda row: row[:1], "last": lambda row: (1,)}, _rms),
    "adam": Rule({"first": lambda row: row, "second": lambda row: row, "count": lambda row: row[:1]}, _adam),
}


@dataclass
class _Held:
    """One bank while it is trained."""

    bank: Bank
    state: dict[str, Store]
    lr: float

    @property
    def table(self) -> Store:
        """The rows; asked for anew each time, since a model may be moved or cast between two steps."""
        return self.bank.table()


class RowOptimizer:
    """Trains the banks of a model wherever they live, by the rows that were read.

    While it exists the distinct rows of a forward are leaves of autograd in place of the table, so neither gradient nor
    state nor step is of the table's size. A bank in RAM or on disk learns the same bits as one on the device. Rows of
    bf16 are rounded stochastically, since a step is often smaller than half of what their next value lies away.

        optimizer = torch.optim.AdamW(vm.param_groups(model, lr=1e-3))   # everything but the banks
        rows = vm.RowOptimizer(model, lr=1e-3)                           # make it before param_groups
        loss.backward(); optimizer.step(); rows.step(); optimizer.zero_grad(); rows.zero_grad()

    Like those of ``torch.optim``, gradients add up until :meth:`zero_grad`. Several processes step by the mean of their
    gradients; banks in RAM or on disk must start alike in all of them (the same seed, or the same file), since nothing
    but parameters is broadcast by DistributedDataParallel.

    Attributes:
        lr: the host's learning rate; a bank's is this times 60 over its slots, as in :func:`vademecum.param_groups`.
            Change it for a schedule.
        steps: steps made.
    """

    def __init__(self, model: nn.Module, *, lr: float, rule: str = "rms", seed: int = 0) -> None:
        """Take over the banks of ``model``: those on the device that are trainable, and all others.

        Args:
            model: with memories.
            lr: the host's learning rate.
            rule: ``"rms"`` (one number per slot of a row, and one per row), or ``"adam"`` (two per value).
            seed: of stochastic rounding.

        Raises:
            ValueError: nothing is attached, an unknown rule, a rate that is no positive number, or a bank that
                another row optimizer holds or that can only be read.
            OSError: there is no room for the state; the banks are then as they were.
        """
        if rule not in RULES:
            near = difflib.get_close_matches(str(rule), RULES, n=1, cutoff=0)[0]
            raise ValueError(f"rule={rule!r} was given; did you mean {near!r}? Write one of {', '.join(RULES)}.")
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
            raise ValueError(f"lr={lr!r} was given; expected a positive number, such as lr=1e-3.")
        self.lr, self.steps = lr, 0
        self._rule, self._seed = RULES[rule], seed
        self._torn = self._released = False
        banks = {name: bank for name, bank in memories(model).banks().items() if _trainable(bank)}
        for name, bank in banks.items():
            _require_free(name, bank)
        # All state is made before the first bank is touched: where there is no room for it, nothing has changed.
        shapes = self._rule.state.items()
        state = {
            name: {entry: bank.beside(entry, shape(bank.row_shape)) for entry, shape in shapes}
            for name, bank in banks.items()
        }
        self._held = {name: self._take(bank, state[name]) for name, bank in banks.items()}

    def __len__(self) -> int:
        """How many banks it trains."""
        return len(self._held)

    def grad_norms(self) -> list[Tensor]:
        """Norm of each bank's gradient, 0-d, of those that were read; call once backward is done."""
        merged = (_ledger(held.bank).merge() for held in self._held.values())
        return [found[1].norm() for found in merged if found is not None]

    @torch.no_grad()
    def step(self, *, factor: float = 1.0, scale: float = 1.0) -> None:
        """Step the rows that were read.

        Args:
            factor: of a schedule, on the learning rate.
            scale: on the gradients, for clipping.

        Raises:
            FloatingPointError: a gradient is not finite; nothing was changed.
            OSError: a file took no more rows; what was saved before stands, and this optimizer steps no more.
            RuntimeError: it was released, or a step before was torn.
        """
        self._require_whole()
        found = {name: _ledger(held.bank).merge() for name, held in self._held.items()}
        for name, read in found.items():
            if read is not None and not bool(torch.isfinite(read[1]).all()):
                bad = int(read[0][~torch.isfinite(read[1]).flatten(1).all(1)][0])
                raise FloatingPointError(
                    f"the gradient of row {bad} of {name} is not finite; nothing was changed: leave this step out with "
                    "zero_grad(), and lower the learning rate if it happens again."
                )
        self._torn = True
        for number, (name, held) in enumerate(self._held.items()):
            read = found[name]
            if read is not None:
                self._step_one(held, number, *read, rate=self.lr * held.lr * factor, scale=scale)
        self._torn = False
        self.steps += 1

    def _step_one(self, held: _Held, number: int, ids: Tensor, grads: Tensor, *, rate: float, scale: float) -> None:
        grads = grads.view(len(ids), *held.bank.row_shape).mul(scale)
        if held.table.place != "device":
            ids = ids.cpu()
        state = {name: table.gather(ids).to(grads.device) for name, table in held.state.items()}
        direction = self._rule.direction(grads, state, self.steps + 1)
        rows = held.table.gather(ids).to(grads.device)
        new = rows.float().sub_(direction, alpha=rate)
        held.table.write(ids, new if rows.dtype == new.dtype else self._rounded(new, rows.dtype, number))
        for name, table in held.state.items():
            table.write(ids, state[name])

    def zero_grad(self) -> None:
        """Forget what was read."""
        for held in self._held.values():
            _ledger(held.bank).clear()

    def state_dict(self) -> dict[str, Rows]:
        """All state by ``entry/bank``, such as ``square/move.shared.weight``, and ``steps``."""
        found: dict[str, Rows] = {
            f"{entry}/{name}": table.tensor if isinstance(table, Ram) else table
            for name, held in self._held.items()
            for entry, table in held.state.items()
        }
        return found | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Rows]) -> None:
        """Take what :meth:`state_dict` gave, copied.

        Raises:
            ValueError: it is another model's, another rule's, or incomplete.
        """
        mine = self.state_dict()
        for key in sorted(mine.keys() ^ state.keys()):
            raise ValueError(
                f"the given state {'lacks' if key in mine else 'has'} {key!r}, which this row optimizer "
                f"{'needs' if key in mine else 'does not know'}; load what was saved with the same memory and rule."
            )
        for key, given in state.items():
            if tuple(given.shape) != tuple(mine[key].shape):
                raise ValueError(f"the state {key!r} is {list(given.shape)}, expected {list(mine[key].shape)}.")
        for name, held in self._held.items():
            for entry, table in held.state.items():
                given = state[f"{entry}/{name}"]
                table.fill((Ram(given) if isinstance(given, Tensor) else given).chunks())
        steps: Any = state["steps"]
        self.steps = int(steps)

    def release(self) -> None:
        """Give the banks back: one on the device is a trainable parameter again. Its own state goes."""
        for held in self._held.values():
            held.bank.lend(None)
            for table in held.state.values():
                table.discard()
        self._held.clear()
        self._released = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, bank: Bank, state: dict[str, Store]) -> _Held:
        bank.lend(Ledger(), beside=list(state.values()))
        return _Held(bank, state, roles.LR_RATIO[Role.BANK] * bank.lr_scale)

    def _require_whole(self) -> None:
        if self._released:
            raise RuntimeError("this row optimizer was released; make a new one to train the banks.")
        if self._torn:
            raise RuntimeError(
                "a step of this row optimizer was torn while rows were written, so some are of the next step and some "
                "are not; go on from what was saved last."
            )

    def _rounded(self, values: Tensor, dtype: torch.dtype, number: int) -> Tensor:
        if dtype != torch.bfloat16:
            return values.to(dtype)
        # Drawn on the CPU from the step alone: the same whatever the device and wherever the rows live.
        drawn_by = ((self._seed * 1_000_003 + self.steps) * 1_009 + number) % 2**63
        generator = torch.Generator().manual_seed(drawn_by)
        noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=generator)
        return round_stochastically(values, noise.to(values.device))


def round_stochastically(values: Tensor, noise: Tensor) -> Tensor:
    """``values`` in fp32 to bf16, up or down with the chance that makes the mean right.

    Args:
        values: fp32.
        noise: int32 of the same shape, uniform in 0 .. 65535.
    """
    # bf16 is fp32 without its lower 16 bits: adding noise to them carries into the rest in proportion to their size.
    bits = values.view(torch.int32) + noise
    rounded = (bits & -65536).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def _trainable(bank: Bank) -> bool:
    return bank.weight is None or bank.weight.requires_grad or bank.ledger is not None


def _require_free(name: str, bank: Bank) -> None:
    if bank.ledger is not None:
        raise ValueError(f"another row optimizer trains {name}; call its release() first.")
    if bank.rewrites is not None and bank.rewrites.laid:
        raise ValueError(f"{name} has edited rows, which training would move; undo those edits first.")
    if bank.store is not None and bank.store.refusal:
        raise ValueError(f"{name} cannot be trained: {bank.store.refusal}")


def _ledger(bank: Bank) -> Ledger:
    assert bank.ledger is not None
    return bank.ledger
