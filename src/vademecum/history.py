"""What came before a forward, where a key-value cache stands for it: token ids, and what layers left for later.

A memory that looks back more than one token needs them, and a forward is given only what is new. They are kept on the
cache itself: a cache that is copied takes them along, one that is cut back makes the rest meaningless, and where beams
are reordered they are reordered too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: More tokens than any text has: a memory that looks back to the beginning.
WHOLE = 2**62
_KEPT = "vademecum_ids"
_LEFT = "vademecum_left"


def of_output(output: Any) -> Any | None:
    """The cache in what a base model returned, or None."""
    if hasattr(output, "past_key_values"):
        return output.past_key_values
    if isinstance(output, tuple):
        return next((one for one in output if hasattr(one, "get_seq_length")), None)
    return None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def before(kept: Any | None, texts: int, back: int) -> Tensor | None:
    """``[B, n]`` the last ids that ``kept`` stands for, at most ``back``; None where it is empty.

    Args:
        kept: the cache that a forward is given, or None.
        texts: B of the forward.
        back: how far the memory looks.

    Raises:
        RuntimeError: the cache holds tokens whose ids were not seen, or not in this order.
    """
    length = 0 if kept is None else int(kept.get_seq_length())
    if length == 0:
        return None
    seen = getattr(kept, _KEPT, None)
    if seen is None or seen.shape[1] < length or len(seen) != texts:
        what = "no" if seen is None else f"{len(seen)} x {seen.shape[1]}"
        raise RuntimeError(
            f"the cache stands for {length} tokens of {texts} texts, and this memory, which looks back {_far(back)}, "
            f"saw {what} ids of them; let the model with its memory fill the cache, or give all ids so far as "
            f"memory_ids=, [batch, {length} + tokens of this forward]."
        )
    last: Tensor = seen[:, :length][:, -back:]
    return last


def _far(back: int) -> str:
    return "to the beginning of the text" if back >= WHOLE else f"{back} tokens"


@torch.compiler.disable  # type: ignore[untyped-decorator]
def remember(kept: Any | None, ids: Tensor, came_before: Tensor | None) -> None:
    """Note on ``kept`` that a forward of ``ids`` filled it.

    Args:
        kept: the cache after the forward, or None.
        ids: ``[B, T]`` of the forward's tokens; negative where one is padding.
        came_before: ``[B, n]`` what the forward knew of those before.
    """
    if kept is None:
        return
    earlier = int(kept.get_seq_length()) - ids.shape[1]
    seen = getattr(kept, _KEPT, None)
    if came_before is not None and came_before.shape[1] == earlier:
        seen = came_before
    if earlier < 0 or (earlier and (seen is None or seen.shape[1] < earlier)):
        return  # nothing that a later forward could rely on; it will say so
    _remember_with(kept)
    setattr(kept, _KEPT, ids if earlier == 0 else torch.cat([seen[:, :earlier].to(ids.device), ids], 1))  # type: ignore[index]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def carried(kept: Any | None, texts: int, back: Mapping[str, int]) -> dict[str, Tensor]:
    """By layer key, ``[B, n, ...]`` the last steps that ``kept`` stands for; none where it is empty.

    Args:
        kept: the cache that a forward is given, or None.
        texts: B of the forward.
        back: by layer key, how many steps it reads.

    Raises:
        RuntimeError: the cache was not filled with these layers, or was cut back further than they remember.
    """
    length = 0 if kept is None else int(kept.get_seq_length())
    if length == 0:
        return {}
    noted: tuple[int, dict[str, Tensor]] = getattr(kept, _LEFT, None) or (0, {})
    reached, left = noted
    found: dict[str, Tensor] = {}
    for key, count in back.items():
        steps = left.get(key)
        whole = 0 if steps is None else steps.shape[1] - (reached - length)
        if steps is None or len(steps) != texts or reached < length or whole < min(count, length):
            what = "nothing" if steps is None else f"the last {steps.shape[1]} of {reached} for {len(steps)} texts"
            raise RuntimeError(
                f"the cache stands for {length} tokens of {texts} texts, and {key}, which reads {count} steps of its "
                f"own before them, has kept {what}; let the model with its memory fill the cache, or begin anew "
                f"without one."
            )
        found[key] = steps[:, :whole]
    return found


@torch.compiler.disable  # type: ignore[untyped-decorator]
def leave(kept: Any | None, left: Mapping[str, Tensor]) -> None:
    """Note on ``kept`` what layers leave after the forward that filled it."""
    if kept is not None and left:
        _remember_with(kept)
        setattr(kept, _LEFT, (int(kept.get_seq_length()), dict(left)))


def _remember_with(kept: Any) -> None:
    if not isinstance(kept, Remembering):
        cls: type = type(kept)
        kept.__class__ = _remembering(cls)


class Remembering:
    """What a cache does with what it remembers where it moves its texts about; mixed into the cache's own class."""

    vademecum_ids: Tensor | None = None
    vademecum_left: tuple[int, dict[str, Tensor]] | None = None

    def _each(self, moved: Callable[[Tensor], Tensor]) -> None:
        if self.vademecum_ids is not None:
            self.vademecum_ids = moved(self.vademecum_ids)
        if self.vademecum_left is not None:
            reached, left = self.vademecum_left
            self.vademecum_left = (reached, {key: moved(steps) for key, steps in left.items()})

    def _moved(self, index: Tensor) -> None:
        self._each(lambda one: one[index.to(one.device)])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As the cache does."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._moved(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """As the cache does."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._moved(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As the cache does."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._each(lambda one: one.repeat_interleave(repeats, 0))

    def reset(self) -> None:
        """As the cache does."""
        super().reset()  # type: ignore[misc]
        self.vademecum_ids = self.vademecum_left = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A pickle finds classes by name, and this one is made where it is needed: it is made anew from the cache's own.
        return _blank, (type(self).__bases__[1],), self.__dict__


def _blank(cls: type) -> Any:
    """A remembering cache of class ``cls`` with nothing in it, for a pickle to fill."""
    made = _remembering(cls)
    return object.__new__(made)


@cache
def _remembering(cls: type) -> type:
    return type(f"Remembering{cls.__name__}", (Remembering, cls), {"__module__": cls.__module__})
