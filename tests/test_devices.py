"""Where a model computes."""

from __future__ import annotations

import pytest
import torch

from vademecum import devices


def test_a_device_that_is_there() -> None:
    assert devices.chosen("cpu") == torch.device("cpu")
    assert devices.chosen(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "xla", "meta", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="expected cpu"):
        devices.chosen(name)
