"""Names of arms and sources as parts of paths and ids."""

from __future__ import annotations


def slug(name: str) -> str:
    """``name`` with letters, digits and ``.+-`` as they are and everything else as ``_``."""
    return "".join(c if c.isalnum() or c in ".+-" else "_" for c in name).strip(".") or "_"
