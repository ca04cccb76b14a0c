"""Comparisons on pictures: presets, and a plan made to fit the pictures that are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vademecum.compare import commands
from vademecum.compare.arms import ARMS, Arm
from vademecum.compare.media.pictures import Pictures
from vademecum.compare.plan import Plan
from vademecum.training import Recipe


def _arms(*names: str) -> tuple[Arm, ...]:
    return tuple(ARMS[name] for name in names)


_SMALL = Plan(
    data=("animals",),
    arms=_arms("dense", "lave", "move-1", "move-4", "move-8", "moe", "move+moe"),
    seeds=(0, 1, 2),
    size=3,
    vocab_size=523,
    prompts=0,
    medium=Pictures(),
    recipe=Recipe(
        steps=600, batch=32, length=49, lr=3e-3, eval_every=100, eval_tokens=0, checkpoint_every=200, keep=2, seed=0
    ),
)
_STANDARD = dataclasses.replace(
    _SMALL,
    arms=_arms("dense", "dense-wide", "lave", "move-1", "move-2", "move-4", "move-8", "moe", "move+moe"),
    size=4,
    recipe=dataclasses.replace(_SMALL.recipe, steps=2000, eval_every=200, checkpoint_every=500),
)

PRESETS: Mapping[str, Plan] = {
    "small": _SMALL,
    "standard": _STANDARD,
    "latent": dataclasses.replace(
        _SMALL, host="deepseek_v3", arms=_arms("dense", "lave", "move-1", "move-4", "move-8", "moe", "move+moe")
    ),
    "smoke": dataclasses.replace(
        _SMALL,
        data=("digits",),
        arms=_arms("dense", "move-4"),
        seeds=(0, 1),
        size=2,
        chunk=4,
        medium=Pictures(codec="grey:levels=4", samples=20),
        recipe=dataclasses.replace(_SMALL.recipe, steps=12, batch=4, eval_every=6, checkpoint_every=6),
    ),
}
"""Plans by name; vocabulary and length are those of their pictures, and :func:`plan_of` sets them for others."""


def plan_of(
    preset: str,
    *,
    arms: Sequence[str] | None = None,
    source: str | None = None,
    medium: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    """A preset with what is given changed; None leaves the preset's value.

    Pictures and codec are made ready here, since they decide the vocabulary and the length of a picture: a learned
    codec is trained if it is not in the cache.

    Args:
        preset: one of :data:`PRESETS`.
        arms: as :meth:`Arm.parse` reads them.
        source: a named set or a folder.
        medium: settings of :class:`vademecum.compare.media.pictures.Pictures`.
        recipe: settings of the recipe.
        changes: fields of the plan, as :func:`vademecum.compare.commands.plan_of` takes them.
    """
    plan = commands.plan_of(
        preset, arms=arms, data=None if source is None else [source], recipe=recipe, presets=PRESETS, **changes
    )
    given = {name: value for name, value in (medium or {}).items() if value is not None}
    assert isinstance(plan.medium, Pictures)
    chosen = dataclasses.replace(plan.medium, **given)
    tokens = chosen.made(plan.data[0], progress=True).tokens
    return dataclasses.replace(
        plan,
        medium=chosen,
        vocab_size=tokens.vocab_size,
        recipe=dataclasses.replace(plan.recipe, length=tokens.length),
    )
