"""Wiki markup to plain prose: good enough to read and to learn from, by removing what is not prose."""

from __future__ import annotations

import html
import re

_COMMENT = re.compile(r"<!--.*?-->", re.S)
_DROPPED = re.compile(
    r"<(ref|gallery|math|timeline|source|nowiki|imagemap|score)\b[^>]*?(?:/>|>.*?</\1\s*>)", re.S | re.I
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_INNER_BRACES = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.S)
_INNER_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_OUTER_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:|//)\S*\s*([^\]]*)\]")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$", re.M)
_BULLET = re.compile(r"^[*#:;]+\s*", re.M)
_EMPHASIS = re.compile(r"'{2,5}")
_TAIL = {"see also", "references", "external links", "further reading", "notes", "bibliography", "footnotes", "sources"}


def plain(markup: str) -> str:
    """Return the prose of a page: no templates, tables, references, files, categories or link lists."""
    text = _COMMENT.sub("", markup)
    text = _DROPPED.sub("", text)
    text = _until_stable(_INNER_BRACES, "", text)
    text = _until_stable(_INNER_LINK, _link, text)
    text = _OUTER_LINK.sub(r"\1", text)
    text = html.unescape(_TAG.sub("", text))
    text = _EMPHASIS.sub("", text).replace("\u00a0", " ").replace("__NOTOC__", "")
    text = _without_tail(text)
    text = _BULLET.sub("", _HEADING.sub(r"\2", text))
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if not line.startswith(("|", "!", "{|", "|}", "}}"))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _until_stable(pattern: re.Pattern[str], by: object, text: str) -> str:
    """Replace from the inside out until nothing matches any more: markup nests."""
    while True:
        new = pattern.sub(by, text)  # type: ignore[call-overload]
        if new == text:
            return text
        text = str(new)


def _link(match: re.Match[str]) -> str:
    target, _, label = match[1].partition("|")
    if re.match(r"\s*:?(file|image|category|media|[a-z]{2,3}|[a-z]{2,3}-[a-z]+)\s*:", target, re.I):
        return ""
    return label.rpartition("|")[2] or target.strip(":")


def _without_tail(text: str) -> str:
    """Cut a page at the first of the closing sections that hold lists of links."""
    for match in _HEADING.finditer(text):
        if match[2].casefold() in _TAIL:
            return text[: match.start()]
    return text
