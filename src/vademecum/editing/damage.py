"""What changed rows do in ordinary text, measured before they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from vademecum.editing.locating import tokens_of
from vademecum.editing.reading import LOOKED_AT, drawn, padded, plain_settings, require_places

#: Texts that the model writes of its own, their tokens, and those that begin with a changed token.
OWN, TOKENS, BEGUN = 64, 32, 4
#: Likeliest tokens that its writing is drawn from, and the draw.
TOP, SEED = 40, 0


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Next words that change.

    Attributes:
        tokens: by changed token, the share that it has of all tokens in ordinary texts.
        common: share of next words that change in ordinary texts.
        common_nats: mean Kullback-Leibler divergence there, from before to after.
        near: share of next words that change from a changed token on.
        near_nats: mean divergence there.
        texts: where ordinary texts come from.
    """

    tokens: Mapping[str, float]
    common: float
    common_nats: float
    near: float
    near_nats: float
    texts: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """From plain data."""
        return cls(**data)

    def __str__(self) -> str:
        some = sorted(self.tokens.items(), key=lambda one: -one[1])
        named = ", ".join(f"{token!r} ({share:.2%} of tokens)" for token, share in some[:6])
        more = f" and {len(some) - 6} more" if len(some) > 6 else ""
        return (
            f"rows of {named}{more} change; in {self.texts} {self.common:.2%} of next words become others "
            f"({self.common_nats:.4f} nats), from such a token on {self.near:.1%} ({self.near_nats:.3f} nats)"
        )


def damage_of(model: Any, tokenizer: Any, overlay: Any, texts: Sequence[str] | None) -> Damage:
    """What ``overlay``, which is not on ``model``, does to ordinary text.

    Args:
        model: with its head, evaluating.
        tokenizer: the model's.
        overlay: whose content says in ``ids`` which tokens it changes.
        texts: ordinary ones; the model writes some where None.
    """
    content: Any = overlay.content
    changed = torch.unique(content.ids[list(overlay.order)])
    changed = changed[changed >= 0]
    if texts is None:
        draw = torch.Generator().manual_seed(SEED)
        starts = torch.randint(model.get_input_embeddings().num_embeddings, (OWN, 1), generator=draw).tolist()
        common, said = _written(model, starts), "the model's own writing"
    else:
        common, said = [tokens_of(tokenizer, text) for text in texts], f"{len(texts)} given texts"
    near = _written(model, [[int(number)] for number in changed for _ in range(BEGUN)])
    ordinary, there = _Moved(), _Moved()
    for some, counted in ((common, ordinary), (near, None)):
        for start in range(0, len(some), LOOKED_AT):
            ids, mask = padded(some[start : start + LOOKED_AT], left=False)
            before = _log_probabilities(model, ids, mask)
            with overlay.on(model):
                after = _log_probabilities(model, ids, mask)
            nats = (before.exp() * (before - after)).sum(-1)
            flips = before.argmax(-1) != after.argmax(-1)
            if counted is not None:
                counted.add(flips, nats, mask.bool())
            there.add(flips, nats, mask.bool() & (torch.isin(ids, changed).cumsum(1) > 0))
    words = torch.tensor([number for one in common for number in one])
    return Damage(
        tokens={
            tokenizer.decode([int(number)]): float((words == number).sum()) / max(1, len(words)) for number in changed
        },
        common=ordinary.flips,
        common_nats=ordinary.nats,
        near=there.flips,
        near_nats=there.nats,
        texts=said,
    )


class _Moved:
    """Sums over places."""

    def __init__(self) -> None:
        self._count, self._flips, self._nats = 0, 0.0, 0.0

    def add(self, flips: Tensor, nats: Tensor, mask: Tensor) -> None:
        self._count += int(mask.sum())
        self._flips += float(flips[mask].sum())
        self._nats += float(nats[mask].sum())

    @property
    def flips(self) -> float:
        return self._flips / max(1, self._count)

    @property
    def nats(self) -> float:
        return self._nats / max(1, self._count)


def _written(model: Any, starts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts that the model writes from ``starts``, the same every time."""
    found: list[list[int]] = []
    with torch.random.fork_rng(), torch.no_grad(), plain_settings(model):
        torch.manual_seed(SEED)
        for start in range(0, len(starts), LOOKED_AT):
            ids, mask = padded(starts[start : start + LOOKED_AT], left=True)
            require_places(model, ids.shape[1] + TOKENS - 1)
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=drawn(model, TOKENS, TOP),
            )
            found += out.tolist()
    return found


def _log_probabilities(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    require_places(model, ids.shape[1])
    with torch.no_grad():
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    found: Tensor = logits.float().log_softmax(-1).cpu()
    return found
