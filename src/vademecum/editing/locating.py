"""Where a subject stands among the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vademecum.memory.entries import Spelling


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text`` as the model reads it; ValueError where :func:`require_text` raises one."""
    require_text(text)
    ids: list[int] = tokenizer(text).input_ids
    return ids


def require_text(text: str) -> None:
    """Raise ValueError where ``text`` cannot be written in UTF-8, as what a shell passes on of other codes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is no text ({error.reason}); write it in UTF-8.") from None


def spelled(tokenizer: Any, text: str, subject: str) -> tuple[Spelling, int]:
    """The ids that ``subject`` is in ``text``, and the place of its last token.

    Raises:
        ValueError: it is not there, or its ends are not ends of tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say where in the text its tokens lie; load the tokenizer with "
            f"AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    coded = tokenizer(text, return_offsets_mapping=True)
    cuts, begin = [], text.find(subject)
    if begin < 0:
        raise ValueError(f"the subject {subject!r} is not in {text!r}.")
    found: tuple[Spelling, int] | None = None
    while begin >= 0:
        end = begin + len(subject)
        inside = [
            place
            for place, (first, last) in enumerate(coded.offset_mapping)
            if last > first and first < end and last > begin
        ]
        first, last = coded.offset_mapping[inside[0]][0], coded.offset_mapping[inside[-1]][1]
        # A token may begin with the space before a word; letters of another word it may not have.
        if text[first:begin].strip() or last != end:
            cuts.append(text[first:last])
        else:
            found = tuple(coded.input_ids[place] for place in inside), inside[-1]
        begin = text.find(subject, begin + 1)
    if found is None:
        raise ValueError(
            f"in {text!r} the tokenizer cuts {cuts[-1]!r} where {subject!r} stands, so no token ends with the subject; "
            f"put a space or a mark beside it, or give a subject that ends where a token does."
        )
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found[0]:
        raise ValueError(
            f"the tokenizer does not know {subject!r} and reads it like any other unknown word; no entry can tell it."
        )
    return found


def clean(tokenizer: Any, text: str, subject: str) -> bool:
    """Whether ``subject`` stands in ``text`` where a token ends."""
    try:
        spelled(tokenizer, text, subject)
    except ValueError:
        return False
    return True


def spellings(tokenizer: Any, subjects: Iterable[str], texts: Iterable[str]) -> tuple[Spelling, ...]:
    """Every way that ``subjects`` are spelled: alone, after a space, and in ``texts`` where they stand.

    Raises:
        ValueError: in one of ``texts`` no token ends with the subject.
    """
    found: dict[Spelling, None] = {}
    texts, subjects = list(texts), list(subjects)
    for subject in subjects:
        for text in (subject, f"the {subject}", *(text for text in texts if subject in text)):
            # "US" stands in "the USA" as well, where "USA" is what is meant.
            others = (other for other in subjects if other != subject and subject in other and other in text)
            if clean(tokenizer, text, subject) or not any(clean(tokenizer, text, other) for other in others):
                found[spelled(tokenizer, text, subject)[0]] = None
    return tuple(found)
