"""Drawing pictures, token by token, through the host's own cached ``generate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vademecum.images.tokens import Ids, Vocabulary
from vademecum.training.evaluate import evaluating


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        guidance: classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, eq. 6 with w = guidance - 1): logits
            are those without a class plus so many times what the class changes. 1 is none; 2 and more trade variety
            for likeness.
        temperature: above 0; lower is more likely.
        top_k: so many of the likeliest codes may be drawn; 0 for all.
        top_p: the likeliest codes of this share of the probability may be drawn.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance={self.guidance} was given; expected a number of 0 or more, 1 for none.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} was given; expected a number above 0, such as 1.0.")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_k={self.top_k} and top_p={self.top_p} were given; expected top_k of 0 (all) or more and top_p "
                "above 0, at most 1."
            )

    def require(self, drop: float) -> None:
        """Raise ValueError where guidance is asked of a model that was trained with ``drop`` 0.

        It never saw a picture without its class.
        """
        if self.guidance != 1 and not drop:
            raise ValueError(
                f"guidance={self.guidance:g} was given, and this model was trained with drop=0: it never saw a picture "
                "without its class. Train with --drop 0.1, or sample with --guidance 1."
            )

    def warpers(self) -> LogitsProcessorList:
        """The host library's own warpers, in its order."""
        made = LogitsProcessorList()
        if self.temperature != 1:
            made.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            made.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            made.append(TopPLogitsWarper(self.top_p))
        return made


class _Draw(LogitsProcessor):
    """Leaves one code per row, drawn by given numbers; rows with a class and without it stand below one another.

    The draw is made here, not in ``generate``: both halves of a guided batch must go on with the same code, and the
    numbers must not depend on the batch or on the arm, so that arms can be compared picture by picture.
    """

    def __init__(self, codes: int, sampling: Sampling, numbers: Tensor) -> None:
        self.codes, self.sampling, self.numbers = codes, sampling, numbers
        self._warpers = sampling.warpers()
        self._made = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores[:, : self.codes].double()
        guided = len(logits) == 2 * len(self.numbers)
        if guided:
            with_class, without = logits.log_softmax(-1).chunk(2)
            logits = without + self.sampling.guidance * (with_class - without)
        shares = self._warpers(input_ids[: len(logits)], logits).softmax(-1).cumsum(-1)  # type: ignore[arg-type]
        number = self.numbers[:, self._made, None].to(shares)
        self._made += 1
        # The first code whose share of the probability reaches beyond the number.
        chosen = (shares <= number * shares[:, -1:]).sum(-1).clamp(max=self.codes - 1)
        left = torch.full_like(scores, -torch.inf)
        left.scatter_(1, (torch.cat([chosen, chosen]) if guided else chosen)[:, None], 0.0)
        return left


@torch.no_grad()
def draw(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    labels: NDArray[np.int64],
    *,
    length: int,
    sampling: Sampling,
    seed: int,
    begun: Ids | None = None,
    batch: int = 64,
    on_step: Callable[[int], Any] | None = None,
) -> Ids:
    """Draw a picture for each label.

    Args:
        model: a decoder over ``vocabulary``, with memories or without; its mode is put back.
        vocabulary: of the run.
        labels: [N]; a label of -1 stands for any class.
        length: tokens T of a picture.
        sampling: how codes are chosen.
        seed: of the numbers that are drawn; equal seeds give each picture the same numbers, whatever the batch.
        begun: [N, P] codes that the pictures begin with, P < T.
        batch: pictures in one call of ``generate``; with guidance it runs over twice as many rows.
        on_step: called with the number of pictures done after each batch.

    Returns:
        Codes [N, T].

    Raises:
        ValueError: guidance is asked of a model that never saw "any class", or ``begun`` does not fit.
    """
    sampling.require(vocabulary.drop)
    labels = np.asarray(labels, dtype=np.int64)
    given = 0 if begun is None else int(begun.shape[1])
    if given >= length or (begun is not None and len(begun) != len(labels)):
        raise ValueError(
            f"{0 if begun is None else len(begun)} beginnings of {given} codes were given for {len(labels)} pictures "
            f"of {length}; expected one for each, shorter than a picture."
        )
    numbers = torch.rand(len(labels), length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first = np.where(labels < 0, vocabulary.any, vocabulary.of(labels))[:, None]
    found = []
    with evaluating(model):
        for start in range(0, len(labels), batch):
            part = slice(start, start + batch)
            heads = (
                [first[part]] if sampling.guidance == 1 else [first[part], np.full_like(first[part], vocabulary.any)]
            )
            rows = [head if begun is None else np.concatenate([head, begun[part]], axis=1) for head in heads]
            ids = torch.from_numpy(np.concatenate(rows)).to(model.device)
            made: Any = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=length - given,
                eos_token_id=None,
                pad_token_id=vocabulary.any,
                logits_processor=LogitsProcessorList(
                    [_Draw(vocabulary.codes, sampling, numbers[part, given:].to(ids.device))]
                ),
            )
            found.append(made[: len(rows[0]), 1:].cpu().numpy())
            if on_step is not None:
                on_step(len(rows[0]))
    return np.concatenate(found) if found else np.zeros((0, length), dtype=np.int64)
