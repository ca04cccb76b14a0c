"""Ways to make a model say something else: entries, and what they are measured against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import Fact, plan, prompts
from vademecum.editing.learning import line_of
from vademecum.editing.locating import spelled, tokens_of
from vademecum.editing.reading import as_it_was, padded

Progress = Callable[[int, int], None]
#: Facts that a method which trains weights learns from at a time.
BATCH = 16


class Method(ABC):
    """How facts come into a model.

    Attributes:
        name: what it is called.
        title: in words.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        """Make ``facts`` hold; returns the bytes that this takes, and the model to ask."""

    def asked(self, text: str, fact: Fact) -> str:
        """What the model is given in the place of ``text``."""
        return text


class WithEntries(Method):
    """Entries of this library."""

    name = "entries"
    title = "entries (this library)"

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        edit = plan(model, facts, tokenizer, progress=progress).apply()
        return edit.overlay.nbytes, model


class InThePrompt(Method):
    """The fact stands before the question, as a retriever that never errs would put it there."""

    name = "prompt"
    title = "the fact put into the prompt"

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        progress(len(facts), len(facts))
        return sum(len(f"{fact.prompt} {fact.target}.".encode()) for fact in facts), model

    def asked(self, text: str, fact: Fact) -> str:
        return f"{fact.prompt} {fact.target}. {text}"


class FineTuning(Method):
    """Adam on one feed-forward's last map, as constrained fine-tuning is compared with in the literature (FT-M)."""

    name = "finetune"
    title = "fine-tuning of one layer's feed-forward"
    epochs: ClassVar[int] = 12
    lr: ClassVar[float] = 5e-4

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        weight = _down(hosts.find(model)).weight
        _trained(model, tokenizer, facts, [weight], lr=self.lr, epochs=self.epochs, progress=progress)
        return weight.nbytes, model


class LowRank(Method):
    """LoRA of rank 8 on queries and values of all layers (arXiv:2106.09685), by peft."""

    name = "lora"
    title = "LoRA (peft), rank 8"
    epochs: ClassVar[int] = 12
    lr: ClassVar[float] = 2e-3

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        try:
            import peft
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "peft cannot be found, with which this baseline is trained; run 'pip install vademecum[study]', or "
                "leave lora out."
            ) from error
        settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted: Any = peft.get_peft_model(model, settings)
        weights = [one for one in adapted.parameters() if one.requires_grad]
        _trained(adapted, tokenizer, facts, weights, lr=self.lr, epochs=self.epochs, progress=progress)
        return sum(one.nbytes for one in weights), adapted


class RankOne(Method):
    """One update of rank one per fact to a feed-forward's last map, one after another (ROME, arXiv:2202.05262).

    The key is what the map reads at the subject's last token, a mean over openings; the value is found by gradient
    (20 steps); the update ``(v - W k) (C^-1 k)^T / (k^T C^-1 k)`` moves as little else as it can, where C is the second
    moment of keys in plain text (equation 2).
    """

    name = "rank-one"
    title = "rank-one editor (ROME)"
    steps: ClassVar[int] = 20
    lr: ClassVar[float] = 0.3
    decay: ClassVar[float] = 0.01

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._known: Tensor | None = None

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        down = _down(hosts.find(model))
        # Of the host as it was, once for all facts and all runs: that is what the method asks for.
        moment = self._known = self._moment(model, tokenizer, down) if self._known is None else self._known
        for number, fact in enumerate(facts, start=1):
            key = self._key(model, tokenizer, down, fact)
            value, now = self._value(model, tokenizer, down, fact)
            direction = torch.linalg.solve(moment, key)
            with torch.no_grad():
                down.weight.addr_((value - now), direction / (key @ direction))
            progress(number, len(facts))
        return down.weight.nbytes, model

    def _moment(self, model: Any, tokenizer: Any, down: Any) -> Tensor:
        width = down.weight.shape[1]
        total, count = torch.zeros(width, width, device=down.weight.device), 0
        for start in range(0, len(self._texts), BATCH):
            some = [tokens_of(tokenizer, one)[:128] for one in self._texts[start : start + BATCH]]
            ids, mask = _batch(model, some)
            keys = _read(model, down, ids, mask)[mask.bool()]
            total += keys.t() @ keys
            count += len(keys)
        # A little of the mean on the diagonal, since a small text does not span all directions.
        total /= count
        return total + 1e-2 * total.diagonal().mean() * torch.eye(len(total), device=total.device)

    def _key(self, model: Any, tokenizer: Any, down: Any, fact: Fact) -> Tensor:
        ways = [fact.relation, *(opening.format(fact.relation) for opening in prompts.OPENINGS)]
        found = []
        for way in ways:
            text = way.replace("{}", fact.subject)
            ids, mask = _batch(model, [tokens_of(tokenizer, text)])
            found.append(_read(model, down, ids, mask)[0, spelled(tokenizer, text, fact.subject)[1]])
        return torch.stack(found).mean(0)

    def _value(self, model: Any, tokenizer: Any, down: Any, fact: Fact) -> tuple[Tensor, Tensor]:
        """What the map shall put out at the subject's last token, and what it puts out."""
        ways = [fact.relation, *(opening.format(fact.relation) for opening in prompts.OPENINGS)]
        texts = [way.replace("{}", fact.subject) for way in ways]
        lines = [line_of(tokenizer, text, fact.target) for text in texts]
        places = torch.tensor([spelled(tokenizer, text, fact.subject)[1] for text in texts])
        ids, mask = _batch(model, [line.ids for line in lines])
        rows, places = torch.arange(len(lines), device=ids.device), places.to(ids.device)
        delta = torch.zeros(down.weight.shape[0], device=ids.device, requires_grad=True)
        seen: list[Tensor] = []

        def add(_: Any, __: Any, out: Tensor) -> Tensor:
            seen.append(out[rows, places].detach())
            return out.index_put((rows, places), delta.expand(len(rows), -1), accumulate=True)

        optimizer = torch.optim.Adam([delta], lr=self.lr)
        handle = down.register_forward_hook(add)
        try:
            for _ in range(self.steps):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
                said = [
                    logits[row, place - 1, line.ids[place]]
                    for row, line in enumerate(lines)
                    for place in range(line.begin, len(line.ids))
                ]
                loss = -torch.stack(said).mean() + self.decay * delta.square().sum()
                (delta.grad,) = torch.autograd.grad(loss, [delta])
                optimizer.step()
        finally:
            handle.remove()
        now = seen[0].mean(0)
        return now + delta.detach(), now


def _batch(model: Any, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids, mask = padded(texts, left=False)
    return ids.to(model.device), mask.to(model.device)


def _down(host: hosts.Host) -> Any:
    """The last map of the feed-forward a third of the way up, where the literature edits facts."""
    layer = host.shape.layers // 3
    return host.module(layer, "feed_forward").get_submodule(host.family.names.down)


def _read(model: Any, module: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad(), as_it_was(model):
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        handle.remove()
    return seen[0].float()


def _trained(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    weights: Sequence[nn.Parameter],
    *,
    lr: float,
    epochs: int,
    progress: Progress,
) -> None:
    """Teach ``facts`` by Adam on ``weights``, a few at a time, each in turn asked for in another way."""
    optimizer = torch.optim.Adam(weights, lr=lr)
    for epoch in range(epochs):
        for start in range(0, len(facts), BATCH):
            lines = []
            for fact in facts[start : start + BATCH]:
                ways = prompts.paraphrases(fact)
                lines.append(line_of(tokenizer, ways[epoch % len(ways)].replace("{}", fact.subject), fact.target))
            ids, mask = _batch(model, [line.ids for line in lines])
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
            said = [
                logits[row, place - 1, line.ids[place]]
                for row, line in enumerate(lines)
                for place in range(line.begin, len(line.ids))
            ]
            found = torch.autograd.grad(-torch.stack(said).mean(), list(weights))
            for weight, gradient in zip(weights, found, strict=True):
                weight.grad = gradient
            optimizer.step()
        progress((epoch + 1) * len(facts) // epochs, len(facts))
    for weight in weights:
        weight.grad = None
