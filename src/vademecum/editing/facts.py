"""Facts to be written: a subject, a prompt that names it, and what the model shall say next."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum.editing.words import goes_on, whole


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact.

    Attributes:
        subject: what it is about, as it stands in the prompt.
        prompt: a text that ends where the target begins, such as "The capital of France is".
        target: how the model shall go on, such as "Lyon".
        spellings: other ways to write the subject; the fact holds for each.
        paraphrases: other prompts that ask the same.
        keep: prompts about the subject whose continuation must stay.
    """

    subject: str
    prompt: str
    target: str
    spellings: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("subject", "prompt", "target"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"a fact has {name}={value!r}; expected a text that is not empty.")
            object.__setattr__(self, name, value.strip())
        for name in ("spellings", "paraphrases", "keep"):
            given = getattr(self, name)
            texts = isinstance(given, (list, tuple)) and all(isinstance(one, str) and one.strip() for one in given)
            if not texts:
                raise ValueError(f"a fact has {name}={given!r}; expected a list of texts.")
            object.__setattr__(self, name, tuple(one.strip() for one in given))
        for text in (self.subject, self.prompt, self.target, *self.spellings, *self.paraphrases, *self.keep):
            if "{}" in text:
                raise ValueError(f"a fact has {text!r}, and {{}} marks the place of a subject here; write it without.")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"a fact has {text!r}, which is no text ({error.reason}); write it in UTF-8."
                ) from None
        for text in (self.prompt, *self.paraphrases):
            if not any(one in text for one in (self.subject, *self.spellings)):
                coded = unicodedata.normalize("NFC", self.subject) in unicodedata.normalize("NFC", text)
                raise ValueError(
                    f"the subject {self.subject!r} is not in the prompt {text!r}; write it there as it stands in "
                    f"subject or spellings, so that the entry has a place to speak from"
                    f"{' (accents are coded otherwise in one of them: code them in one way)' if coded else ''}."
                )

    @property
    def given(self) -> tuple[str, ...]:
        """All that the target shall answer: the prompt, the paraphrases, the prompt of the subject in each spelling."""
        spelled = (self.relation.replace("{}", name) for name in (self.subject, *self.spellings))
        return tuple(dict.fromkeys((self.prompt, *self.paraphrases, *spelled)))

    @property
    def relation(self) -> str:
        """The prompt with a gap where the subject stands: facts of one relation share what they ask."""
        return self.gapped(self.prompt)

    def gapped(self, text: str) -> str:
        """``text`` with a gap where the subject stands, however it is spelled."""
        for subject in sorted((self.subject, *self.spellings), key=len, reverse=True):
            if subject in text:
                # "US" stands in "USA" as well, where it is not meant; where it ends no word at all, it is meant.
                found = re.sub(re.escape(subject), lambda at: "{}" if whole(text, *at.span()) else at[0], text)
                return found if found != text else text.replace(subject, "{}")
        return text

    def in_order(self) -> Fact:
        """The same, whose lists are in the order of their letters: it says the same in any."""
        lists: dict[str, Any] = {
            name: tuple(sorted(getattr(self, name))) for name in ("spellings", "paraphrases", "keep")
        }
        return dataclasses.replace(self, **lists)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Fact:
        """A fact from plain data; an unknown or missing field is named."""
        known = [f.name for f in dataclasses.fields(cls)]
        wrong = [f"no field {name!r}" for name in data if name not in known]
        wrong += [f"{name!r} missing" for name in ("subject", "prompt", "target") if name not in data]
        if wrong:
            raise ValueError(f"a fact has {', '.join(wrong)}; it has {', '.join(known)}.")
        fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in data.items()}
        return cls(**fields)


def read(path: Path) -> list[Fact]:
    """Facts from JSON lines.

    Raises:
        FileNotFoundError: there is no such file; IsADirectoryError where it is a folder.
        ValueError: a line is no fact; the line is named.
    """
    found = []
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file of facts, one JSON object a line.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give one of facts, one JSON object a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it so.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise ValueError("expected an object with subject, prompt and target.")
            found.append(Fact.of(data))
        except RecursionError as error:
            raise ValueError(f"{path}, line {number} is nested too deep; expected one plain object.") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}); write every fact as one object on a line of its "
                f'own, such as {{"subject": "France", "prompt": "The capital of France is", "target": "Lyon"}}.'
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f'{path} has no facts; write a line such as {{"subject": ..., "prompt": ..., "target": ...}}.')
    return found


def says(text: str, target: str) -> bool:
    """Whether ``text`` begins with ``target`` as whole words, whichever way their accents are coded."""
    text, target = unicodedata.normalize("NFC", text).strip(), unicodedata.normalize("NFC", target)
    return text.startswith(target) and not goes_on(text, len(target))
