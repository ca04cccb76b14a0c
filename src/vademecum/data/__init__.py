"""Real text, from pinned sources or the user's own files, as memory-mapped tokens in an order that a seed decides.

``prepare`` gives a :class:`Corpus`; ``batch`` cuts training windows out of it, ``heldout_windows`` the fixed
evaluation windows; ``describe`` lists what there is, and ``domain_tokens`` gives the seven domains one by one.
"""

from __future__ import annotations

from vademecum.data.corpus import END, Corpus, prepare
from vademecum.data.domains import DomainTokens, domain_tokens
from vademecum.data.material import Material
from vademecum.data.order import batch, heldout_windows
from vademecum.data.sources import Source, describe, sources
from vademecum.data.wheels import Unavailable, cache_folder

__all__ = [
    "END",
    "Corpus",
    "DomainTokens",
    "Material",
    "Source",
    "Unavailable",
    "batch",
    "cache_folder",
    "describe",
    "domain_tokens",
    "heldout_windows",
    "prepare",
    "sources",
]
