"""Rows for the last few tokens: several hashes of each n-gram, so that two n-grams rarely share all their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Collisions:
    """How often distinct n-grams of one order fall together.

    Attributes:
        distinct: how many distinct n-grams there are.
        by_head: by head, the share of them whose row another one has too.
        all_heads: the share of them whose every row another one has too.
    """

    distinct: int
    by_head: tuple[float, ...]
    all_heads: float


class Hashes(nn.Module):
    """Addresses of a token's suffix n-grams, n = 2..N, in one table (Engram, arXiv:2601.07372).

    With compressed ids c and odd multipliers m_k, ``x_n = (c_t m_0) xor (c_{t-1} m_1) xor ... (c_{t-n+1} m_{n-1})``;
    head j of order n has ``x_n mod p_{n,j}`` for a prime of its own, behind all heads before it. What comes before a
    text, or is padding, is an id of its own.

    Attributes:
        primes: ``[R]`` rows of each head, by order and then by head; R = (N - 1) * heads.
        multipliers: ``[N]``.
        ids: ``[vocabulary]`` the compressed id of each token id; the numbers are 0 to C-1.
    """

    primes: Tensor
    multipliers: Tensor
    offsets: Tensor
    ids: Tensor

    def __init__(self, primes: Sequence[int], ids: Tensor, *, orders: int, seed: str, device: torch.device) -> None:
        """Make hashes whose multipliers follow from ``seed`` alone."""
        super().__init__()
        self.orders, self.heads = orders, len(primes) // (orders - 1)
        self.rows = sum(primes)
        before = int(ids.max()) + 1
        # Below this no product leaves 63 bits, so that every device and every language finds the same row.
        most = 2**62 // (before + 1)
        multipliers = [_drawn(f"{seed}:{k}", most) | 1 for k in range(orders)]
        ends = torch.tensor(primes).cumsum(0)
        for name, value in (
            ("primes", torch.tensor(primes)),
            ("multipliers", torch.tensor(multipliers)),
            ("offsets", ends - torch.tensor(primes)),
            # One more at the end, for -1: what is no token.
            ("ids", F.pad(ids.long(), (0, 1), value=before)),
        ):
            # They follow from the kind's settings, and are not saved again.
            self.register_buffer(name, value.to(device), persistent=False)

    def forward(self, known: Tensor, tokens: int) -> Tensor:
        """``[B, tokens, R]`` rows of the last ``tokens`` of ``known`` ``[B, n + tokens]``, -1 where is no token."""
        mixed = self._mixed(known.to(self.ids.device))[:, :, known.shape[1] - tokens :]
        # [N - 1, B, T] -> [B, T, N - 1, heads]
        at = mixed.permute(1, 2, 0).unsqueeze(-1) % self.primes.view(self.orders - 1, self.heads)
        return (at + self.offsets.view(self.orders - 1, self.heads)).flatten(-2)

    def _mixed(self, known: Tensor) -> Tensor:
        """``[N - 1, B, n]`` the hash of each order before the primes."""
        short = F.pad(known, (self.orders - 1, 0), value=-1)
        ids = self.ids[short]
        length = known.shape[1]
        total, found = ids[:, self.orders - 1 :] * self.multipliers[0], []
        for back in range(1, self.orders):
            start = self.orders - 1 - back
            total = total ^ (ids[:, start : start + length] * self.multipliers[back])
            found.append(total)
        return torch.stack(found)

    @torch.no_grad()
    def collisions(self, texts: Sequence[Tensor]) -> dict[int, Collisions]:
        """By order n, how the distinct n-grams of ``texts`` (token ids ``[T]`` each) fall together.

        Only whole n-grams count: those that reach back before a text's first token are left out.
        """
        found: dict[int, Collisions] = {}
        device = self.ids.device
        for place, order in enumerate(range(2, self.orders + 1)):
            grams, rows = [], []
            for text in texts:
                if len(text) < order:
                    continue
                at = self(text[None].to(device), len(text))[0].view(len(text), self.orders - 1, self.heads)
                grams.append(self.ids[text.to(device)].unfold(0, order, 1))
                rows.append(at[order - 1 :, place])
            if not grams:
                found[order] = Collisions(0, (0.0,) * self.heads, 0.0)
                continue
            distinct, first = _first_of_each(torch.cat(grams))
            own = torch.cat(rows)[first]
            found[order] = Collisions(
                len(distinct),
                tuple(_shared(own[:, head : head + 1]) for head in range(self.heads)),
                _shared(own),
            )
        return found

    def extra_repr(self) -> str:
        return f"orders=2..{self.orders}, heads={self.heads}, rows={self.rows}"


def primes_from(start: int) -> Iterator[int]:
    """Primes of at least ``start``, ascending."""
    number = max(2, start)
    while True:
        if number == 2 or (number % 2 and all(number % one for one in range(3, int(number**0.5) + 1, 2))):
            yield number
        number += 1


def _drawn(seed: str, most: int) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % most


def _first_of_each(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ``rows``, and where each is first."""
    distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(rows), device=rows.device)
    return distinct, first.scatter_reduce(0, inverse, torch.arange(len(rows), device=rows.device), "amin")


def _shared(keys: Tensor) -> float:
    """The share of ``keys`` ``[n, ...]`` that another one equals."""
    _, inverse, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).float().mean())
