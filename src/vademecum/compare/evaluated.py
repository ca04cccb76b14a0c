"""How much held-out text the numbers really come from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tokens(heldout: int, length: int, limit: int) -> int:
    """Target tokens that an evaluation covers: whole windows of ``length``, ``limit`` tokens of them (0: all)."""
    windows = (heldout - 1) // length
    return length * (min(windows, max(1, limit // length)) if limit else windows)


def words(results: Mapping[str, Any]) -> str:
    """A sentence per source: tokens (and bytes, where the results hold them) read at the end and for the curves."""
    plan = results["plan"]
    length, limit = plan["recipe"]["length"], plan.get("heldout_tokens", 0)
    said = []
    for name, source in results["sources"].items():
        held = source.get("heldout_tokens")
        if held is None:
            continue
        last, curve = (
            source.get(what) or tokens(held, length, n)
            for what, n in (("evaluated_tokens", limit), ("curve_tokens", plan["recipe"].get("eval_tokens", 0)))
        )
        said.append(
            f"On {name} the table is of {last:,} of {held:,} held-out tokens"
            f"{_bytes(source)}, the curves of {curve:,}, in windows of {length} spread evenly over it."
        )
    return " ".join(said)


def _bytes(source: Mapping[str, Any]) -> str:
    if "evaluated_bytes" not in source:
        return ""
    return f" ({source['evaluated_bytes']:,.0f} of {source['heldout_bytes']:,} bytes)"
