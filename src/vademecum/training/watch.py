"""A look inside a run while it trains: what its experts and slots do on a few fixed held-out windows.

Looking changes nothing that is learned: no gradient is taken, no buffer moves, and the random state is put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vademecum import state
from vademecum.analysis import experts, slots
from vademecum.data import Material
from vademecum.recording import Recording
from vademecum.surgery import memories, record
from vademecum.training.evaluate import evaluating

EXPERTS: Mapping[str, str] = {
    "load_entropy": "entropy of the experts' shares of all assignments over ln E; 1 is even",
    "max_violation": "MaxVio: the largest share over the mean share, less 1; 0 is even",
    "dead": "experts that get less than 1 % of the mean share",
    "router_entropy": "mean entropy of a token's router distribution, in nats",
    "dropped": "share of the assignments that find no room when the watched tokens are routed as one training batch",
}
SLOTS: Mapping[str, str] = {
    "coverage": "share of (head, slot) pairs that give at least 1 % of an even share of what the memory adds",
    "similarity": "mean cosine between two slots' gated rows at one token; 1 is copies of one another",
    "effective": "effective number of slots: exp of the entropy of the slots' Gram spectrum at one token",
    "gate_entropy": "mean entropy of a head's normalised slot gates over ln M; 1 is all equally open",
    "gate_distance": "mean distance of a slot gate from 1",
}
"""What an evaluation line's ``inside`` holds for a layer with experts, and for one with slots."""

#: Slots are described over every fourth of the watched tokens: their spectra cost more than the forward does.
EVERY = 4


@dataclass(frozen=True)
class _Seen:
    """What one forward reported, and the ids it was given."""

    forwards: Sequence[Mapping[str, Mapping[str, Tensor]]]
    ids: Tensor


def inside(
    model: PreTrainedModel, corpus: Material, *, length: int, tokens: int, dtype: str = "fp32"
) -> dict[str, dict[str, float]]:
    """Numbers by layer key ("moe.layers.3") and name (:data:`EXPERTS`, :data:`SLOTS`); empty where nothing reports.

    Args:
        model: a model with memories; its mode and torch's random state are as before afterwards.
        corpus: whose held-out text is read.
        length: tokens of context per window.
        tokens: how many held-out tokens, spread evenly over the text; at least one window.
        dtype: "fp32", or "bf16" for autocast.
    """
    windows = corpus.heldout_windows(length, max(1, tokens // length))
    ids = torch.from_numpy(np.asarray(windows[:, :-1])).to(model.device, torch.int64)
    with evaluating(model):
        seen = _forward(model, ids, dtype)
    found = {key: dict(numbers) for key, numbers in _of_slots(seen, model).items()}
    for key, numbers in _of_experts(seen).items():
        found.setdefault(key, {}).update(numbers)
    for key, share in _dropped(model, ids, dtype).items():
        found.setdefault(key, {})["dropped"] = share
    return found


@torch.no_grad()
def _forward(model: PreTrainedModel, ids: Tensor, dtype: str) -> _Seen:
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bf16"), record(model) as rec:
        model(input_ids=ids, use_cache=False)
    return _Seen(rec.forwards, ids)


def _of_experts(seen: _Seen) -> dict[str, dict[str, float]]:
    entropy = {
        key: float(values["entropy"])
        for forward in seen.forwards
        for key, values in forward.items()
        if "load" in values
    }
    return {
        key: {
            "load_entropy": load.entropy,
            "max_violation": load.max_violation,
            "dead": float(load.dead),
            "router_entropy": entropy[key],
            "dropped": 0.0,
        }
        for key, load in experts.loads(seen.forwards).items()
    }


def _of_slots(seen: _Seen, model: PreTrainedModel) -> dict[str, dict[str, float]]:
    if not any("gates" in values for forward in seen.forwards for values in forward.values()):
        return {}
    thinned = [
        {key: {"gates": values["gates"][::EVERY]} for key, values in forward.items() if "gates" in values}
        for forward in seen.forwards
    ]
    used = slots.slot_uses(thinned, [seen.ids.reshape(-1)[::EVERY]], state.memory_state_dict(model))
    return {
        key: {name: value for name in SLOTS if (value := getattr(use, name)) is not None} for key, use in used.items()
    }


def _dropped(model: PreTrainedModel, ids: Tensor, dtype: str) -> dict[str, float]:
    """Share of assignments without room by layer; a limit on room is in force in training alone, so it is looked at so.

    Only where some kind has such a limit.
    """
    if not any(getattr(kind, "capacity", None) is not None for kind in memories(model).kinds.values()):
        return {}
    training = model.training
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.train()
        try:
            seen = _forward(model, ids, dtype)
        finally:
            model.train(training)
    return {
        key: float(values["dropped"])
        for forward in seen.forwards
        for key, values in forward.items()
        if "dropped" in values
    }


class Told:
    """What training forwards reported beside their loss, summed on the device until it is asked for.

    Attributes:
        losses: auxiliary losses as they entered the loss, by kind and name ("moe.balance"): summed over layers, mean
            over forwards.
        dropped: share of assignments without room, mean over layers and forwards; empty where no layer says.
    """

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.dropped: list[Tensor] = []
        self._forwards = 0

    def take(self, recording: Recording) -> None:
        """Add the last forward of ``recording`` and let it go."""
        self._forwards += 1
        for key, loss in recording.losses.items():
            name = f"{key.split('.', 1)[0]}.{key.rsplit('.', 1)[-1]}"
            self.losses[name] = self.losses.get(name, torch.zeros_like(loss)) + loss.detach()
        for values in recording.forwards[-1].values() if recording.forwards else ():
            if "dropped" in values:
                self.dropped.append(values["dropped"])
        recording.forwards.clear()

    def numbers(self) -> dict[str, Tensor]:
        """All of it as 0-d tensors: losses as ``losses/NAME``, and ``dropped``."""
        found = {f"losses/{name}": loss / self._forwards for name, loss in self.losses.items()}
        return found | ({"dropped": torch.stack(self.dropped).float().mean()} if self.dropped else {})


def nested(numbers: Mapping[str, float]) -> dict[str, Any]:
    """What :meth:`Told.numbers` gave, as part of a training line: ``{"losses": {...}, "dropped": ...}``."""
    losses = {name.removeprefix("losses/"): value for name, value in numbers.items() if name.startswith("losses/")}
    line: dict[str, Any] = {"losses": losses} if losses else {}
    return line | ({"dropped": numbers["dropped"]} if "dropped" in numbers else {})
