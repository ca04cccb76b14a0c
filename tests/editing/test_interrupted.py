"""An interrupt at any moment leaves the model as it was."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from tests.editing.test_edit import logits
from vademecum import editing
from vademecum.attached import ROOT, Memories


@pytest.mark.parametrize(
    ("of", "name", "call"),
    [
        *((Memories, name, call) for name in ("place", "remove") for call in (1, 2, 3)),
        *((RemovableHandle, "remove", call) for call in (1, 5, 20)),
        (torch.nn.Module, "train", 3),
    ],
)
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_something_is_put_on_or_taken_off_waits_for_that(
    model: Any, words: Any, monkeypatch: pytest.MonkeyPatch, of: type, name: str, call: int
) -> None:
    before = logits(model, words, "The coin of Hav is")
    real, calls = getattr(of, name), []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return real(*given)

    model.train()
    monkeypatch.setattr(of, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        editing.plan(model, [editing.Fact(subject="Hav", prompt="The coin of Hav is", target="mark")], words)
    monkeypatch.undo()
    assert all(module.training for module in model.modules())
    assert not hasattr(model, ROOT)
    assert not any(one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one) for one in model.modules())
    assert torch.equal(before, logits(model.eval(), words, "The coin of Hav is"))
