"""One look for all figures: colours that colour-blind readers tell apart, thin axes, SVG in the page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogFormatterMathtext

INK = "#22272e"
MUTED = "#6e7781"
GRID = "#d8dee4"
PAPER = "#fefefe"
SEQUENTIAL = "cividis"

# The page sets these variables, so a figure turns dark with it; the PNG keeps the plain colours.
_THEMED: Mapping[str, str] = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--rule)", PAPER: "var(--paper)"}

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
_RAISED = str.maketrans("-0123456789.", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u00b7")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: colour, marker, line style."""

    color: str
    marker: str
    line: str


def looks(arms: Sequence[str], baseline: str) -> dict[str, Look]:
    """A look per arm: grey for the baseline; a family ("move", "move-2") shares a colour and differs in line."""
    found: dict[str, Look] = {}
    colors: dict[str, str] = {baseline: MUTED}
    for arm in arms:
        family = arm.split("-", 1)[0]
        if family not in colors:
            colors[family] = _PALETTE[(len(colors) - 1) % len(_PALETTE)]
        kin = sum(1 for other in found if other.split("-", 1)[0] == family)
        marker = _MARKERS[len(found) % len(_MARKERS)]
        found[arm] = Look(color=colors[family], marker=marker, line=("-", "--", ":", "-.")[kin % 4])
    return found


@contextmanager
def styled() -> Iterator[None]:
    """The style, for the figures made within."""
    with mpl.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9.5,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.titlecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "text.color": INK,
            "text.parse_math": False,  # a class or an arm may have dollars in its name
            "svg.fonttype": "none",
            "svg.hashsalt": "vademecum",
        }
    ):
        yield


def canvas(
    width: float = 8.2, height: float = 3.3, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure of ``width`` x ``height`` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def png(figure: Figure) -> bytes:
    """The figure as PNG, for slides and documents."""
    out = io.BytesIO()
    _spell_powers(figure)
    with styled():
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


class _Powers(Formatter):
    """What matplotlib writes on log axes, such as 10 to the -3, in letters of its own instead of as a formula."""

    def __init__(self, written: Formatter) -> None:
        self.written = written

    def set_locs(self, locs: Any) -> None:
        self.written.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = self.written(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        return re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(_RAISED), text).replace(r"\times", "\u00d7")


def _spell_powers(figure: Figure) -> None:
    """No text of a figure is read as a formula, so that none may be one."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
            axis.set_major_formatter(_Powers(axis.get_major_formatter()))
        if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
            axis.set_minor_formatter(_Powers(axis.get_minor_formatter()))


def svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` to stand beside others in a page: own ids, colours from the page's variables."""
    out = io.StringIO()
    _spell_powers(figure)
    with styled():  # letters stay letters, and ids are the same every time
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # An image's id is a digest of its pixels, and two panels may show the same; nothing refers to it.
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for plain, themed in _THEMED.items():
        text = text.replace(plain, themed)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    text = text.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    # Shown at most at this size, so that letters are of one size in narrow and wide figures.
    widest = round(figure.get_figwidth() * 108)
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"',
        f'class="plot" role="img" style="max-width: {widest}px"',
        text,
        count=1,
    )
