"""How a run is trained, as one frozen value that is kept beside its results."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("adamw", "muon")
BANK_RULES = ("rms", "adam")
DTYPES = ("fp32", "bf16")
MEMORY_SEED = 1_000_003  # far from the small seeds people choose, so that memory and host never draw the same numbers

#: Settings that change what is reported and kept, never what is learned: a run may go on with other values of these.
BOOKKEEPING = frozenset({"eval_every", "eval_tokens", "watch_tokens", "checkpoint_every", "keep"})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run; every wrong value is a ValueError that says what to write instead.

    Attributes:
        steps: optimizer steps.
        batch: sequences per forward.
        length: tokens per sequence.
        lr: peak learning rate; ``vm.param_groups`` turns it into one rate per role.
        embedding_ratio: rate of the host's input embedding over ``lr`` where it is not tied to the head. Lookup tables
            want large steps, a host's own as much as a bank's (decision 0004).
        optimizer: "adamw", or "muon" for the host's matrices with AdamW for everything else.
        bank_rule: how rows of banks are stepped, by :data:`vademecum.rows.RULES`.
        warmup: share of the steps in which the rate rises from 0 to its peak.
        decay: share of the steps, at the end, in which it falls to 0.
        weight_decay: decoupled decay of matrices; vectors and banks have none.
        clip: largest gradient norm of each role; 0 leaves gradients alone.
        accumulate: forwards per step; a step sees ``accumulate * batch * length`` tokens.
        dtype: "fp32", or "bf16" for autocast (weights and optimizer stay fp32).
        seed: data order and dropout.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        eval_tokens: held-out tokens per evaluation; 0 takes all.
        watch_tokens: held-out tokens at each evaluation over which load, slots and gates are described; 0 for none.
        checkpoint_every: steps between checkpoints; 0 writes one at the end only.
        keep: checkpoints kept, the newest ones.
    """

    steps: int = 1000
    batch: int = 8
    length: int = 256
    lr: float = 6e-3
    embedding_ratio: float = 20.0
    optimizer: str = "adamw"
    bank_rule: str = "rms"
    warmup: float = 0.05
    decay: float = 0.3
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    dtype: str = "fp32"
    seed: int = 0
    eval_every: int = 0
    eval_tokens: int = 100_000
    watch_tokens: int = 2048
    checkpoint_every: int = 500
    keep: int = 2

    @classmethod
    def for_host(cls, *, pretrained: bool, lr: float | None = None, **settings: Any) -> Recipe:
        """A recipe with the rates that suit the host: one from scratch, or one that has learned already.

        A pretrained host moves slowly (3e-4), its embedding no faster than the rest of it.
        """
        rates: dict[str, Any] = {"lr": 3e-4, "embedding_ratio": 1.0} if pretrained else {}
        return cls(**rates | ({} if lr is None else {"lr": lr}) | settings)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "accumulate", "keep"):
            self._require_integer(name, 1)
        for name in ("seed", "eval_every", "eval_tokens", "watch_tokens", "checkpoint_every"):
            self._require_integer(name, 0)
        if self.seed > 2**62:
            raise ValueError(f"seed={self.seed} was given; expected a whole number from 0 to 2**62, such as 0.")
        for name in ("lr", "embedding_ratio", "warmup", "decay", "weight_decay", "clip"):
            self._require_number(name)
        if self.lr == 0:
            raise ValueError("lr=0 was given, with which nothing is learned; write a rate such as lr=3e-3.")
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup={self.warmup} and decay={self.decay} are shares of the run that together exceed 1; "
                "write for instance warmup=0.05, decay=0.3."
            )
        self._require_choice("optimizer", OPTIMIZERS)
        self._require_choice("dtype", DTYPES)
        self._require_choice("bank_rule", BANK_RULES)
        if self.eval_tokens and self.eval_tokens < self.length:
            raise ValueError(
                f"eval_tokens={self.eval_tokens} is less than one sequence of length={self.length}; "
                f"write eval_tokens={self.length} or more, or 0 for all held-out text."
            )

    @property
    def tokens_per_step(self) -> int:
        """Target tokens that one optimizer step learns from."""
        return self.accumulate * self.batch * self.length

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as kept in ``run.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`; an unknown setting is a ValueError."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
                raise ValueError(f"a recipe has no setting {name!r}; did you mean {near!r}?")
        return cls(**values)

    def learning(self) -> dict[str, Any]:
        """The settings that decide what is learned; two runs with equal ones walk the same path."""
        return {name: value for name, value in self.to_dict().items() if name not in BOOKKEEPING}

    def _require_integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} was given; expected a whole number of {least} or more.")

    def _require_number(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            default = type(self).__dataclass_fields__[name].default
            raise ValueError(f"{name}={value!r} was given; expected a finite number of 0 or more, such as {default}.")

    def _require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0)[0]
            raise ValueError(f"{name}={value!r} was given; expected {' or '.join(choices)}, perhaps {name}={near!r}.")
