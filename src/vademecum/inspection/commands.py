"""The verbs of ``inspect`` as plain functions; the command line binds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vademecum import data
from vademecum.data import DomainTokens
from vademecum.editing import commands as editing_commands
from vademecum.editing import open_edit
from vademecum.editing.locating import require_text, tokens_of
from vademecum.editing.reading import require_places
from vademecum.inspection import expert_page, experts, lookup, lookup_page, page, slot_page, slots
from vademecum.inspection.gather import Windows, gather, reported, windows
from vademecum.inspection.subject import Subject, find
from vademecum.inspection.words import Words
from vademecum.surgery import memories

TOKENS = 20_000
SATURATION_TOKENS = 5_000  # from each domain, for every checkpoint: a mean over so many is known to a fraction of 1 %

_MISSING: Mapping[str, str] = {
    "experts": "no experts; train one with vademecum train --memory moe:experts=16,top_k=4, or look at its slots with "
    "vademecum inspect slots.",
    "gates": "no value memory, so no slots; train one with vademecum train --memory move:slots=4, or look at its "
    "experts with vademecum inspect experts.",
}


def inspect_experts(
    run: str | Path,
    *,
    arm: str | None = None,
    tokens: int = TOKENS,
    out: str | Path | None = None,
    seed: int = 0,
    texts: Mapping[str, DomainTokens] | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Write a page on what the experts of a model learned.

    Args:
        run: folder of a run, of a comparison, or of a Transformers model with experts of its own.
        arm: arm of a comparison.
        tokens: tokens read from each domain.
        out: folder of the page; ``inspect-experts`` in the run's where None.
        seed: decides the shuffles and which passages are shown.
        texts: tokens by domain in place of the seven domains'.
        echo: takes lines for the user.

    Returns:
        The page's path.

    Raises:
        ValueError: the model has no experts, or a domain has too little text.
        FileNotFoundError: there is no such run, or it has no checkpoint.
        data.Unavailable: a domain's text cannot be fetched.
    """
    subject, shown = _opened(run, arm, tokens, texts, "experts")
    seen = gather(subject.model, shown, ("experts",), what="routing")
    earlier: dict[int, Mapping[str, float]] = {}
    final = subject.steps[-1] if subject.steps else None
    some, places = shown.thinned(SATURATION_TOKENS)
    if len(subject.steps) > 1:
        for step in subject.earlier():
            if step != final:
                then = gather(subject.model, some, ("experts",), what=f"routing at step {step}")
                earlier[step] = experts.saturation(then, seen, places)
    found = experts.Findings(
        seen,
        experts.layers_of(seen, seed=seed),
        saturation=earlier,
        saturation_tokens=len(places),
        final_step=final,
        skipped=tuple(subject.skipped),
    )
    return _written(subject, out, "inspect-experts", expert_page.make(subject, shown, found, seed=seed), echo)


def inspect_slots(
    run: str | Path,
    *,
    arm: str | None = None,
    tokens: int = TOKENS,
    out: str | Path | None = None,
    seed: int = 0,
    texts: Mapping[str, DomainTokens] | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Write a page on which tokens and domains open which slots; see :func:`inspect_experts` for the arguments."""
    subject, shown = _opened(run, arm, tokens, texts, "gates")
    seen = gather(subject.model, shown, ("gates",), what="reading")
    found = slots.Findings(seen, slots.layers_of(seen, seed=seed))
    return _written(subject, out, "inspect-slots", slot_page.make(subject, shown, found, seed=seed), echo)


def inspect_lookup(
    model: str,
    text: str,
    *,
    overlay: str | Path | None = None,
    arm: str | None = None,
    out: str | Path | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Write a page on what a text looks up: which slots and entries speak where, and what they change.

    Args:
        model: folder of a run, of a comparison, or of a Transformers model; with ``overlay`` also ``smollm2``.
        text: to read.
        overlay: file that ``vademecum edit`` wrote for that model; what it changes is shown, and what else is on the
            model stays on. Without one all that the memories change is.
        arm: arm of a comparison.
        out: folder of the page; ``inspect-lookup`` beside the overlay or in the model's where None.
        echo: takes lines for the user.

    Returns:
        The page's path.

    Raises:
        ValueError: the text is empty, or the model has no value memory.
        FileNotFoundError: there is no such model or overlay.
    """
    if not text.strip():
        raise ValueError("the text is empty; give --text something to read.")
    require_text(text)
    names: dict[str, list[str]] = {}
    before = None
    if overlay is not None and arm is not None:
        raise ValueError(f"arm={arm!r} is of a comparison, and an overlay of one model; give the one or the other.")
    if overlay is None and model == editing_commands.SMOLLM2 and not Path(model).exists():
        raise ValueError(f"{model} has no memory of its own to look into; give the --overlay that was written for it.")
    if overlay is not None:
        host, spoken = editing_commands.opened(model)
        ids, words = tokens_of(spoken, text), Words(spoken.backend_tokenizer)
        require_places(host, len(ids))
        edit = open_edit(overlay, host, spoken)
        before = lookup.said(host, ids)
        edit.apply()
        called = [f"{fact.prompt} \u2192 {fact.target}" for fact in edit.ordered]
        # Entries of the model's own are no facts, and rows are no entries.
        put = [key for key, one in memories(host).shared.items() if getattr(one, "overlay", None) is edit.overlay]
        names = dict.fromkeys(put, called)
        folder = Path(overlay).resolve().parent
    else:
        subject = find(Path(model), arm)
        host, ids, words = subject.model, subject.tokenizer.encode(text).ids, Words(subject.tokenizer)
        require_places(host, len(ids))
        folder = subject.folder
    made = lookup_page.make(lookup.look(host, ids, names, before=before), words, model=model)
    path = page.write(Path(out) if out is not None else folder / "inspect-lookup", made)
    for line in made.headline:
        echo(line)
    echo(f"\nReport: {path}")
    return path


def _opened(
    run: str | Path, arm: str | None, tokens: int, texts: Mapping[str, DomainTokens] | None, wanted: str
) -> tuple[Subject, Windows]:
    subject = find(Path(run), arm)
    if wanted not in reported(subject.model):
        raise ValueError(f"the model in {subject.folder} has {_MISSING[wanted]}")
    if texts is None:
        if tokens <= subject.length:
            raise ValueError(
                f"--tokens {tokens} was given, and one window of this model takes {subject.length + 1}; give more."
            )
        texts = data.domain_tokens(subject.tokenizer, subject.end, per_domain=tokens + 1)
    return subject, windows(texts, subject.length)


def _written(subject: Subject, out: str | Path | None, name: str, made: page.Page, echo: Callable[[str], None]) -> Path:
    folder = Path(out) if out is not None else subject.folder / name
    path = page.write(folder, made)
    for line in made.headline:
        echo(line)
    echo(f"\nReport: {path}")
    return path
