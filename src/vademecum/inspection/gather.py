"""One pass of a model over the seven domains, with everything it reported kept token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

import vademecum as vm
from vademecum import data
from vademecum.analysis.experts import layer_of
from vademecum.data import DomainTokens

TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class Windows:
    """Text as the model is given it.

    Attributes:
        domains: names of the domains.
        inputs: ``[W, T]`` ids; a window holds one domain.
        targets: ``[W, T]`` the id that truly follows each.
        domain: ``[W]`` which domain a window is of.
        heldout: by domain, how many of its input tokens are of held-out documents.
    """

    domains: tuple[str, ...]
    inputs: Tensor
    targets: Tensor
    domain: Tensor
    heldout: Mapping[str, int]

    def counts(self) -> dict[str, int]:
        """Input tokens by domain."""
        per_window = self.inputs.shape[1]
        return {name: int((self.domain == i).sum()) * per_window for i, name in enumerate(self.domains)}

    def thinned(self, per_domain: int) -> tuple[Windows, Tensor]:
        """So many windows of each domain that they hold about ``per_domain`` tokens, spread evenly, at least one.

        Returns:
            The windows, and the places ``[n]`` of their tokens among those of all windows.
        """
        length, kept = self.inputs.shape[1], []
        for i in range(len(self.domains)):
            here = (self.domain == i).nonzero().squeeze(1)
            wanted = min(len(here), max(1, per_domain // length))
            kept.append(here[torch.arange(wanted) * len(here) // wanted])
        rows = torch.cat(kept)
        places = (rows[:, None] * length + torch.arange(length)).flatten()
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], domain=self.domain[rows]), places


@dataclass(frozen=True)
class Seen:
    """What the model reported for N = W·T tokens, on the CPU.

    Attributes:
        domains: names of the domains.
        ids: ``[N]`` input ids; ``following`` ``[N]`` the true next ones, ``predicted`` ``[N]`` the likeliest next ones.
        domain: ``[N]`` domain of each token.
        window: ``[N]`` window of each token.
        layers: by layer key, the per-token statistics that were asked for: ``experts`` ``[N, K]``, ``gates``
            ``[N, H, M+1]``.
        experts: by layer key, the number of experts.
    """

    domains: tuple[str, ...]
    ids: Tensor
    following: Tensor
    predicted: Tensor
    domain: Tensor
    window: Tensor
    layers: Mapping[str, Mapping[str, Tensor]]
    experts: Mapping[str, int]

    def having(self, name: str) -> dict[str, Tensor]:
        """Statistic ``name`` by the key of the layers that report it."""
        return {key: values[name] for key, values in self.layers.items() if name in values}


def windows(texts: Mapping[str, DomainTokens], length: int) -> Windows:
    """Cut each domain's tokens into windows of ``length``, each with its true next tokens.

    Raises:
        ValueError: a domain has too few tokens for one window.
    """
    cut, domain = [], []
    for i, (name, text) in enumerate(texts.items()):
        if len(text.ids) <= length:
            raise ValueError(
                f"the domain {name} has {len(text.ids)} tokens, and one window of the model takes {length + 1}; give "
                f"--tokens {length + 1} or more."
            )
        cut.append(torch.from_numpy(data.heldout_windows(text.ids, length)))
        domain += [i] * len(cut[-1])
    ids = torch.cat(cut)
    held = {name: min(text.heldout, len(part) * length) for (name, text), part in zip(texts.items(), cut, strict=True)}
    return Windows(tuple(texts), ids[:, :-1], ids[:, 1:], torch.tensor(domain), held)


@torch.no_grad()
def reported(model: PreTrainedModel) -> set[str]:
    """Names of the statistics that the model's layers report; none where nothing is attached to a dense host."""
    with ExitStack() as listening:
        try:
            rec = listening.enter_context(vm.record(model))
        except ValueError:
            return set()
        model(input_ids=torch.zeros(1, 4, dtype=torch.long, device=model.device), use_cache=False)
    return {name for forward in rec.forwards for values in forward.values() for name in values}


@torch.no_grad()
def gather(model: PreTrainedModel, shown: Windows, wanted: Sequence[str], *, what: str = "reading") -> Seen:
    """Run the model over all windows under ``vm.record`` and keep the statistics named in ``wanted``.

    Args:
        model: in evaluation mode.
        shown: the text.
        wanted: ``"experts"``, ``"gates"``; layers that report neither are left out.
        what: says on the progress bar what is done.
    """
    length = shown.inputs.shape[1]
    step = max(1, TOKENS_PER_BATCH // length)
    predicted: list[Tensor] = []
    kept: dict[str, dict[str, list[Tensor]]] = {}
    experts: dict[str, int] = {}
    starts = range(0, len(shown.inputs), step)
    for start in tqdm(starts, desc=what, unit="batch", leave=False):
        ids = shown.inputs[start : start + step].to(model.device)
        with vm.record(model) as rec:
            logits = model(input_ids=ids, use_cache=False).logits
        predicted.append(logits.argmax(-1).flatten().cpu())
        for key, values in (pair for forward in rec.forwards for pair in forward.items()):
            for name in wanted:
                if name in values:
                    small = values[name].to(torch.int16 if name == "experts" else torch.float32)
                    kept.setdefault(key, {}).setdefault(name, []).append(small.cpu())
            if "experts" in values:
                experts[key] = len(values["load"])
    joined = {
        key: {name: torch.cat(parts) if name != "experts" else torch.cat(parts).long() for name, parts in each.items()}
        for key, each in sorted(kept.items(), key=lambda pair: (pair[0].rsplit(".", 1)[0], layer_of(pair[0])))
    }
    return Seen(
        domains=shown.domains,
        ids=shown.inputs.flatten(),
        following=shown.targets.flatten(),
        predicted=torch.cat(predicted),
        domain=shown.domain.repeat_interleave(length),
        window=torch.arange(len(shown.inputs)).repeat_interleave(length),
        layers=joined,
        experts=experts,
    )
