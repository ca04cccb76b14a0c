"""Who learned what: which experts take which domain and which token, and whether more than chance would give.

The measures of OLMoE (Muennighoff et al. 2024, arXiv 2409.02060, section 5), over all pairs and with a baseline each,
and mutual information as one number per layer. Everything is counted over N tokens: ``experts`` ``[N, K]`` holds the
experts a token was sent to in order of weight, -1 where an assignment was dropped. A token whose every assignment was
dropped uses no expert: it counts as a token of its domain and takes part in nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_OCCURRENCES = 10


@dataclass(frozen=True)
class Vocabulary:
    """Which expert each token id goes to.

    ``average``: mean over ids of the share that an id's most frequent expert takes of its occurrences. ``ids``
    ``[V]``: ids that occur often enough, ascending; ``counts`` ``[V]``: occurrences of each; ``shares`` ``[V, E]``:
    share of an id's occurrences whose first expert is e (rows sum to 1).
    """

    average: float
    ids: Tensor
    counts: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Information:
    """Mutual information, in nats, of two labels of the same tokens, beside what shuffled labels give.

    ``baseline`` and ``spread`` are mean and standard deviation over shuffles. Few tokens for many labels raise both
    ``measured`` and ``baseline``, so that only their ``difference`` speaks. ``entropy`` is that of the experts and
    ``label_entropy`` that of the labels (given the third label, where there is one): no information exceeds either.
    """

    measured: float
    baseline: float
    spread: float
    entropy: float
    label_entropy: float

    @property
    def difference(self) -> float:
        """Measured less baseline."""
        return self.measured - self.baseline


@dataclass(frozen=True)
class Repetition:
    """Share of consecutive tokens with the same first expert, and what independent draws of the same load give."""

    share: float
    chance: float


def first_expert(experts: Tensor) -> Tensor:
    """The strongest expert a token was really sent to: ``[N]``, -1 where all of its assignments were dropped."""
    kept = experts >= 0
    first = experts.gather(1, kept.int().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(kept.any(1), first, torch.full_like(first, -1))


def domain_specialisation(experts: Tensor, domains: Tensor, *, count: int, kinds: int) -> Tensor:
    """Share of a domain's tokens that use an expert, ``[E, D]``: N(i, D) / N(D).

    N(i, D) counts the tokens of domain D with expert i among any of their k, N(D) the domain's tokens. Columns sum to
    k where nothing is dropped, so that even routing gives k / E everywhere. A domain without tokens gives NaN. Source:
    arXiv 2409.02060, section 5.3.

    Args:
        experts: ``[N, K]``.
        domains: ``[N]``, 0 to ``kinds`` - 1.
        count: experts E of the layer.
        kinds: domains D.
    """
    _require_tokens(experts, domains)
    used = _joint(experts, domains, count, kinds)
    return used / torch.bincount(domains, minlength=kinds).double()


def vocabulary_specialisation(
    first: Tensor, ids: Tensor, *, count: int, least: int = LEAST_OCCURRENCES
) -> Vocabulary | None:
    """How single-minded the router is about a token id: N(x, e) / N(x) by first choice.

    For every id x with ``least`` or more occurrences, the share of them whose first expert is e; ``average`` is the
    mean over those ids of the largest share. ``ids`` may be the input, the true next or the predicted next id. An id
    with few occurrences has a large largest share by chance alone: compare with :func:`shuffled_vocabulary`. Source:
    arXiv 2409.02060, section 5.4.

    Args:
        first: ``[N]``, of :func:`first_expert`.
        ids: ``[N]``.
        count: experts E of the layer.
        least: occurrences below which an id is left out.

    Returns:
        None where no id occurs often enough.
    """
    _require_tokens(first[:, None], ids)
    first, ids = first[first >= 0], ids[first >= 0]
    if not len(ids):
        return None
    known, inverse, occurrences = torch.unique(ids, return_inverse=True, return_counts=True)
    table = _table(inverse, first, len(known), count)
    often = occurrences >= least
    if not bool(often.any()):
        return None
    shares = table[often] / occurrences[often, None]
    return Vocabulary(float(shares.max(1).values.mean()), known[often], occurrences[often], shares)


def shuffled_vocabulary(first: Tensor, ids: Tensor, *, count: int, seed: int = 0) -> float | None:
    """Average of :func:`vocabulary_specialisation` after one shuffle of ``first``: what load and rarity alone give."""
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    found = vocabulary_specialisation(first[order], ids, count=count)
    return None if found is None else found.average


def coactivation(experts: Tensor, *, count: int) -> Tensor:
    """Of the tokens that use expert i, the share that use j too, ``[E, E]``: N(i, j) / N(i), over all pairs.

    The diagonal is 1; an expert without tokens has a row of NaN. Rows off the diagonal sum to k - 1 where nothing is
    dropped, so that even routing gives (k - 1) / (E - 1). Source: arXiv 2409.02060, section 5.2, whose script counts
    neighbours in the sorted list alone.
    """
    used = _used(experts, count)
    both = used.T @ used
    return both / both.diagonal()[:, None]


def saturation(now: Tensor, final: Tensor) -> float:
    """Share of a token's final experts that it was sent to already, mean over tokens: |E_t ∩ E_T| / k.

    k is the number of experts the token has in the end, so that a dropped assignment is not missed. NaN where no token
    has any. Source: arXiv 2409.02060, section 5.1.

    Args:
        now: ``[N, K]`` experts at a checkpoint.
        final: ``[N, K']`` experts of the same tokens at the last one.
    """
    _require_tokens(now, final[:, 0])
    same = (final[:, :, None] == now[:, None, :]).any(2) & (final >= 0)
    k = (final >= 0).sum(1)
    shares = same.sum(1)[k > 0].double() / k[k > 0]
    return float(shares.mean())


def mutual_information(one: Tensor, two: Tensor) -> float:
    """I(one; two) = Σ p(a, b) ln(p(a, b) / (p(a) p(b))) of the joint counts of two labels ``[N]``, in nats."""
    _require_tokens(one[:, None], two)
    joint = _table(one, two, int(one.max()) + 1, int(two.max()) + 1)
    return _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.flatten())


def information(
    first: Tensor, labels: Tensor, *, given: Tensor | None = None, shuffles: int = 10, seed: int = 0
) -> Information | None:
    """Mutual information of first expert and label (domain or token id), beside shuffled labels.

    With ``given``, what the expert tells of the label where a third label is known already, I(first; label | given): of
    the domain beyond what the token id says of it. The shuffle keeps how often each expert and each label occurs (for
    each given one) and parts them; ``seed`` decides it. Labels of neighbouring tokens are alike, which a shuffle of
    single tokens does not keep: the spread is that of independent tokens and too narrow for a test of significance.

    Args:
        first: ``[N]``, of :func:`first_expert`.
        labels: ``[N]``.
        given: ``[N]``, or None.
        shuffles: how many.
        seed: of the shuffles.

    Returns:
        None where no token has an expert.
    """
    _require_tokens(first[:, None], labels)
    kept = first >= 0
    first, labels = first[kept], labels[kept]
    if not len(first):
        return None
    known = torch.zeros_like(labels) if given is None else torch.unique(given[kept], return_inverse=True)[1]
    labels = torch.unique(labels, return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    place = known.argsort(stable=True)
    drawn = []
    for _ in range(max(shuffles, 1)):
        order = torch.randperm(len(labels), generator=generator)
        shuffled = torch.empty_like(labels)
        shuffled[place] = labels[order[known[order].argsort(stable=True)]]
        drawn.append(_conditional(first, shuffled, known))
    spread = torch.tensor(drawn, dtype=torch.float64)
    return Information(
        measured=_conditional(first, labels, known),
        baseline=float(spread.mean()),
        spread=float(spread.std()) if len(drawn) > 1 else math.nan,
        entropy=max(0.0, _joint_entropy(first, known) - _joint_entropy(known)),
        label_entropy=max(0.0, _joint_entropy(labels, known) - _joint_entropy(known)),
    )


def repetition(first: Tensor, sequences: Tensor) -> Repetition:
    """Share of consecutive tokens of one sequence that keep their first expert, and its chance.

    Chance is Σ p(e)² over the load of first choices: what independent draws give; with an even load, 1 / E. Pairs with
    a token without an expert are left out; NaN where no pair is left. Source: Jiang et al. 2024, arXiv 2401.04088,
    table 5, which compares with 1 / E.

    Args:
        first: ``[N]``, of :func:`first_expert`.
        sequences: ``[N]`` number of the window a token stands in; tokens of one window follow each other.
    """
    _require_tokens(first[:, None], sequences)
    pairs = (sequences[1:] == sequences[:-1]) & (first[1:] >= 0) & (first[:-1] >= 0)
    load = torch.bincount(first[first >= 0]).double()
    load = load / load.sum()
    return Repetition(float((first[1:] == first[:-1])[pairs].double().mean()), float((load**2).sum()))


def _used(experts: Tensor, count: int) -> Tensor:
    """1 where a token uses an expert, ``[N, E]``."""
    used = torch.zeros(len(experts), count + 1, dtype=torch.float64)
    used.scatter_(1, torch.where(experts < 0, count, experts).cpu(), 1.0)
    return used[:, :count]


def _joint(experts: Tensor, labels: Tensor, count: int, kinds: int) -> Tensor:
    """Tokens by expert used and label, ``[E, D]``."""
    joint = torch.zeros(kinds, count, dtype=torch.float64)
    joint.index_add_(0, labels.cpu(), _used(experts, count))
    return joint.T


def _table(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Joint counts of two labels, ``[height, width]``."""
    return torch.bincount(rows * width + columns, minlength=height * width).view(height, width).double()


def _conditional(one: Tensor, two: Tensor, given: Tensor) -> float:
    """I(one; two | given) = H(one, given) + H(two, given) - H(given) - H(one, two, given), in nats."""
    pairs = _joint_entropy(one, given) + _joint_entropy(two, given)
    return max(0.0, pairs - _joint_entropy(given) - _joint_entropy(one, two, given))  # below 0 by rounding alone


def _joint_entropy(*labels: Tensor) -> float:
    """Entropy of several labels of the same tokens together; only combinations that occur are counted."""
    code = labels[0]
    for other in labels[1:]:
        code = torch.unique(code * (int(other.max()) + 1) + other, return_inverse=True)[1]
    return _entropy(torch.bincount(code).double())


def _entropy(counts: Tensor) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log()).sum())


def _require_tokens(experts: Tensor, labels: Tensor) -> None:
    if experts.dim() != 2 or labels.shape != experts.shape[:1] or not len(labels):
        raise ValueError(
            f"got values of shape {tuple(experts.shape)} and labels of shape {tuple(labels.shape)}; expected one label "
            f"for each of at least one token."
        )
