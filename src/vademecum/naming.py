"""An attached model's state dict speaks the host's names, so that checkpoints of it are checkpoints of the host.

Wrapping a module would rename its tensors (``v_proj.weight`` to ``v_proj.host.weight``), and a checkpoint written by
``save_pretrained`` or Trainer would then load elsewhere with those modules freshly initialised. The memory's own
tensors stand beside the host's, as ``v_proj.memory.move...`` and ``vademecum.shared...``; a bare host ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vademecum.memory.sites import SiteWrapper

HOST, MEMORY = "host.", "memory."


class SavedNames:
    """Hook after ``state_dict``; ``wrappers`` by their path in the model."""

    def __init__(self, wrappers: Mapping[str, SiteWrapper]) -> None:
        self.wrappers = dict(wrappers)

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Wrapped tensors get the host's names, resting modules are added as they were."""
        for path, wrapper in self.wrappers.items():
            here = f"{prefix}{path}."
            for name in [name for name in state if name.startswith(here + HOST)]:
                state[here + name.removeprefix(here + HOST)] = state.pop(name)
            if wrapper.replaced:
                state.update({here + name: tensor for name, tensor in wrapper.original().state_dict().items()})


class LoadedNames:
    """Hook before ``load_state_dict``; the inverse of :class:`SavedNames`."""

    def __init__(self, wrappers: Mapping[str, SiteWrapper]) -> None:
        self.wrappers = dict(wrappers)

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """The host's names become wrapped ones, resting modules take what is theirs."""
        for path, wrapper in self.wrappers.items():
            here = f"{prefix}{path}."
            own = {
                name.removeprefix(here): name
                for name in state
                if name.startswith(here) and not name.startswith((here + HOST, here + MEMORY))
            }
            tensors = {short: state.pop(name) for short, name in own.items()}
            if wrapper.replaced:
                wrapper.original().load_state_dict(tensors, strict=False)
            else:
                state.update({here + HOST + short: tensor for short, tensor in tensors.items()})
