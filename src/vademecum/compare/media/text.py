"""Texts: sources or the user's own files, and how each arm goes on from the beginnings of held-out documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vademecum import data
from vademecum.compare.media.base import Materials, Words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vademecum.compare.plan import Plan
    from vademecum.pages.drawing import Drawing
    from vademecum.training import Run

PROMPT_TOKENS = 24
NEW_TOKENS = 60

WORDS = Words(
    model="language model",
    shown="Generated text",
    measured="Bits per byte: the negative log-likelihood of held-out text in bits, over the UTF-8 bytes it stands for, "
    "so that it can be compared across tokenizers. {evaluated} Seconds to the baseline\u2019s loss are read off the "
    "curves. Held-out documents are chosen once, by document, and are in neither the training text nor "
    "the tokenizer\u2019s.",
    limits=(
        "Scale. These are small models on little text. What helps here may vanish or grow in models a thousand times "
        "larger; nothing here says which.",
        "Tuning. One recipe serves all arms. An arm that would like another is measured below its best, and "
        "that may be any of them. The ratios of tables and of experts to the host\u2019s rate and the memory\u2019s "
        "start were chosen on factbook\u2019s held-out text at the demo\u2019s host size: factbook\u2019s figures are "
        "not a clean test of memory or experts, those of other texts are. A widened dense feed-forward had no such "
        "search.",
        "One host and one tokenizer. Another family or a larger vocabulary changes what a table addressed by token "
        "ids can hold.",
        "Speed is that of this machine. On a GPU, or with a larger batch, the ratios are others.",
        "Knock-out says how far the trained model leans on its memory; it is not the loss of a model trained without "
        "one.",
        "Seeds vary initialisation and data order, not the split of the text: the interval does not cover another "
        "choice of documents.",
    ),
)


@dataclass(frozen=True)
class Text:
    """Texts as ``data.prepare`` gives them, with the plan's vocabulary."""

    @property
    def words(self) -> Words:
        """What the report says."""
        return WORDS

    def to_dict(self) -> dict[str, Any]:
        """Its form; there are no settings."""
        return {"form": "text"}

    def material(self, plan: Plan, source: str) -> data.Corpus:
        """One source, without a progress bar."""
        return data.prepare(source, vocab_size=plan.vocab_size, progress=False)

    def materials(self, plan: Plan) -> Materials:
        """Prepare every source of ``plan``; one whose text another source already gave is left out."""
        corpora: dict[str, data.Corpus] = {}
        notes, known = [], data.sources()
        for source in plan.data:
            corpus = data.prepare(source, vocab_size=plan.vocab_size)
            if source in known and corpus.name != source:
                notes.append(f"{source} could not be had: {corpus.name} was read in its place.")
            twin = next((name for name, other in corpora.items() if other.key == corpus.key), None)
            if twin is None:
                corpora[source] = corpus
            else:
                notes.append(f"{source} gave the same text as {twin} and is left out.")
        called = [corpus.name for corpus in corpora.values()]
        names = {s: corpus.name if called.count(corpus.name) == 1 else s for s, corpus in corpora.items()}
        return Materials(corpora, names, tuple(notes))

    def measured(self, run: Run, plan: Plan, seed: int) -> dict[str, Any]:
        """The continuations that the first seed's model writes, with the ids they go on from."""
        corpus, length = cast("data.Corpus", run.corpus), run.recipe.length
        begun = prompts(corpus, plan.prompts, length) if seed == plan.seeds[0] else []
        texts = [
            {"ids": ids, "text": continuation(run.model, corpus, ids, length=length, seed=seed)} for ids, _ in begun
        ]
        return {"texts": texts}

    def collected(
        self,
        plan: Plan,
        runs: Sequence[Mapping[str, Any]],
        materials: Materials,
        places: Mapping[tuple[str, str, int], Path],
    ) -> dict[str, Any]:
        """Prompts, how they really go on, and what each arm of the first seed wrote, by source."""
        found: dict[str, Any] = {}
        for source, material in materials.corpora.items():
            corpus, name = cast("data.Corpus", material), materials.names[source]
            decode = corpus.tokenizer.decode
            begun = prompts(corpus, plan.prompts, plan.recipe.length)
            texts = {
                each["arm"]: [_text_after(ids, each["texts"]) for ids, _ in begun]
                for each in runs
                if each["data"] == name and each["seed"] == plan.seeds[0]
            }
            if begun:
                found[name] = {"prompts": [{"prompt": decode(a), "truth": decode(b)} for a, b in begun], "texts": texts}
        return found

    def drawings(self, found: Mapping[str, Any]) -> list[Drawing]:
        """Text needs none."""
        return []

    def section(self, found: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
        """Continuations side by side."""
        blocks = []
        for name, sample in found["samples"].items():
            for i, prompt in enumerate(sample["prompts"]):
                cards = [f'<div class="truth"><b>the held-out text itself</b>{escape(prompt["truth"])}</div>']
                cards += [
                    f"<div><b>{escape(arm)}</b>{escape(texts[i])}</div>"
                    for arm, texts in sample["texts"].items()
                    if i < len(texts) and texts[i] is not None
                ]
                blocks.append(
                    f'<h3 class="note">{escape(name)}</h3><blockquote>{escape(prompt["prompt"])}\u2026</blockquote>'
                    f'<div class="texts">{"".join(cards)}</div>'
                )
        if not blocks:
            return ""
        return (
            '<section id="texts"><h2>Generated text, side by side</h2>'
            '<p class="note">Beginnings of held-out documents, continued by each '
            "arm of the first seed, sampled with the same random numbers (temperature 0.8, the 40 likeliest tokens). "
            "Chosen by position, not by hand. "
            "Models this small write nonsense; look for what kind.</p>" + "".join(blocks) + "</section>"
        )


def prompts(corpus: data.Corpus, count: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Beginnings of ``count`` held-out documents, evenly spaced, and how they really go on (token ids)."""
    first = min(PROMPT_TOKENS, max(1, length // 3))
    new = min(NEW_TOKENS, length - first)
    held = np.asarray(corpus.heldout)
    ends = np.flatnonzero(held == corpus.end_id)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.array([0])
    stops = ends if len(ends) else np.array([len(held)])
    long_enough = [int(a) for a, b in zip(starts, stops, strict=True) if b - a >= first + new]
    if not long_enough or count < 1:
        return []
    chosen = [long_enough[i * len(long_enough) // count] for i in range(min(count, len(long_enough)))]
    return [(held[a : a + first].tolist(), held[a + first : a + first + new].tolist()) for a in chosen]


def continuation(model: PreTrainedModel, corpus: data.Corpus, prompt: list[int], *, length: int, seed: int) -> str:
    """Text that ``model`` writes after ``prompt``, up to a document's end; equal seeds draw equal numbers."""
    import torch

    from vademecum.training.evaluate import evaluating

    ids = torch.tensor([prompt], device=model.device)
    new = min(NEW_TOKENS, length - len(prompt))
    with evaluating(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        generated: Any = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.8,
            top_k=min(40, corpus.vocab_size),
            max_new_tokens=new,
            pad_token_id=corpus.end_id,
            eos_token_id=corpus.end_id,
        )
    written = [token for token in generated[0, len(prompt) :].tolist() if token != corpus.end_id]
    return str(corpus.tokenizer.decode(written))


def _text_after(ids: list[int], texts: Sequence[Mapping[str, Any]]) -> str | None:
    """The text that was written after ``ids``; None where a run was finished with other prompts."""
    return next((str(each["text"]) for each in texts if each["ids"] == ids), None)
