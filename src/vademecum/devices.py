"""Where a model computes."""

from __future__ import annotations

import torch


def chosen(name: str | None) -> torch.device:
    """The device called ``name``; the GPU where there is one, where None.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it has shapes and no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).strip() or type(error).__name__
        raise ValueError(
            f"device={name!r} was given, and cannot be computed on here ({said.splitlines()[0]}); expected cpu, or "
            f"such as cuda where there is a GPU."
        ) from error
    return device
