"""What is asked of an edited model: free greedy generation, nothing of the answer given, all edits in place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vademecum.editing import Fact
from vademecum.editing.locating import tokens_of
from vademecum.editing.reading import as_it_was, greedy
from vademecum.studies.editing_records import Record, answers

#: Tokens that an answer may take, and of a text that shows how fluent the model is.
ANSWER, LONG = 8, 40
#: Nats a token at most, which a model that says nothing of sense may lose; more would be no number.
MOST = 700.0
Asked = Callable[[str, Fact], str]
#: What is measured, and what it means; all but the last three are shares of what was asked.
MEASURES = {
    "efficacy": "the prompt is answered with the target",
    "paraphrase": "another way to ask, which the host answers rightly, is answered with the target",
    "paraphrase, all": "the same over all other ways to ask",
    "negation": "where the target would be wrong it is not said",
    "two-hop": "what follows from the fact is said",
    "same subject": "another thing about the subject begins with the word that it began with",
    "same subject, exact": "and goes on for eight tokens as it did",
    "neighbours": "the same of another subject goes on for eight tokens as it did",
    "turned": "the same of another subject, after this one was named, begins with the word that it began with",
    "bitwise": "a text without a subject has the host's very logits",
    "perplexity": "of texts without a subject",
    "perplexity, subject": "of texts with a subject",
    "fluency": "entropy of pairs and triples of words in 40 tokens after the prompt, in bits",
}


@dataclass(frozen=True)
class Before:
    """What the host said and thought, to compare with.

    Attributes:
        said: continuations by prompt.
        logits: of the last token of each text without a subject.
    """

    said: dict[str, str]
    logits: list[torch.Tensor]


@dataclass(frozen=True)
class Texts:
    """Plain texts, without any subject and with one."""

    without: tuple[str, ...]
    containing: tuple[str, ...]


def before(model: Any, tokenizer: Any, records: Sequence[Record], without: Sequence[str]) -> Before:
    """What the bare host says to everything that will be asked, and after texts ``without`` a subject."""
    with as_it_was(model):
        prompts = list(dict.fromkeys(prompt for record in records for prompt in _all(record)))
        said = dict(zip(prompts, greedy(model, tokenizer, prompts, ANSWER), strict=True))
        return Before(said, [_logits(model, tokenizer, text) for text in without])


def scores(
    model: Any, tokenizer: Any, records: Sequence[Record], texts: Texts, then: Before, asked: Asked
) -> dict[str, float | None]:
    """Every measure of :data:`MEASURES`; None where nothing was asked."""
    with as_it_was(model):
        wanted = [(record, prompt) for record in records for prompt in _all(record)]
        said = greedy(model, tokenizer, [asked(prompt, record.fact) for record, prompt in wanted], ANSWER)
        found = {(id(record), prompt): text for (record, prompt), text in zip(wanted, said, strict=True)}
        shares: dict[str, list[bool]] = {}

        def note(name: str, held: bool) -> None:
            shares.setdefault(name, []).append(held)

        for record in records:
            target, now = record.fact.target, {prompt: found[id(record), prompt] for prompt in _all(record)}
            note("efficacy", answers(now[record.fact.prompt], target))
            for prompt in record.paraphrases:
                note("paraphrase, all", answers(now[prompt], target))
                if answers(then.said[prompt], record.true):
                    note("paraphrase", answers(now[prompt], target))
            note("negation", not answers(now[record.negation], target))
            if record.two_hop is not None:
                note("two-hop", answers(now[record.two_hop[0]], record.two_hop[1]))
            for prompt in record.same_subject:
                note("same subject", now[prompt].split()[:1] == then.said[prompt].split()[:1])
                note("same subject, exact", now[prompt] == then.said[prompt])
            for prompt in record.turned:
                note("turned", now[prompt].split()[:1] == then.said[prompt].split()[:1])
            for prompt in record.neighbours:
                note("neighbours", now[prompt] == then.said[prompt])
        for text, logits in zip(texts.without, then.logits, strict=True):
            note("bitwise", torch.equal(_logits(model, tokenizer, text), logits))
        result: dict[str, float | None] = {
            name: sum(shares[name]) / len(shares[name]) if shares.get(name) else None for name in MEASURES
        }
        result["perplexity"] = _perplexity(model, tokenizer, texts.without)
        result["perplexity, subject"] = _perplexity(model, tokenizer, texts.containing)
        some = [asked(record.fact.prompt, record.fact) for record in records[:24]]
        spoken = greedy(model, tokenizer, some, LONG)
        result["fluency"] = sum(map(_fluency, spoken)) / len(spoken)
    return result


def _all(record: Record) -> list[str]:
    hops = [] if record.two_hop is None else [record.two_hop[0]]
    own = [record.fact.prompt, *record.paraphrases, record.negation, *hops]
    return list(dict.fromkeys([*own, *record.same_subject, *record.neighbours, *record.turned]))


def _logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    ids = torch.tensor([tokens_of(tokenizer, text)], device=model.device)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits[0, -1].clone()
    return found


def _perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float | None:
    lost, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokens_of(tokenizer, text)], device=model.device)
        with torch.no_grad():
            known = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        lost -= float(known.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    return math.exp(min(lost / count, MOST)) if count else None


def _fluency(text: str) -> float:
    """Weighted entropy of pairs and triples of words, as ROME's evaluation measures repetition."""
    words = text.split()
    total = 0.0
    for length, weight in ((2, 2 / 3), (3, 4 / 3)):
        seen = Counter(zip(*(words[start:] for start in range(length)), strict=False))
        whole = sum(seen.values())
        total += weight * -sum(n / whole * math.log2(n / whole) for n in seen.values()) if whole else 0.0
    return total / 2
