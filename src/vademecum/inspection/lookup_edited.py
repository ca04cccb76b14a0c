"""What the page of ``inspect lookup`` says of rows that an edit rewrote."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vademecum.inspection.lookup import Looked
from vademecum.inspection.words import Words

#: Tokens that are named in a line, and facts that are named of a row that was rewritten for many.
NAMED = 6


def line(found: Looked, words: Words) -> str:
    """How many tokens read a rewritten row; empty where no edit rewrote any."""
    ids, rows = found.ids.tolist(), {number for own in found.rewritten.values() for number in own}
    if not rows:
        return ""
    here = [words.show(number) for number in dict.fromkeys(ids) if number in rows]
    named = f" ({', '.join(here[:NAMED])}{', ...' if len(here) > NAMED else ''})" if here else ""
    tokens = f"{len(rows)} token{'' if len(rows) == 1 else 's'}"
    return (
        f"Edits rewrote the rows of {tokens}; {sum(one in rows for one in ids)} of the {len(ids)} tokens of "
        f"this text read one of them{named}."
    )


def notes(found: Looked, key: str, ends: Sequence[int]) -> dict[int, str]:
    """What is to be said of pieces of the text, by their number, that end at the tokens ``ends``."""
    ids, own, begin = found.ids.tolist(), found.rewritten.get(key, {}), 0
    said = {}
    for number, end in enumerate(ends):
        read = [own[token] for token in ids[begin : end + 1] if token in own]
        if read:
            said[number] = f"row rewritten {_for([fact for facts in read for fact in facts])}"
        begin = end + 1
    return said


def section(found: Looked, words: Words) -> str:
    """What the rows that this text reads were rewritten for; empty where it reads none."""
    ids, rows = found.ids.tolist(), []
    for key, own in found.rewritten.items():
        for number in dict.fromkeys(one for one in ids if one in own):
            places = ", ".join(str(place) for place, one in enumerate(ids) if one == number)
            cells = (words.show(number), places, key, _for(own[number]))
            rows.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    if not rows:
        return ""
    return (
        '<div class="scroll" tabindex="0"><table style="width:auto;min-width:20rem"><thead><tr><th>token</th>'
        f"<th>places</th><th>memory</th><th>its row was rewritten</th></tr></thead><tbody>{''.join(rows)}</tbody>"
        '</table></div><p class="note">A rewritten row speaks wherever its token stands, whatever is asked.</p>'
    )


def _for(facts: Sequence[str]) -> str:
    if not facts:
        return "for facts that are not known here"
    more = f"; and for {len(facts) - NAMED} more" if len(facts) > NAMED else ""
    return f"for {'; '.join(facts[:NAMED])}{more}"
