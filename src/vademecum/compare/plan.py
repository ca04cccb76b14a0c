"""How much is compared: sources, host, arms, seeds, recipe and what is held equal, as one frozen value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vademecum.compare import hybrid, media
from vademecum.compare.arms import ARMS, Arm
from vademecum.compare.media import Medium
from vademecum.compare.media.text import Text
from vademecum.compare.names import slug
from vademecum.compare.questions import Question
from vademecum.training import Recipe, presets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MATCHES: Mapping[str, str] = {
    "tokens": "every arm is trained on the same number of tokens",
    "flops": "every arm is trained for the same number of FLOPs; steps are scaled by the FLOPs per token",
    "seconds": "every arm is trained for about the same time; steps are scaled by the speed in a short calibration",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One comparison.

    ``data`` names sources (or files); ``arms`` run on all of them, ``curve`` (a scaling curve) on the first alone.
    ``recipe`` is that of the dense arm: ``match`` other than "tokens" changes ``steps`` per arm, and the seed is set
    per run. ``chunk`` is how many steps an arm makes before the next has its turn, ``heldout_tokens`` limits the
    final evaluation (0 takes all held-out text). ``questions`` are answered in the report, each by the paired
    difference of its two arms. ``budget`` is what arms with a share split between memory and experts: as many
    parameters as so many experts have. ``medium`` is what ``data`` names and what is shown of a model.
    """

    data: tuple[str, ...]
    arms: tuple[Arm, ...]
    recipe: Recipe
    seeds: tuple[int, ...] = (0, 1, 2)
    host: str = "qwen3"
    size: int = 4
    vocab_size: int = 4096
    match: str = "tokens"
    curve: tuple[Arm, ...] = ()
    chunk: int = 20
    prompts: int = 3
    heldout_tokens: int = 0
    device: str = "cpu"
    baseline: str = "dense"
    questions: tuple[Question, ...] = ()
    budget: int = hybrid.BUDGET
    medium: Medium = field(default_factory=Text)

    def __post_init__(self) -> None:
        presets.require(self.host, size=self.size, vocab_size=self.vocab_size)
        if self.match not in MATCHES:
            raise ValueError(f"match is '{self.match}'; it must be one of {', '.join(MATCHES)}.")
        if not self.data or not self.arms or not self.seeds:
            raise ValueError("a comparison needs at least one data source, one arm and one seed.")
        names = [arm.name for arm in (*self.arms, *self.curve)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"the arm '{doubled[0]}' is given twice; name every arm once.")
        for what, given in (("source", list(self.data)), ("arm", names)):
            folders = [slug(each) for each in given]
            same = [each for each, folder in zip(given, folders, strict=True) if folders.count(folder) > 1]
            if same:
                raise ValueError(
                    f"the {what}s {same[0]!r} and {same[1]!r} would share the folder {slug(same[0])}; give each "
                    f"{what} once, and rename one where only signs differ."
                )
        if self.baseline not in names:
            raise ValueError(
                f"the arms are {', '.join(names)}; '{self.baseline}', which the others are compared with, is not "
                "among them: add it."
            )
        for question in self.questions:
            for name in (question.arm, question.against):
                if name not in names:
                    raise ValueError(
                        f"the question '{question.text}' is about '{name}', and the arms are {', '.join(names)}: add "
                        "the arm or leave the question out."
                    )
        if self.budget < 1:
            raise ValueError(f"budget is {self.budget}; it must be at least one expert.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"the seeds are {self.seeds}; each must be given once, or the interval would be too narrow."
            )
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least one step.")

    def host_model(self, ffn_width: int | None = None) -> PreTrainedModel:
        """A new host, initialised from torch's current random state."""
        return presets.build_host(
            self.host, size=self.size, vocab_size=self.vocab_size, length=self.recipe.length, ffn_width=ffn_width
        )

    def arms_on(self, source: str) -> tuple[Arm, ...]:
        """Arms that run on ``source``: the curve's only on the first."""
        return self.arms + (self.curve if source == self.data[0] else ())

    def groups(self) -> Iterator[tuple[str, int]]:
        """(source, seed) as they are run: all sources per seed, so that a stopped comparison is even."""
        for seed in self.seeds:
            for source in self.data:
                yield source, seed

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as kept in ``plan.json``."""
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "data": list(self.data),
            "seeds": list(self.seeds),
            "arms": [arm.to_dict() for arm in self.arms],
            "curve": [arm.to_dict() for arm in self.curve],
            "questions": [question.to_dict() for question in self.questions],
            "recipe": self.recipe.to_dict(),
            "medium": self.medium.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_dict`."""
        return cls(
            **{
                **values,
                "data": tuple(values["data"]),
                "seeds": tuple(values["seeds"]),
                "arms": tuple(Arm.from_dict(arm) for arm in values["arms"]),
                "curve": tuple(Arm.from_dict(arm) for arm in values["curve"]),
                "questions": tuple(Question.from_dict(each) for each in values.get("questions", ())),
                "recipe": Recipe.from_dict(values["recipe"]),
                "medium": media.from_dict(values.get("medium", Text().to_dict())),
            }
        )

    def to_json(self) -> str:
        """Text of ``plan.json``: equal plans give equal text."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"


def _arms(*names: str) -> tuple[Arm, ...]:
    return tuple(ARMS[name] for name in names)


_FOUR = ("factbook", "wikipedia", "webster", "python")

_DEMO = Plan(
    data=("factbook",),
    arms=_arms("dense", "moe", "move", "move+moe"),
    seeds=(0, 1, 2),
    size=4,
    vocab_size=2048,
    heldout_tokens=60_000,
    recipe=Recipe(
        steps=240, batch=8, length=128, eval_every=40, eval_tokens=10_000, checkpoint_every=120, keep=2, seed=0
    ),
)
_STANDARD = dataclasses.replace(
    _DEMO,
    arms=_arms("dense", "dense-wide", "lave", "move", "moe", "move+moe"),
    curve=_arms("move-1", "move-2", "move-8"),
)

_SMOKE = Plan(
    data=("factbook",),
    arms=_arms("dense", "move", "moe"),
    seeds=(0, 1),
    size=2,
    vocab_size=512,
    chunk=4,
    prompts=1,
    heldout_tokens=2048,
    recipe=Recipe(steps=12, batch=2, length=32, eval_every=6, eval_tokens=512, checkpoint_every=4, keep=2, seed=0),
)
_HYBRID = dataclasses.replace(
    _DEMO,
    host="deepseek_v3",
    heldout_tokens=30_000,
    recipe=dataclasses.replace(_DEMO.recipe, steps=160, checkpoint_every=80),
    arms=(*hybrid.CORE, *hybrid.SPLIT, hybrid.WIDE),
    curve=hybrid.CURVE,
    questions=hybrid.QUESTIONS,
)

PRESETS: Mapping[str, Plan] = {
    "smoke": _SMOKE,
    "demo": _DEMO,
    "standard": _STANDARD,
    "hour": dataclasses.replace(_STANDARD, data=_FOUR),
    "hybrid": _HYBRID,
    "hybrid-smoke": dataclasses.replace(
        _HYBRID,
        **{
            name: getattr(_SMOKE, name) for name in ("seeds", "size", "vocab_size", "chunk", "heldout_tokens", "recipe")
        },
    ),
}
"""Plans by name. Those with a curve take its 4-slot point from the arm ``move``."""
