"""Saved memories in fewer bytes: banks in another format, equal rows stored once, rows never read left out."""

from vademecum.converting.banks import Converted, convert

__all__ = ["Converted", "convert"]
