"""Engram: rows of hashed n-grams, gated by the context and added to the residual stream.

Paper: arXiv:2601.07372. At a token the 2- to N-grams that end there, over ids that are one where they are spelled
alike, are hashed by several heads into tables of a prime number of rows each; the rows side by side are e, and

    a = sigmoid( sgn(s) sqrt(|s|) ),   s = <RMSNorm(W_K e), RMSNorm(h)> / sqrt(d),   u = a W_V e
    h' = h + u + SiLU( conv( RMSNorm(u) ) )

before the layer, with a causal convolution of each channel (width 4, N tokens apart) that starts at zero. The signed
root is in the published demonstration and not in the paper's formula: ``signed_root=False`` leaves it out. Its slope
near 0 is steep (500 at |s| = 1e-6, below which it counts as that), so rounding shows in gradients there. Tables start
at zero, so a pretrained host is left as it was. Parameters: per layer about rows x width (the heads share the width)
and 2 d x width. Most is gained early: the paper's best single layer is the second. Use it for what a fixed phrase
brings to mind, so that layers need not compute it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vademecum.memory import spelling
from vademecum.memory.bank import Bank
from vademecum.memory.base import Built, Kind, Site, require, require_not_negative
from vademecum.memory.hashing import Hashes, primes_from
from vademecum.memory.layers import Layers
from vademecum.memory.ngrams import Convolution, NGramMemory, Projections
from vademecum.memory.tables import Scale


@dataclass(frozen=True, kw_only=True)
class NGram(Kind):
    """Hashed n-gram memory.

    Attributes:
        orders: N, the longest n-gram; 2 or more.
        heads: hashes of each order.
        rows: rows of a head at least (the next primes are taken); None takes the host's vocabulary, the paper five
            times that.
        width: of all of a token's rows together; None takes the host's hidden width, or the next that the heads divide.
        kernel: width of the convolution; 0 for none.
        signed_root: whether scores are rooted before the gate.
        bank_std: standard deviation of the tables at the start; 0 leaves a pretrained host's logits untouched.
        seed: of the hashes.
        compress: which token ids are one, as :meth:`for_tokenizer` packs it; None keeps all apart.
    """

    layers: Layers = (1,)
    orders: int = 3
    heads: int = 8
    rows: int | None = None
    width: int | None = None
    kernel: int = 4
    signed_root: bool = True
    bank_std: float = 0.0
    seed: int = 0
    compress: str | None = field(default=None, repr=False)

    name: ClassVar[str] = "ngram"
    title: ClassVar[str] = "Hashed n-gram memory (Engram)"
    paper: ClassVar[str] = "arXiv:2601.07372"

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **settings: Any) -> Self:
        """With ids that are spelled alike as one (:func:`vademecum.memory.spelling.plain`).

        Args:
            tokenizer: of the host; reading its vocabulary takes a second for each hundred thousand ids.
            settings: as for the kind.
        """
        return cls(compress=spelling.pack(spelling.alike(tokenizer)), **settings)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "bank_std", "kernel")
        require(self.orders >= 2, f"NGram(orders={self.orders}) was given; expected 2 or more, such as orders=3.")
        require(self.heads >= 1, f"NGram(heads={self.heads}) was given; expected 1 or more, such as heads=8.")
        count = (self.orders - 1) * self.heads
        if self.width is not None:
            near = sorted({max(1, self.width // count) * count, (self.width // count + 1) * count})
            require(
                self.width >= 1 and self.width % count == 0,
                f"NGram(width={self.width}, orders={self.orders}, heads={self.heads}) was given; {count} rows share "
                f"the width, so expected a multiple of {count}, such as {' or '.join(map(str, near))}.",
            )
        if self.compress is not None:
            try:
                spelling.unpack(self.compress)
            except ValueError as error:
                raise ValueError(
                    f"NGram(compress=...) was given a text of {len(self.compress)} signs: {error}."
                ) from error

    def build(self, site: Site, layers: tuple[int, ...]) -> Built:
        vocabulary, count = site.shape.vocabulary, (self.orders - 1) * self.heads
        rows = vocabulary if self.rows is None else self.rows
        require(
            rows >= vocabulary,
            f"NGram(rows={self.rows}) was given, but the host has {vocabulary} token ids, and a table with fewer rows "
            f"than ids confuses even what single tokens bring; expected {vocabulary} or more, such as "
            f"{vocabulary} or {5 * vocabulary}.",
        )
        ids = self._ids(vocabulary)
        # Primes differ between layers too, so that what falls together in one does not in the next.
        primes = list(islice(primes_from(rows), count * len(layers)))
        return Built(
            {
                layer: self._part(site, layer, primes[place * count : (place + 1) * count], ids)
                for place, layer in enumerate(layers)
            }
        )

    def _ids(self, vocabulary: int) -> Tensor:
        """``[vocabulary]`` compressed ids; ids that the tokenizer does not know are apart."""
        if self.compress is None:
            return torch.arange(vocabulary)
        ids = spelling.unpack(self.compress)
        require(
            len(ids) <= vocabulary,
            f"NGram(compress=...) was made for a tokenizer of {len(ids)} ids, but the host has {vocabulary}; make it "
            f"with this host's tokenizer: vm.NGram.for_tokenizer(tokenizer).",
        )
        more = vocabulary - len(ids)
        return torch.cat([ids, int(ids.max()) + 1 + torch.arange(more)])

    def _part(self, site: Site, layer: int, primes: list[int], ids: Tensor) -> NGramMemory:
        hidden = site.shape.hidden
        made: dict[str, Any] = {"dtype": site.dtype, "device": site.device(layer)}
        count = len(primes)
        dim = (self.width or hidden + -hidden % count) // count
        hashes = Hashes(primes, ids, orders=self.orders, seed=f"{self.seed}:{layer}", device=made["device"])
        norms = {name: Scale(hidden, **made) for name in ("key", "query")}
        convolution = None
        if self.kernel:
            convolution = Convolution(hidden, self.kernel, self.orders, **made)
            norms["steps"] = Scale(hidden, **made)
        return NGramMemory(
            hashes,
            Bank(hashes.rows, 1, 1, dim, std=self.bank_std, **made),
            Projections(hidden, dim * count, std=site.init_std, **made),
            convolution,
            nn.ModuleDict(norms),
            signed_root=self.signed_root,
        )

    @property
    def neutral(self) -> bool:
        return self.bank_std == 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        alike = spelling.pack([one // 2 for one in range(40)])
        return (
            cls(layers="all", heads=2, width=16, signed_root=False, compress=alike),
            cls(orders=2, heads=3, rows=100, kernel=0, bank_std=0.1),
            cls(layers=(0,), orders=4, heads=1, width=6, kernel=2),
        )
