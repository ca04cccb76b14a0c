"""Names of arms and sources as parts of paths and ids."""

from __future__ import annotations

import hashlib

from vademecum import files

MOST = 180  # bytes: file systems take 255, and "slots-by-place-", ".png" and what is written aside come with it


def slug(name: str) -> str:
    """``name`` with letters, digits and ``.+-`` as they are and everything else as ``_``; a long one cut and hashed."""
    plain = "".join(c if c.isalnum() or c in ".+-" else "_" for c in name).strip(".") or "_"
    if len(plain.encode()) <= MOST:
        return plain
    return f"{files.short(plain, MOST - 9)}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
