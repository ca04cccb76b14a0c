"""What the slots of a value memory learned: every number of the page, computed from what the model reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vademecum.analysis import gating
from vademecum.analysis import specialisation as spec
from vademecum.analysis.gating import Opener
from vademecum.analysis.specialisation import Information
from vademecum.inspection.gather import Seen


@dataclass(frozen=True)
class Layer:
    """One layer's gates.

    Attributes:
        key: the record's, such as "move.layers.3".
        heads: heads H; ``slots``: slots M.
        gates: ``[D, H, M+1]`` mean gate by domain, the host's own value first.
        openers: by head and gate, the ids that open it widest.
        strongest: ``[N]`` slot with the largest gate, heads averaged; ``strength`` ``[N]`` that gate.
        leads: ``[D, M]`` share of a domain's tokens whose strongest slot it is.
        domain: mutual information of strongest slot and domain; ``token``: and input id; ``beyond``: and domain where
            the input id is known. None with one slot.
    """

    key: str
    heads: int
    slots: int
    gates: Tensor
    openers: Sequence[Sequence[Sequence[Opener]]]
    strongest: Tensor
    strength: Tensor
    leads: Tensor
    domain: Information | None
    token: Information | None
    beyond: Information | None

    def range_by_domain(self) -> Tensor:
        """Largest less smallest mean gate over the domains, ``[H, M+1]``."""
        return self.gates.amax(0) - self.gates.amin(0)


@dataclass(frozen=True)
class Findings:
    """All layers with gates."""

    seen: Seen
    layers: Sequence[Layer]


def layers_of(seen: Seen, *, seed: int) -> list[Layer]:
    """Findings of every layer with gates; ``seed`` decides the shuffles."""
    return [_layer(seen, key, gates, seed) for key, gates in seen.having("gates").items()]


def _layer(seen: Seen, key: str, gates: Tensor, seed: int) -> Layer:
    strongest, strength = gating.strongest_slot(gates)
    several = gates.shape[2] > 2
    return Layer(
        key=key,
        heads=gates.shape[1],
        slots=gates.shape[2] - 1,
        gates=gating.gates_by_domain(gates, seen.domain, kinds=len(seen.domains)),
        openers=gating.openers(gates, seen.ids),
        strongest=strongest,
        strength=strength,
        leads=spec.domain_specialisation(
            strongest[:, None], seen.domain, count=gates.shape[2] - 1, kinds=len(seen.domains)
        ).T,
        domain=spec.information(strongest, seen.domain, seed=seed) if several else None,
        token=spec.information(strongest, seen.ids, seed=seed) if several else None,
        beyond=spec.information(strongest, seen.domain, given=seen.ids, seed=seed) if several else None,
    )


def gate_name(number: int) -> str:
    """What a column of the gates is called: the host's own value comes first."""
    return "own" if number == 0 else f"slot {number - 1}"
