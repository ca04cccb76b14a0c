"""Rules for which of a host's layers get a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index


@dataclass(frozen=True)
class Every:
    """Every ``step``-th layer, counted back from the last one so that the last layer is always among them."""

    step: int

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"every({self.step}) was given; expected a step of 1 or more, such as every(2).")


Layers = str | int | Sequence[int] | Every


def every(step: int) -> Every:
    """Rule for ``layers=``: every ``step``-th layer, the last one included."""
    return Every(step)


def chosen_layers(layers: Layers, count: int, kind: str) -> tuple[int, ...]:
    """Layers that a rule picks out of ``count``; negative numbers count from the end, ``"middle"`` is one layer."""
    if isinstance(layers, Every):
        return tuple(i for i in range(count) if (count - 1 - i) % layers.step == 0)
    if layers == "all":
        return tuple(range(count))
    if layers == "middle":
        return (count // 2,)
    if isinstance(layers, int):
        layers = (layers,)
    numbers = [] if isinstance(layers, str) else [index(i) for i in layers if hasattr(i, "__index__")]
    if isinstance(layers, str) or not numbers or len(numbers) < len(layers):
        raise ValueError(
            f"{kind}(layers={layers!r}) was given; expected 'all', 'middle', a list of layer numbers or every(n), "
            f"for instance layers=[0, {count - 1}]."
        )
    wrong = [i for i in numbers if not -count <= i < count]
    if wrong:
        raise ValueError(
            f"{kind}(layers={list(layers)}) names layer {wrong[0]}, but the host has layers 0 to {count - 1}; "
            f"leave it out or write layers='all'."
        )
    return tuple(sorted({i % count for i in numbers}))
