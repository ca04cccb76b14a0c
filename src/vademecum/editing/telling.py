"""What is printed of an overlay, line by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vademecum.editing.facts import Fact
from vademecum.editing.overlay import Overlay
from vademecum.editing.written import Written

Echo = Callable[[str], None]
#: Of what there is much to say of its sort, so many are named.
NAMED = 3


def line_of(one: Written) -> str:
    """One entry, and whether it holds."""
    mark = "holds   " if one.holds else "FAILS   "
    texts = {"not to": one.unsaid, "not asked, as it is from an older version:": one.unasked, "moves": one.disturbed}
    more = "".join(f"; {what} {', '.join(map(repr, some))}" for what, some in texts.items() if some)
    others = f"; {len(one.asked)} others asked" if one.asked else ""
    others += f", moves {', '.join(map(repr, one.moved))}" if one.moved else ", as before" if one.asked else ""
    return f"{mark} {said_in(one.fact)}  (was {one.before.strip()!r}, says {one.after.strip()!r}{more}{others})"


def echo_others(written: Sequence[Written], *, echo: Echo) -> None:
    """Print how many of the prompts that were drawn begin as before, and some that do not."""
    asked = {text for one in written for text in one.asked}
    moved = list(dict.fromkeys(text for one in written for text in one.moved))
    if asked:
        named = f"; not {', '.join(map(repr, moved[:NAMED]))}" if moved else ""
        more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
        echo(f"other prompts asked: {len(asked) - len(moved)} of {len(asked)} begin as before{named}{more}")


def echo_stale(there: Overlay, echo: Echo) -> None:
    """Print that what is told was asked before something was taken out, where that is so."""
    if there.stale and there.active:
        echo("asked before the last removal; 'vademecum edit ask' tells what is said now")


def facts_of(count: int) -> str:
    """How many facts."""
    return f"{count} fact{'' if count == 1 else 's'}"


def said_in(fact: Fact) -> str:
    """The prompt and the target on one line."""
    return f"{shown(fact.prompt)} \u2192 {shown(fact.target)}"


def shown(text: str) -> str:
    """``text`` on one line; what moves a terminal's cursor or colours it is spelled out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
