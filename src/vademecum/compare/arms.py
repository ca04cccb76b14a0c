"""What is compared: an arm is a name, the kinds it attaches and how the host is changed, all of it data.

Arms are matched on active compute. A mixture of experts with top-k routing gives each expert 1/k of the dense
feed-forward width, so that the k experts a token visits cost what the dense feed-forward costs. ``dense-wide`` asks
the other question: a dense host whose feed-forward is widened until its *total* parameters equal those of another
arm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

import vademecum as vm
from vademecum.training.recipe import MEMORY_SEED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vademecum.compare.plan import Plan
    from vademecum.memory.base import Kind


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing to compare.

    ``kinds`` holds specs as ``Kind.parse`` reads them ("move:slots=8"); none is the dense host. ``total_like`` names
    the kinds whose total parameters a widened dense feed-forward has to match. ``share`` makes ``kinds`` a pattern, one
    with slots and one with experts: so many percent of the plan's budget of sparse parameters go into the memory, and
    :func:`vademecum.compare.shares.resolve` says how many slots and experts that is, and in ``sparse`` how many
    parameters of memory and of experts it came to. ``ffn_width`` is the width of the host's feed-forward where it is
    not the host's own (:func:`vademecum.compare.matching.matched` finds it).
    """

    name: str
    kinds: tuple[str, ...] = ()
    total_like: tuple[str, ...] = ()
    note: str = ""
    share: float | None = None
    sparse: tuple[int, ...] = ()
    ffn_width: int | None = None

    @classmethod
    def parse(cls, text: str) -> Arm:
        """An arm by name ("lave") or kinds ("move:slots=4+moe:top_k=2"); ValueError for an unknown one."""
        text = text.strip()
        if text in ARMS:
            return ARMS[text]
        parts = tuple(part.strip() for part in text.split("+"))
        if not all(parts):
            raise ValueError(
                f"'{text}' is not an arm: write a name ({', '.join(ARMS)}) or kinds joined by '+', such as "
                "move:slots=4+moe:top_k=2."
            )
        for part in parts:
            try:
                vm.kinds.find(part.split(":", 1)[0])
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"'{text}' is not an arm: '{part}' names no kind. Arms with a name: {', '.join(ARMS)}; kinds: "
                    f"{', '.join(vm.kinds.all())}."
                ) from error
            vm.kinds.parse(part)
        return cls(name=text, kinds=parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as kept in ``plan.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Arm:
        """The inverse of :meth:`to_dict`."""
        return cls(
            name=values["name"],
            kinds=tuple(values["kinds"]),
            total_like=tuple(values["total_like"]),
            note=values["note"],
            share=values.get("share"),
            sparse=tuple(values.get("sparse", ())),
            ffn_width=values.get("ffn_width"),
        )


_MOVE = "move:slots=4"
_MOE = "moe:experts=16,top_k=4"

ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="dense", note="the host alone"),
        Arm(name="lave", kinds=("lave",), note="a table per layer in the value stream"),
        Arm(name="move", kinds=(_MOVE,), note="one table of 4 slots, shared by all layers, in the value stream"),
        Arm(
            name="moe", kinds=(_MOE,), note="16 experts, 4 per token, each a quarter as wide as the dense feed-forward"
        ),
        Arm(name="move+moe", kinds=(_MOVE, _MOE), note="both on one host"),
        Arm(name="dense-wide", total_like=(_MOVE,), note="no memory; feed-forward widened to MoVE's total parameters"),
        Arm(name="lave-half", kinds=("lave:layers=every2",), note="a table in every second layer"),
        Arm(name="lave+moe", kinds=("lave", _MOE), note="both on one host"),
        *(
            Arm(
                name=f"share-{percent}",
                kinds=("move", _MOE),
                share=percent,
                note=f"about {percent} % of the sparse parameters in MoVE's table, the others in experts",
            )
            for percent in (0, 20, 40, 100)
        ),
        *(Arm(name=f"move-{m}", kinds=(f"move:slots={m}",), note=f"MoVE with {m} slots") for m in (1, 2, 4, 8)),
    )
}
"""Arms with a name. The table's learning rate is divided by the slot count in ``vm.param_groups``, so slots differ in
capacity only.
"""


def kinds_of(specs: tuple[str, ...]) -> list[Kind]:
    """The kinds that ``specs`` such as "move:slots=8" describe."""
    return [vm.kinds.parse(spec) for spec in specs]


def build(arm: Arm, plan: Plan, *, seed: int, ffn_width: int | None = None) -> PreTrainedModel:
    """The arm's model: host first, from ``seed`` alone, then the memory from a seed of its own.

    Host weights of equal name and shape are therefore equal in all arms of one seed, also where one arm is wider.
    ``ffn_width`` is the width of a widened host (see :func:`host_width`). The caller's random state is left as it
    was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = plan.host_model()
        if ffn_width is not None and ffn_width != dense_width(plan):
            reference = model.state_dict()
            torch.manual_seed(seed)
            model = plan.host_model(ffn_width=ffn_width)
            same = {
                name: reference[name]
                for name, value in model.state_dict().items()
                if value.shape == reference[name].shape
            }
            model.load_state_dict(same, strict=False)
        torch.manual_seed(seed + MEMORY_SEED)
        vm.attach(model, *kinds_of(arm.kinds))
    return cast("PreTrainedModel", model.to(plan.device))  # type: ignore[arg-type]


def dense_width(plan: Plan) -> int:
    """Width of the feed-forward of the plan's host; of a host with experts of its own, what a token's have together."""
    from vademecum.training import presets

    return presets.find(plan.host).ffn_width(presets.HEAD_DIM * plan.size)


def host_width(arm: Arm, plan: Plan) -> int | None:
    """The arm's own width, or that at which dense has as many parameters as with ``total_like``; None: the host's."""
    if not arm.total_like:
        return arm.ffn_width
    with torch.device("meta"):
        base = plan.host_model()
        narrow, width = _parameters(base), dense_width(plan)
        # Widths are multiples of 32 so that the matrix kernels keep their speed; one such step gives the slope.
        slope = (_parameters(plan.host_model(ffn_width=width + 32)) - narrow) / 32
    with torch.random.fork_rng():
        target = _parameters(vm.attach(plan.host_model(), *kinds_of(arm.total_like)))
    return width + max(0, 32 * round((target - narrow) / slope / 32))


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
