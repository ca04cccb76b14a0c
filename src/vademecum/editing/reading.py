"""The host as it is: how it goes on, and what its layers read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vademecum import hosts
from vademecum.attached import ROOT, Memories
from vademecum.editing.locating import tokens_of
from vademecum.surgery import knocked_out

#: Texts of a forward that only looks, and how many times as many a GPU looks at, which is idle at so few.
LOOKED_AT, ON_GPU = 32, 8


def greedy(model: Any, tokenizer: Any, texts: Sequence[str], tokens: int) -> list[str]:
    """How the model goes on, the likeliest token every time, with nothing of the target given."""
    found = went_on(model, [tokens_of(tokenizer, text) for text in texts], tokens)
    return [tokenizer.decode(one, skip_special_tokens=True) for one in found]


def went_on(model: Any, texts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The likeliest ``tokens`` ids after each of ``texts``."""
    said: list[list[int]] = []
    together = LOOKED_AT * (ON_GPU if model.device.type == "cuda" else 1)
    for start in range(0, len(texts), together):
        ids, mask = padded(texts[start : start + together], left=True)
        ids, mask = ids.to(model.device), mask.to(model.device)
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=_plain(model, tokens))
        said += out[:, ids.shape[1] :].tolist()
    return said


def _plain(model: Any, tokens: int) -> Any:
    """The likeliest token every time until the text ends, whatever else the model's own settings say."""
    import transformers

    library: Any = transformers
    end = getattr(model.generation_config, "eos_token_id", None)
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
        for module, training in modes.items():
            module.training = training


def states(model: Any, host: hosts.Host, texts: Sequence[tuple[list[int], list[int]]], layers: Sequence[int]) -> Tensor:
    """``[L, P, d]`` what the value projections of ``layers`` read at the places of ``texts``, in their order."""
    seen: dict[int, Tensor] = {}
    found: list[Tensor] = []
    handles = [
        host.module(layer, "value").register_forward_pre_hook(
            lambda _, given, layer=layer: seen.__setitem__(layer, given[0].detach())
        )
        for layer in layers
    ]
    try:
        for start in range(0, len(texts), LOOKED_AT):
            some = texts[start : start + LOOKED_AT]
            ids, mask = padded([one for one, _ in some], left=False)
            with torch.no_grad(), silent(model):
                host.base(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
            for row, (_, places) in enumerate(some):
                found.append(torch.stack([seen[layer][row, places].float().cpu() for layer in layers]))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found, 1)


@contextmanager
def silent(model: nn.Module) -> Iterator[None]:
    """Within the block, memories that are on the model contribute nothing."""
    if isinstance(getattr(model, ROOT, None), Memories):
        with knocked_out(model):
            yield
    else:
        yield


def padded(texts: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids ``[B, T]`` and their mask, padded on the left (to go on from) or on the right."""
    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        at = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, at], mask[row, at] = torch.tensor(list(text)), 1
    return ids, mask
