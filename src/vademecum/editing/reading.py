"""The host as it is: how it goes on, and what its layers read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vademecum import hosts, interrupts
from vademecum.attached import ROOT, Memories
from vademecum.editing.locating import tokens_of
from vademecum.surgery import knocked_out

T = TypeVar("T")
#: Texts of a forward that only looks.
LOOKED_AT = 32
#: How many times as many go together where so few leave the processor idle: on a GPU, and in a host so narrow.
ON_GPU, OF_NARROW, NARROW = 8, 4, 256


def batches(model: Any, things: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    """``things`` in order, ``count`` at a time, or several times as many where the processor would be idle."""
    narrow = model.get_input_embeddings().embedding_dim <= NARROW
    together = count * (ON_GPU if model.device.type == "cuda" else OF_NARROW if narrow else 1)
    for start in range(0, len(things), together):
        yield things[start : start + together]


def greedy(model: Any, tokenizer: Any, texts: Sequence[str], tokens: int) -> list[str]:
    """How the model goes on, the likeliest token every time, with nothing of the target given."""
    found = went_on(model, [tokens_of(tokenizer, text) for text in texts], tokens)
    return [tokenizer.decode(one, skip_special_tokens=True) for one in found]


def went_on(model: Any, texts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The likeliest ``tokens`` ids after each of ``texts``."""
    said: list[list[int]] = []
    for some in batches(model, texts, LOOKED_AT):
        ids, mask = padded(some, left=True)
        require_places(model, ids.shape[1] + tokens - 1)
        ids, mask = ids.to(model.device), mask.to(model.device)
        with torch.no_grad(), plain_settings(model) as end:
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=_plain(end, tokens))
        said += out[:, ids.shape[1] :].tolist()
    return said


def next_ids(model: Any, texts: Sequence[list[int]]) -> list[int]:
    """The likeliest id after each of ``texts``, by one forward; those of like length go together."""
    found = [0] * len(texts)
    thinned = "logits_to_keep" in inspect.signature(model.forward).parameters
    for some in batches(model, sorted(range(len(texts)), key=lambda number: len(texts[number])), LOOKED_AT):
        ids, mask = padded([texts[number] for number in some], left=False)
        require_places(model, ids.shape[1])
        ids, mask = ids.to(model.device), mask.to(model.device)
        ends = mask.sum(1) - 1
        kept = torch.unique(ends)
        with torch.no_grad():
            # Where the head lies on another device than the input, indices are fine on neither but the CPU.
            given = {"logits_to_keep": kept.cpu()} if thinned else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits
        columns = torch.searchsorted(kept, ends) if thinned else ends
        likeliest = logits[torch.arange(len(ids), device=ids.device), columns].argmax(-1)
        for number, one in zip(some, likeliest.tolist(), strict=True):
            found[number] = one
    return found


@contextmanager
def plain_settings(model: Any) -> Iterator[Any]:
    """Within the block the model has no settings of its own for what it generates; gives the id that ends a text.

    ``generate`` fills in from them whatever it is not told, and what is asked here is what the model itself would say.
    """
    import transformers

    library: Any = transformers
    own = model.generation_config
    try:
        model.generation_config = library.GenerationConfig()
        yield getattr(own, "eos_token_id", None)
    finally:
        model.generation_config = own


def _plain(end: Any, tokens: int) -> Any:
    """The likeliest token every time until the text ends."""
    import transformers

    library: Any = transformers
    return library.GenerationConfig(
        max_new_tokens=tokens, do_sample=False, num_beams=1, pad_token_id=0, eos_token_id=end
    )


def drawn(model: Any, tokens: int, top: int) -> Any:
    """Drawn from the ``top`` likeliest tokens until ``tokens`` are written, and never ended before."""
    import transformers

    library: Any = transformers
    return library.GenerationConfig(max_new_tokens=tokens, do_sample=True, top_k=top, pad_token_id=0, eos_token_id=None)


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Within the block the model evaluates; afterwards every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        with interrupts.finished():
            for module, training in modes.items():
                module.training = training


def states(model: Any, host: hosts.Host, texts: Sequence[tuple[list[int], list[int]]], layers: Sequence[int]) -> Tensor:
    """``[L, P, d]`` what the value projections of ``layers`` read at the places of ``texts``, in their order."""
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    # Those of like length go together: short ones beside long ones would mostly be padding.
    for some in batches(model, sorted(range(len(texts)), key=lambda number: len(texts[number][0])), LOOKED_AT):
        read, _, _ = _projected(model, host, [texts[number][0] for number in some], layers)
        rows = [row for row, number in enumerate(some) for _ in texts[number][1]]
        places = [place for number in some for place in texts[number][1]]
        # One copy for all of a batch: from a GPU every copy waits for what was asked of it before.
        seen = torch.stack([read[layer][rows, places].float() for layer in layers]).cpu()
        for number, own in zip(some, torch.split(seen, [len(texts[number][1]) for number in some], 1), strict=True):
            found[number] = own
    return torch.cat(found, 1)


def measures_of(model: Any, host: hosts.Host, texts: Sequence[list[int]], layers: Sequence[int]) -> list[float]:
    """Root mean square of the values that ``layers`` make of ``texts``, but for a text's first token, which is odd."""
    _, made, mask = _projected(model, host, texts, layers)
    inside = mask.bool().clone()
    inside[:, 0] &= mask.sum(1) < 2
    return [float(made[layer].float()[inside].square().mean().sqrt()) for layer in layers]


def _projected(
    model: Any, host: hosts.Host, texts: Sequence[list[int]], layers: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """What the value projections of ``layers`` read and make, and the mask of the texts; no memory speaks."""
    read: dict[int, Tensor] = {}
    made: dict[int, Tensor] = {}

    def note(layer: int, _: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
        # Where one map makes queries and keys as well, the value is a part of it.
        value = host.family.slice.split(out.detach(), host.shape.value_heads, host.shape.value_dim)
        read[layer], made[layer] = given[0].detach(), value.flatten(-2)

    ids, mask = padded(texts, left=False)
    require_places(model, ids.shape[1])
    ids, mask = ids.to(model.device), mask.to(model.device)
    handles: list[Any] = []
    try:
        for layer in layers:
            handles.append(host.module(layer, "value").register_forward_hook(functools.partial(note, layer)))
        with torch.no_grad(), silent(model):
            host.base(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        with interrupts.finished():
            for handle in handles:
                handle.remove()
    return read, made, mask


@contextmanager
def silent(model: nn.Module) -> Iterator[None]:
    """Within the block, memories that are on the model contribute nothing."""
    if isinstance(getattr(model, ROOT, None), Memories):
        with knocked_out(model):
            yield
    else:
        yield


def require_places(model: Any, tokens: int) -> None:
    """Raise ValueError where ``tokens`` are more than the host has places for, in a table that ends.

    Where places are turned by (rotary), a host reads on, however badly, and nothing is raised.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is None or tokens <= most:
        return
    words = model.get_input_embeddings()
    tables = [
        one
        for name, one in model.named_modules()
        if isinstance(one, nn.Embedding) and one is not words and name.split(".")[0] != ROOT
    ]
    if any(one.num_embeddings == most for one in tables):
        raise ValueError(
            f"a text of {tokens} tokens is to be read (facts are asked for in longer words than their own too, and "
            f"what is said counts), and this {type(model).__name__} has places for {most}; give a shorter prompt."
        )


def padded(texts: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids ``[B, T]`` and their mask, padded on the left (to go on from) or on the right."""
    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        at = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, at], mask[row, at] = torch.tensor(list(text)), 1
    return ids, mask
