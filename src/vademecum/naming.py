"""An attached model's state dict speaks the host's names, so that checkpoints of it are checkpoints of the host.

Wrapping a module would rename its tensors (``v_proj.weight`` to ``v_proj.host.weight``), and a checkpoint written by
``save_pretrained`` or Trainer would then load elsewhere with those modules freshly initialised. The memory's own
tensors stand beside the host's, as ``v_proj.memory.move...`` and ``vademecum.shared...``; a bare host ignores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from vademecum.memory.sites import SiteWrapper

HOST, MEMORY = "host.", "memory."


def saved_path(path: str, wrappers: Iterable[str]) -> str:
    """``path`` of a module as its tensors are saved: the wrappers that it lies in leave no trace in it."""
    for outer in sorted(wrappers, key=len, reverse=True):
        if path.startswith(f"{outer}.{HOST}"):
            path = f"{outer}.{path.removeprefix(f'{outer}.{HOST}')}"
    return path


class SavedNames:
    """Hook after ``state_dict``; ``wrappers`` by their path in the model."""

    def __init__(self, wrappers: Mapping[str, SiteWrapper]) -> None:
        # A wrapper may lie in another: its names are put right before the outer one's.
        self.wrappers = {path: wrappers[path] for path in sorted(wrappers, key=len, reverse=True)}

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Wrapped tensors get the host's names, resting modules are added as they were."""
        for path, wrapper in self.wrappers.items():
            here = f"{prefix}{path}."
            for name in [name for name in state if name.startswith(here + HOST)]:
                tensor = state.pop(name)
                if not wrapper.replaced:  # what is left of a map is in the map as it was
                    state[here + name.removeprefix(here + HOST)] = tensor
            if wrapper.replaced:
                state.update({here + name: tensor for name, tensor in wrapper.original().state_dict().items()})


class LoadedNames:
    """Hook before ``load_state_dict``; the inverse of :class:`SavedNames`."""

    def __init__(self, wrappers: Mapping[str, SiteWrapper]) -> None:
        self.wrappers = {path: wrappers[path] for path in sorted(wrappers, key=len)}

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
                state.update({here + HOST + short: tensor for short, tensor in wrapper.host.state_dict().items()})
            else:
                state.update({here + HOST + short: tensor for short, tensor in tensors.items()})
