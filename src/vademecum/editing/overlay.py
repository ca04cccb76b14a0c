"""Written facts as data: what is said for each, in one small file with its journal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
from safetensors.torch import load, save
from torch import nn

from vademecum import files, interrupts
from vademecum.editing import fingerprint
from vademecum.editing.agreement import answered, plain, require_agreement
from vademecum.editing.content import Content, bytes_of
from vademecum.editing.entries import AsEntries
from vademecum.editing.facts import Fact
from vademecum.editing.rows import AsRows
from vademecum.editing.written import Written, said_of, saying

#: Of the file's layout, and those that are read: in layout 3 no drawn prompts were asked.
VERSION, READ = 5, (3, 4, 5)
#: What reading a file raises that somebody else wrote, or that was cut.
UNREADABLE = (
    *(KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError),
    safetensors.SafetensorError,
)
#: What an overlay can put on a model, by name.
CONTENTS: Mapping[str, type[Content]] = MappingProxyType({one.name: one for one in (AsEntries, AsRows)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """Facts for one host, apart from any model. What was taken out stays in it, silent, so that it can come back.

    Attributes:
        made_for: :func:`vademecum.editing.fingerprint.of` of the host.
        written: the facts.
        content: what is said for each, in their order.
        active: numbers of those that speak, ascending.
        journal: what was done and when, what came and went, and the digest before and after; oldest first. A line also
            keeps, where it changed them, what was said before and beside which ``memories`` of the model.
    """

    made_for: dict[str, Any]
    written: tuple[Written, ...]
    content: Content
    active: tuple[int, ...]
    journal: tuple[dict[str, Any], ...] = ()

    @property
    def speaking(self) -> list[Written]:
        """The entries that speak."""
        return [self.written[number] for number in self.active]

    @property
    def facts(self) -> list[Fact]:
        """The facts that hold."""
        return [one.fact for one in self.speaking]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return self.content.nbytes

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of what speaks and where, whatever the order in which it came."""
        entries = "".join(self._digest_of(number) for number in self.order)
        return hashlib.sha256(entries.encode()).hexdigest()[:16]

    @property
    def order(self) -> tuple[int, ...]:
        """The entries that speak, in an order that does not depend on when they came."""
        return tuple(sorted(self.active, key=self._digest_of))

    def _digest_of(self, number: int) -> str:
        one = self.written[number]
        about = json.dumps([self.content.name, one.fact.to_dict(), one.spellings], sort_keys=True)
        return hashlib.sha256(about.encode() + self.content.said(number)).hexdigest()

    def find(self, subject: str, prompt: str | None = None) -> list[int]:
        """Numbers of the entries that speak of ``subject``, and answer ``prompt`` where one is given.

        Raises:
            ValueError: there is none; those that ask the same or are of the subject are named, or else some others.
        """
        found = [
            number
            for number in self.active
            if plain(self.written[number].fact.subject) == plain(subject)
            and (prompt is None or plain(self.written[number].fact.prompt) == plain(prompt))
        ]
        if not found:
            asked = f"subject {subject!r}" + ("" if prompt is None else f" and prompt {prompt!r}")
            raise ValueError(f"no entry with {asked}; {self._instead(subject, prompt)}.")
        return found

    def _instead(self, subject: str, prompt: str | None) -> str:
        """What may have been meant where there is no such entry."""
        alike = [] if prompt is None else [fact for fact in self.facts if plain(prompt) in answered([fact])]
        if alike:
            named = " and ".join(f"{fact.prompt!r} (of {fact.subject!r})" for fact in alike[:5])
            return f"{named} {'asks' if len(alike) == 1 else 'ask'} the same: give that prompt and subject"
        spelled = [fact for fact in self.facts if plain(subject) in map(plain, fact.spellings)]
        if spelled:
            return f"that is a spelling of {spelled[0].subject!r}: give that subject"
        own = [fact for fact in self.facts if plain(fact.subject) == plain(subject)]
        shown = [repr(fact.prompt) for fact in own or self.facts]
        there = ", ".join(shown[:5])
        if not shown:
            return "nothing is written"
        return f"written {f'of {own[0].subject!r} ' if own else ''}are {there}{', ...' if len(shown) > 5 else ''}"

    def joined(self, other: Overlay, *, replacing: Sequence[int] = (), verb: str = "add", **more: Any) -> Overlay:
        """This with the entries of ``other`` added, and those ``replacing`` taken out, as one line of the journal.

        Raises:
            ValueError: they were made for different hosts or do not fit together, or contradict each other.
        """
        alike = fingerprint.alike(self.made_for, other.made_for)
        if not alike or type(self.content) is not type(other.content):
            raise ValueError(
                f"an overlay of {self.content.name} and one of {other.content.name} for "
                f"{'the same' if alike else 'another'} model do not go into one; plan the facts together."
            )
        staying = [self.written[number].fact for number in self.active if number not in replacing]
        require_agreement(other.facts, staying)
        then = self.made_for.get("memories")
        if then != other.made_for.get("memories"):
            more["memories"] = then  # those that stay are to be asked again, and an undo is to find these
        count = len(self.written)
        whole = dataclasses.replace(
            self,
            made_for=self.made_for | other.made_for,
            written=self.written + other.written,
            content=self.content.joined(other.content),
        )
        return whole.moved(verb, [count + number for number in other.active], replacing, **more)

    def moved(self, verb: str, came: Sequence[int], went: Sequence[int], **more: Any) -> Overlay:
        """The same entries, of which ``came`` speak now and ``went`` no longer; with a line in the journal."""
        active = tuple(sorted((set(self.active) - set(went)) | set(came)))
        new = dataclasses.replace(self, active=active)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = {
            "when": when,
            "what": verb,
            "came": list(came),
            "went": list(went),
            **more,
            "before": self.digest,
            "after": new.digest,
        }
        return dataclasses.replace(new, journal=(*self.journal, line))

    def said_now(self, written: Sequence[Written]) -> Overlay:
        """With ``written`` in the place of what was written; the journal's last line keeps what was said before it."""
        numbers = range(len(self.written))
        changed = [number for number in numbers if said_of(self.written[number]) != said_of(written[number])]
        new = dataclasses.replace(self, written=tuple(written))
        if not self.journal:
            return new
        came = set(self.journal[-1]["came"])
        were = {str(number): said_of(self.written[number]) for number in changed if number not in came}
        line = self.journal[-1] | ({"said": were} if were else {})
        return dataclasses.replace(new, journal=(*self.journal[:-1], line))

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Within the block what this says is on ``model``, if it says anything.

        Raises:
            ValueError: it is there already or cannot be put there; the model is then unchanged.
        """
        if not self.active:
            yield
            return
        put = False
        try:
            with interrupts.finished():
                self.content.put(model, self)
                put = True
            yield
        finally:
            if put:
                with interrupts.finished():
                    self.content.take(model, self)

    @property
    def stale(self) -> bool:
        """Whether something was taken out since the entries were last asked: what they say may have changed."""
        standing = self._standing()
        return bool(standing) and self.journal[standing[-1]]["what"] == "remove"

    def _standing(self) -> list[int]:
        """Places in the journal of the changes that were not taken back."""
        taken_back = {line["of"] for line in self.journal if line["what"] == "undo"}
        return [place for place, line in enumerate(self.journal) if line["what"] != "undo" and place not in taken_back]

    def undone(self) -> Overlay:
        """The last change taken back that was not yet; what speaks then is what spoke before it, byte for byte.

        Raises:
            ValueError: there is nothing left to undo.
        """
        open_lines = self._standing()
        if not open_lines:
            raise ValueError("nothing is left to undo: every change in the journal is taken back.")
        line = self.journal[open_lines[-1]]
        back = self.moved("undo", line["went"], line["came"], of=open_lines[-1])
        if back.digest != line["before"]:
            raise files.Damaged("what spoke before this change is not what the journal says; restore a good copy.")
        written = list(back.written)
        for number, said in line.get("said", {}).items():
            written[int(number)] = saying(written[int(number)], *said)
        made_for = dict(back.made_for)
        if "memories" in line:
            made_for["memories"] = line["memories"]
        return dataclasses.replace(back, written=tuple(written), made_for=made_for)

    def pruned(self) -> Overlay:
        """Only what speaks, with no way back; the journal begins anew."""
        return dataclasses.replace(
            self,
            written=tuple(self.speaking),
            content=self.content.kept(self.active),
            active=tuple(range(len(self.active))),
            journal=(),
        )


def write(overlay: Overlay, path: Path) -> None:
    """Write ``overlay`` as one safetensors file, whole or not at all.

    Raises:
        OSError: there is a folder at ``path``, or none that can be written into.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file in it, such as {path / 'facts.safetensors'}.")
    files.require_writable(path.absolute().parent)
    about = {
        "version": VERSION,
        "made_for": overlay.made_for,
        "content": {"name": overlay.content.name, **overlay.content.about()},
        "written": [one.to_dict() for one in overlay.written],
        "active": list(overlay.active),
        "journal": list(overlay.journal),
    }
    about["whole"] = _whole(about, overlay)
    tensors = {name: one.contiguous() for name, one in overlay.content.tensors().items()}
    data = save(tensors, {"vademecum": json.dumps(about)})
    files.write_file(path, data)


def read(path: Path) -> Overlay:
    """The overlay in a file.

    Raises:
        FileNotFoundError: there is no such file.
        files.Damaged: it is no overlay, or not as it was written.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; an overlay is a file in it, such as {path / 'facts.safetensors'}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; 'vademecum edit add' makes an overlay.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["vademecum"])
        tensors = load(path.read_bytes())
        if about["version"] not in READ:
            raise files.Damaged(
                f"{path} has layout {about['version']}, and this vademecum reads {', '.join(map(str, READ))}."
            )
        overlay = Overlay(
            made_for=about["made_for"],
            written=tuple(Written.of(one) for one in about["written"]),
            content=CONTENTS[about["content"]["name"]].of(about["content"], tensors),
            active=tuple(about["active"]),
            journal=tuple(about["journal"]),
        )
        _require_sound(overlay)
        said = about.pop("whole")
        whole = overlay.content.facts == len(overlay.written) and _whole(about, overlay) == said
    except files.Damaged:
        raise
    except UNREADABLE as error:
        raise files.Damaged(
            f"{path} is no overlay, or a damaged one ({error}); restore it from a good copy."
        ) from error
    if not whole:
        raise files.Damaged(f"{path} does not hold what its own digest says; restore it from a good copy.")
    return overlay


def _require_sound(overlay: Overlay) -> None:
    """Raise ValueError where a file says what none that was written here does."""
    numbers = set(range(len(overlay.written)))
    lists = [list(overlay.active), *(line[which] for line in overlay.journal for which in ("came", "went"))]
    keys = [({"shape", "weights", "tokenizer"}, overlay.made_for)]
    keys += [({"when", "what", "before", "after"}, line) for line in overlay.journal]
    for needed, there in keys:
        if missing := needed - there.keys():
            raise ValueError(f"{', '.join(sorted(missing))} missing")
    for some in lists:
        if not all(type(one) is int and one in numbers for one in some) or sorted(set(some)) != sorted(some):
            raise ValueError(f"{some} are to be numbers of its {len(numbers)} facts, each once")


def _whole(about: dict[str, Any], overlay: Overlay) -> str:
    """A digest of everything in the file, what is silent included."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(overlay.content.tensors().items()):
        digest.update(name.encode() + bytes_of(tensor))
    return digest.hexdigest()
