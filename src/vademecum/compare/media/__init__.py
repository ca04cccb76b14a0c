"""What arms are compared on: texts, or pictures. Training, matching, seeds and tables are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from vademecum.compare.media.base import Materials, Medium, Words

__all__ = ["Materials", "Medium", "Words", "from_dict"]

_FORMS: Mapping[str, tuple[str, str]] = {
    "text": ("vademecum.compare.media.text", "Text"),
    "pictures": ("vademecum.compare.media.pictures", "Pictures"),
}


def from_dict(values: Mapping[str, Any]) -> Medium:
    """A medium from its plain data; one that this version does not know is a ValueError."""
    form, settings = values["form"], {name: value for name, value in values.items() if name != "form"}
    if form not in _FORMS:
        raise ValueError(f"the medium is '{form}'; it must be one of {', '.join(_FORMS)}.")
    module, name = _FORMS[form]
    made = cast("Callable[..., Medium]", getattr(import_module(module), name))
    return made(**settings)
