"""An edit of one model: put on, taken off, kept in a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vademecum import hosts
from vademecum.attached import ROOT, Memories
from vademecum.editing import fingerprint, overlay
from vademecum.editing.agreement import require_agreement
from vademecum.editing.damage import Damage
from vademecum.editing.facts import Fact
from vademecum.editing.overlay import Overlay

_log = logging.getLogger(__name__)


class Edit:
    """Facts that can be put on a model and taken off again; the host's own weights never change.

    Attributes:
        model: that it is for.
        overlay: what it writes.
    """

    def __init__(self, model: nn.Module, overlay: Overlay) -> None:
        self.model, self.overlay = model, overlay

    @property
    def applied(self) -> bool:
        """Whether what it writes is on the model, whoever put it there."""
        there = overlays(self.model)
        return any(one is self.overlay for one in there) or self.overlay.digest in {one.digest for one in there}

    @property
    def failed(self) -> list[str]:
        """What was given (prompts, paraphrases, spellings) and the model, left to itself, does not answer as told."""
        return [text for one in self.overlay.speaking for text in one.failed]

    @property
    def disturbed(self) -> list[str]:
        """Prompts that were to be kept and that the model goes on otherwise."""
        return [prompt for one in self.overlay.speaking for prompt in one.disturbed]

    @property
    def asked(self) -> list[str]:
        """Prompts that nobody gave and that were asked before and after: other things about subjects, and neighbours.

        Empty where the edit comes from a file of before they were drawn.
        """
        return list(dict.fromkeys(prompt for one in self.overlay.speaking for prompt in one.asked))

    @property
    def moved(self) -> list[str]:
        """Those of :attr:`asked` after which another token is the likeliest than before."""
        return list(dict.fromkeys(prompt for one in self.overlay.speaking for prompt in one.moved))

    @property
    def damage(self) -> Damage | None:
        """What was measured before it was written; None where nothing but subjects' own texts is touched."""
        found = [line["damage"] for line in self.overlay.journal if "damage" in line]
        return Damage.of(found[-1]) if found else None

    @property
    def ordered(self) -> list[Fact]:
        """The facts, numbered as the entries are on the model."""
        return [self.overlay.written[number].fact for number in self.overlay.order]

    def apply(self) -> Edit:
        """Put it on the model, beside whatever is there; edits may come in any order.

        Beside other memories than it was planned with it is warned of: what it says was not asked there.

        Raises:
            ValueError: it is on already, has nothing to say, contradicts an edit that is on, was made for another
                host, or the model is compiled or being recorded, or runs within torch.inference_mode(). The model is
                then unchanged.
        """
        hosts.require_uncompiled(self.model)
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "apply was called within torch.inference_mode(), whose tensors cannot be trained through afterwards; "
                "leave that block, or write torch.no_grad() in its place."
            )
        if self.applied:
            raise ValueError("this edit is applied already; call undo() first.")
        if not self.overlay.active:
            raise ValueError("this edit holds no fact that could be applied.")
        found = fingerprint.of_model(self.model)
        fingerprint.require_same(self.overlay.made_for, found, "this edit")
        if other := fingerprint.other_memories(self.overlay.made_for, found):
            _log.warning(
                "this edit was planned on the same host with other memories (%s): ask what it says here", other
            )
        there = [fact for other in overlays(self.model) for fact in other.facts]
        require_agreement(self.overlay.facts, there)
        self.overlay.content.put(self.model, self.overlay)
        return self

    def undo(self) -> Edit:
        """Take it off again: the model is then, bit for bit, what it is without it. What fails can be said again.

        Raises:
            ValueError: it is not on the model, or rows that it lies over were trained or loaded since.
        """
        if not self.applied:
            raise ValueError("this edit is not applied; there is nothing to undo.")
        self.overlay.content.take(self.model, self.overlay)
        return self

    def save(self, path: str | Path) -> Path:
        """Write it as one file; see :func:`open_edit`."""
        target = Path(path)
        overlay.write(self.overlay, target)
        return target


def open_edit(path: str | Path, model: nn.Module, tokenizer: Any) -> Edit:
    """The edit in a file, for ``model``; it is not applied.

    Raises:
        FileNotFoundError: there is no such file.
        vademecum.files.Damaged: it is no overlay, or a damaged one.
        ValueError: it was made for another host or tokenizer.
    """
    found = overlay.read(Path(path))
    fingerprint.require_same(found.made_for, fingerprint.of(model, tokenizer), str(path))
    return Edit(model, found)


def overlays(model: nn.Module) -> list[Overlay]:
    """What edits are on ``model``."""
    root = getattr(model, ROOT, None)
    if not isinstance(root, Memories):
        return []
    found = [getattr(one, "overlay", None) for one in root.shared.values()]
    laid = [bank.rewrites.laid.values() for bank in root.banks().values() if bank.rewrites is not None]
    found += [whose for some in laid for _, _, whose in some]
    return list({id(one): one for one in found if isinstance(one, Overlay)}.values())
