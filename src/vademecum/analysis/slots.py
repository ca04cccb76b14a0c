"""What the slots of a value memory do: how much of each is let through, and how different they are.

Two slots that started equal and were read with equal gates stay equal for ever; a table of eight such slots has the
capacity of one. So beside every count of slots stands the number of slots that are *effective*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vademecum.stores.base import Store

COVERED_SHARE = 0.01
HISTOGRAM_BINS = 40
GATE_MAX = 2.0


@dataclass(frozen=True)
class SlotUse:
    """Statistics of one layer over the tokens it was given.

    ``use[m]``: share of slot m in what the memory adds (mean over tokens of gate x row norm, normalised over slots).
    ``similarity``: mean cosine between two slots' gated rows at one token (1 = identical, 0 = unrelated); None for
    one slot.
    ``effective``: exp of the entropy of the normalised eigenvalues of the slots' uncentred Gram matrix, per token,
    then averaged: 1 where all slots add the same direction, M where they are orthogonal and equally large.
    ``coverage``: share of a layer's (head, slot) pairs that give at least 1 % of an even share of what the memory adds
    in that head (mean over tokens of gate x row norm); 0 where it adds nothing.
    ``gate_entropy``: entropy of a head's slot gates at one token, read as a distribution over the slots, over ln M;
    mean over tokens and heads (1 = all slots equally open, 0 = one slot open); None for one slot.
    ``gate_distance``: mean of abs(gate - 1) over slot gates; 0 where the layer leaves them all at the neutral middle.
    ``histogram``, ``own_histogram``: counts of slot gates and of the gate on the host's own value, 40 bins over 0..2.
    """

    use: list[float]
    similarity: float | None
    effective: float
    coverage: float
    gate_entropy: float | None
    gate_distance: float
    histogram: list[int]
    own_histogram: list[int]


def slot_use(gates: Tensor, rows: Tensor) -> SlotUse:
    """Statistics of one layer.

    gates: [N, H, M+1], the host's own gate first. rows: [N, M, H*D] or [N, M, H, D], the rows each token read.
    Shapes that do not belong together raise ValueError.
    """
    gates = gates.detach().float().cpu()
    rows = rows.detach().float().cpu()
    n, heads, slots = gates.shape[0], gates.shape[1], gates.shape[2] - 1
    if rows.shape[:2] != (n, slots):
        raise ValueError(
            f"gates {tuple(gates.shape)} are of {n} tokens and {slots} slots, rows {tuple(rows.shape)} must begin "
            f"with [{n}, {slots}]."
        )
    rows = rows.reshape(n, slots, heads, -1)
    by_head = gates[:, :, 1:].transpose(1, 2).unsqueeze(-1) * rows
    gated = by_head.flatten(2)
    norms = gated.norm(dim=-1)
    total = norms.sum()
    use = norms.sum(0) / total if total > 0 else torch.full((slots,), 1 / slots)
    gram = gated @ gated.transpose(1, 2)
    return SlotUse(
        use=use.tolist(),
        similarity=_similarity(gram),
        effective=float(_effective(gram).mean()),
        coverage=_coverage(by_head.norm(dim=-1).mean(0)),
        gate_entropy=gate_entropy(gates[:, :, 1:]),
        gate_distance=float((gates[:, :, 1:] - 1).abs().mean()),
        histogram=_histogram(gates[:, :, 1:]),
        own_histogram=_histogram(gates[:, :, 0]),
    )


def slot_uses(
    forwards: Sequence[Mapping[str, Mapping[str, Tensor]]], ids: Sequence[Tensor], memory: Mapping[str, Tensor | Store]
) -> dict[str, SlotUse]:
    """Statistics per layer over recorded forwards, by the record's key such as "move.layers.3".

    ``forwards`` is ``rec.forwards``, ``ids[i]`` the token ids that forward i was given, ``memory`` the model's
    ``memory_state_dict``.
    """
    flat = torch.cat([each.reshape(-1).cpu() for each in ids])
    found: dict[str, SlotUse] = {}
    for key in dict.fromkeys(key for forward in forwards for key, values in forward.items() if "gates" in values):
        table = memory.get(f"{key}.bank.weight", memory.get(f"{key.split('.')[0]}.shared.weight"))
        if table is not None:
            gates = torch.cat([forward[key]["gates"] for forward in forwards])
            found[key] = slot_use(gates, _rows(table, flat))
    return found


def _rows(table: Tensor | Store, ids: Tensor) -> Tensor:
    """Rows of ``ids`` [N], each read once: [N, M, W] on the CPU."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    return (table.gather(unique) if isinstance(table, Store) else table.detach().cpu()[unique])[inverse]


def gate_entropy(gates: Tensor) -> float | None:
    """Mean entropy of slot gates [N, H, M] normalised over M, in units of ln M; None for one slot."""
    slots = gates.shape[-1]
    if slots < 2:
        return None
    share = gates / gates.sum(-1, keepdim=True).clamp_min(1e-20)
    return float(-(share * share.clamp_min(1e-20).log()).sum(-1).mean()) / math.log(slots)


def _coverage(given: Tensor) -> float:
    """Share of the pairs in ``given`` [M, H] that reach 1 % of their head's even share."""
    even = given.mean(0, keepdim=True)
    return float(((given >= COVERED_SHARE * even) & (even > 0)).float().mean())


def _similarity(gram: Tensor) -> float | None:
    slots = gram.shape[-1]
    if slots < 2:
        return None
    norms = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-24).sqrt()
    cosine = gram / (norms.unsqueeze(1) * norms.unsqueeze(2))
    off = ~torch.eye(slots, dtype=torch.bool)
    return float(cosine[:, off].mean())


def _effective(gram: Tensor) -> Tensor:
    """Exp of the entropy of each token's normalised spectrum, over the tokens to which anything was added."""
    spectrum = torch.linalg.eigvalsh(gram.double()).clamp_min(0)
    total = spectrum.sum(-1, keepdim=True)
    share = torch.where(total > 0, spectrum / total.clamp_min(1e-300), torch.zeros_like(spectrum))
    effective = torch.exp(-(share * share.clamp_min(1e-300).log()).sum(-1))
    spoke = total.squeeze(-1) > 0
    return effective[spoke] if bool(spoke.any()) else effective


def _histogram(values: Tensor) -> list[int]:
    counts = torch.histc(values.clamp(0, GATE_MAX), bins=HISTOGRAM_BINS, min=0, max=GATE_MAX)
    return [int(c) for c in counts.tolist()]
