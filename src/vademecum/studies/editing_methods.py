"""Ways to make a model say something else: entries, and what they are measured against."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.editing import Fact, plan, prompts
from vademecum.editing.learning import Line, line_of
from vademecum.editing.locating import spelled, tokens_of
from vademecum.editing.reading import as_it_was, padded

Progress = Callable[[int, int], None]
#: Facts that a method which trains weights learns from at a time; how often it comes by each and how many steps it
#: takes at least, and the mean loss of a target's token, through all facts once, at which that is often enough.
BATCH, EPOCHS, STEPS, LEARNED = 16, 100, 200, 0.05


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

    @property
    def settings(self) -> Mapping[str, float]:
        """What can be set of it."""
        return {}

    def candidates(self) -> Sequence[Method]:
        """The same with other settings, of which the best on facts of their own is measured; none but one here."""
        return (self,)


class AsItIs(Method):
    """Nothing is written: what the host says by itself, to compare with."""

    name = "host"
    title = "the host, not edited"

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        progress(len(facts), len(facts))
        return 0, model


class WithEntries(Method):
    """Entries of this library."""

    name = "entries"
    title = "entries (this library)"

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        edit = plan(model, facts, tokenizer, progress=progress).apply()
        return edit.overlay.nbytes, model


@dataclass(frozen=True)
class InThePrompt(Method):
    """The fact stands before the question (the second form is that of IKE, arXiv:2305.12740, without demonstrations).

    Attributes:
        form: number of one of :attr:`forms`.
    """

    name = "prompt"
    title = "the fact put into the prompt"
    forms: ClassVar[Sequence[str]] = ("{fact} {text}", "New Fact: {fact}\nPrompt: {text}")
    form: int = 1

    @property
    def settings(self) -> Mapping[str, float]:
        return {"form": self.form}

    def candidates(self) -> Sequence[Method]:
        return tuple(InThePrompt(number) for number in range(len(self.forms)))

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        progress(len(facts), len(facts))
        return sum(len(f"{fact.prompt} {fact.target}.".encode()) for fact in facts), model

    def asked(self, text: str, fact: Fact) -> str:
        return self.forms[self.form].format(fact=f"{fact.prompt} {fact.target}.", text=text)


@dataclass(frozen=True)
class FineTuning(Method):
    """Adam on one feed-forward's last map, as constrained fine-tuning is compared with in the literature (FT-M).

    Attributes:
        lr: of Adam.
    """

    name = "finetune"
    title = "fine-tuning of one layer's feed-forward"
    lr: float = 5e-4

    @property
    def settings(self) -> Mapping[str, float]:
        return {"lr": self.lr}

    def candidates(self) -> Sequence[Method]:
        return tuple(FineTuning(lr) for lr in (1e-4, 3e-4, 1e-3, 3e-3))

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        weight = _down(hosts.find(model)).weight
        _trained(model, tokenizer, facts, [weight], lr=self.lr, progress=progress)
        return weight.nbytes, model


@dataclass(frozen=True)
class LowRank(Method):
    """LoRA of rank 8 (arXiv:2106.09685), by peft, on the maps that peft chooses: for most hosts queries and values.

    Attributes:
        lr: of Adam.
    """

    name = "lora"
    title = "LoRA (peft), rank 8"
    lr: float = 1e-3

    @property
    def settings(self) -> Mapping[str, float]:
        return {"lr": self.lr}

    def candidates(self) -> Sequence[Method]:
        return tuple(LowRank(lr) for lr in (1e-4, 3e-4, 1e-3, 3e-3))

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        try:
            import peft
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "peft cannot be found, with which this baseline is trained; run 'pip install vademecum[study]', or "
                "leave lora out."
            ) from error
        settings = peft.LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(0)  # it begins the same whatever was measured before
            adapted: Any = peft.get_peft_model(model, settings)
        weights = [one for one in adapted.parameters() if one.requires_grad]
        _trained(adapted, tokenizer, facts, weights, lr=self.lr, progress=progress)
        return sum(one.nbytes for one in weights), adapted


@dataclass(frozen=True)
class RankOne(Method):
    """One update of rank one per fact to a feed-forward's last map, one after another (ROME, arXiv:2202.05262).

    The key ``k`` is what the map reads at the subject's last token, a mean over openings (equation 3). The value is
    found by gradient after equation 4, the target's likelihood and the divergence of what is said of the subject
    elsewhere from what was, with the decay and the bounds of the authors' program, which the paper does not name. The
    update ``(v - W q) (C^-1 k)^T / (q^T C^-1 k)`` moves as little else as it can (equation 2), where C is the second
    moment of keys in plain text, and q, as in that program, the key of the prompt alone: there the value is met.

    Attributes:
        texts: plain ones.
        height: of the edited layer, as a share of the depth.
        lr: of Adam on the value.
    """

    name = "rank-one"
    title = "rank-one editor (ROME)"
    #: Of the value: steps at most, the loss at which they are enough, what the divergence and the decay count, and how
    #: far it may go, in its own lengths.
    steps: ClassVar[int] = 25
    enough: ClassVar[float] = 0.05
    divergence: ClassVar[float] = 0.0625
    decay: ClassVar[float] = 0.5
    reach: ClassVar[float] = 4.0

    texts: Sequence[str]
    height: float = 1 / 3
    lr: float = 0.5
    _moments: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def settings(self) -> Mapping[str, float]:
        return {"height": self.height, "lr": self.lr}

    def candidates(self) -> Sequence[Method]:
        return tuple(RankOne(self.texts, height, self.lr, self._moments) for height in (1 / 6, 1 / 3, 1 / 2))

    def write(self, model: Any, tokenizer: Any, facts: Sequence[Fact], progress: Progress) -> tuple[int, Any]:
        host = hosts.find(model)
        down, layer = _down(host, self.height), int(host.shape.layers * self.height)
        # Of the host as it was, once for all facts and all runs: that is what the method asks for.
        if layer not in self._moments:
            self._moments[layer] = self._moment(model, tokenizer, down)
        moment = self._moments[layer]
        for number, fact in enumerate(facts, start=1):
            mean, bare = self._keys(model, tokenizer, down, fact)
            moved = self._moved(model, tokenizer, down, fact)
            direction = torch.linalg.solve(moment, mean)
            with torch.no_grad():
                down.weight.addr_(moved, direction / (bare @ direction))
            progress(number, len(facts))
        # Two vectors a fact, until their matrix is smaller.
        pairs = len(facts) * sum(down.weight.shape) * down.weight.element_size()
        return min(down.weight.nbytes, pairs), model

    def _moment(self, model: Any, tokenizer: Any, down: Any) -> Tensor:
        width = down.weight.shape[1]
        total, count = torch.zeros(width, width, device=down.weight.device), 0
        for start in range(0, len(self.texts), BATCH):
            some = [tokens_of(tokenizer, one)[:128] for one in self.texts[start : start + BATCH]]
            ids, mask = _batch(model, some)
            keys = _read(model, down, ids, mask)[mask.bool()]
            total += keys.t() @ keys
            count += len(keys)
        # A little of the mean on the diagonal, since a small text does not span all directions.
        total /= count
        return total + 1e-2 * total.diagonal().mean() * torch.eye(len(total), device=total.device)

    def _keys(self, model: Any, tokenizer: Any, down: Any, fact: Fact) -> tuple[Tensor, Tensor]:
        """What the map reads at the subject's last token, a mean over openings, and in the prompt alone."""
        found = []
        for text in _asked_in_ways(fact):
            ids, mask = _batch(model, [tokens_of(tokenizer, text)])
            found.append(_read(model, down, ids, mask)[0, spelled(tokenizer, text, fact.subject)[1]])
        return torch.stack(found).mean(0), found[0]

    def _moved(self, model: Any, tokenizer: Any, down: Any, fact: Fact) -> Tensor:
        """How far what the map puts out at the subject's last token shall move."""
        texts = _asked_in_ways(fact)
        lines = [line_of(tokenizer, text, fact.target) for text in texts]
        essence = f"{fact.subject} is a"
        texts.append(essence)
        ids, mask = _batch(model, [*(line.ids for line in lines), tokens_of(tokenizer, essence)])
        rows = torch.arange(len(texts), device=ids.device)
        places = torch.tensor([spelled(tokenizer, text, fact.subject)[1] for text in texts], device=ids.device)
        end = int(mask[-1].sum()) - 1
        delta = torch.zeros(down.weight.shape[0], device=ids.device, requires_grad=True)
        seen: list[Tensor] = []
        before: list[Tensor] = []

        def add(_: Any, __: Any, out: Tensor) -> Tensor:
            seen.append(out[rows, places].detach())
            return out.index_put((rows, places), delta.expand(len(rows), -1), accumulate=True)

        optimizer = torch.optim.Adam([delta], lr=self.lr)
        handle = down.register_forward_hook(add)
        try:
            for _ in range(self.steps):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
                before = before or [logits[-1, end].detach()]
                now = logits[-1, end]
                apart = (now.exp() * (now - before[0])).sum()
                # The length of the change over the value's squared, as the program has it; at the start it is 0, where
                # a length has no slope.
                far = (delta.square().sum() + 1e-12).sqrt() / seen[0][0].square().sum()
                loss = -_said(logits, lines).mean() + self.divergence * apart + self.decay * far
                if float(loss.detach()) < self.enough:
                    break
                (delta.grad,) = torch.autograd.grad(loss, [delta])
                optimizer.step()
                with torch.no_grad():
                    delta.mul_((self.reach * seen[0][0].norm() / delta.norm()).clamp(max=1.0))
        finally:
            handle.remove()
        return delta.detach()


def _said(logits: Tensor, lines: Sequence[Line]) -> Tensor:
    """Log probability of every token of the targets, whose lines come first in ``logits`` ``[B, T, V]``."""
    spots = [(row, place) for row, line in enumerate(lines) for place in range(line.begin, len(line.ids))]
    rows = torch.tensor([row for row, _ in spots], device=logits.device)
    places = torch.tensor([place - 1 for _, place in spots], device=logits.device)
    wanted = torch.tensor([lines[row].ids[place] for row, place in spots], device=logits.device)
    return logits[rows, places, wanted]


def _asked_in_ways(fact: Fact) -> list[str]:
    """The fact's own prompt, and the same after every opening."""
    ways = [fact.relation, *(opening.format(fact.relation) for opening in prompts.OPENINGS)]
    return [way.replace("{}", fact.subject) for way in ways]


def _batch(model: Any, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids, mask = padded(texts, left=False)
    return ids.to(model.device), mask.to(model.device)


def _down(host: hosts.Host, height: float = 1 / 3) -> Any:
    """The last map of the feed-forward at a share of the depth; the literature edits about a third of the way up."""
    layer = int(host.shape.layers * height)
    found = host.module(layer, "feed_forward")
    try:
        down = found.get_submodule(host.family.names.down)
    except AttributeError:
        down = None
    if not isinstance(down, nn.Linear):
        raise ValueError(
            f"layer {layer} has a {type(found).__name__} whose last map is "
            f"{'not one' if down is None else f'a {type(down).__name__}'}; fine-tuning and rank-one need an nn.Linear "
            f"there, so name other methods: --method entries --method lora."
        )
    return down


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
    progress: Progress,
) -> None:
    """Teach ``facts`` by Adam on ``weights``, a few at a time, each in turn asked for in another way, until learned."""
    optimizer = torch.optim.Adam(weights, lr=lr)
    epochs = max(EPOCHS, math.ceil(STEPS * BATCH / len(facts)) if len(facts) > BATCH else STEPS)
    past: list[float] = []
    most = max(len(prompts.paraphrases(fact)) for fact in facts)
    for epoch in range(epochs):
        lost: list[Tensor] = []
        for start in range(0, len(facts), BATCH):
            lines = []
            for fact in facts[start : start + BATCH]:
                ways = prompts.paraphrases(fact)
                lines.append(line_of(tokenizer, ways[epoch % len(ways)].replace("{}", fact.subject), fact.target))
            ids, mask = _batch(model, [line.ids for line in lines])
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
            loss = -_said(logits, lines).mean()
            lost.append(loss.detach())
            found = torch.autograd.grad(loss, list(weights))
            for weight, gradient in zip(weights, found, strict=True):
                weight.grad = gradient
            optimizer.step()
        progress((epoch + 1) * len(facts) // epochs, len(facts))
        past.append(sum(map(float, lost)) / len(lost))
        # Every epoch asks in one way; all of them are to be learned, or what comes first, that often.
        if len(past) >= most and max(past[-most:]) <= LEARNED:
            break
    progress(len(facts), len(facts))
    for weight in weights:
        weight.grad = None
