"""Half-given pictures: which, what a model is told of them, and how completions are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vademecum.images import drawing
from vademecum.images.codec import Codec
from vademecum.images.pictures import prepare
from vademecum.images.reading import grey_values
from vademecum.images.sources import sources

if TYPE_CHECKING:
    from vademecum.images.commands import Opened

_HIDDEN = 128


def given_height(codec: Codec, rows: int) -> int:
    """Rows of pixels that ``rows`` rows of tokens stand for."""
    return min(codec.side[0], rows * codec.shrink)


def begun(codec: Codec, originals: NDArray[np.uint8], rows: int) -> NDArray[np.int64]:
    """The first ``rows`` rows of codes [N, rows * columns] of ``originals`` [N, H, W, C], as if no more were known.

    A learned codec looks at more of a picture than a token's own place: what is to be invented is covered by the last
    row that is given before anything is encoded, so that no code knows of it.
    """
    height = given_height(codec, rows)
    covered = originals.copy()
    covered[:, height:] = covered[:, height - 1 : height]
    return codec.encode(covered)[:, : rows * codec.grid[1]]


def originals_of(found: Opened, source: str | Path, labels: Sequence[int], count: int) -> NDArray[np.uint8]:
    """Held-out pictures of each class of ``source``, as the codec takes them."""
    named = isinstance(source, str) and source in sources()
    # Another form of the same pictures is split in another way, and a picture that was trained on could be shown.
    pictures = prepare(source, side=None if named else found.codec.side[0], grey=None if named else found.grey)
    if found.codec.channels == 1:
        shown = grey_values(pictures.heldout)
    else:
        shown = np.broadcast_to(pictures.heldout, (*pictures.heldout.shape[:3], 3))
    if pictures.side != found.codec.side:
        raise ValueError(
            f"{source} has pictures of {pictures.side[0]} x {pictures.side[1]}, and this run draws "
            f"{found.codec.side[0]} x {found.codec.side[1]}: give the source it was trained on."
        )
    chosen = []
    for label in labels:
        name = found.vocabulary.classes[label]
        if name not in pictures.classes:
            raise ValueError(f"{source} has no held-out picture of '{name}': give other classes, or another source.")
        own = np.flatnonzero(pictures.heldout_labels == pictures.classes.index(name))
        chosen += [own[i % len(own)] for i in range(count)]
    return np.ascontiguousarray(shown[np.array(chosen)])


def shown(
    found: Opened,
    originals: NDArray[np.uint8],
    made: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rows: int,
    scale: int,
) -> Any:
    """Originals, what was given of them and what was drawn, three lines for each class."""
    told = originals.copy()
    told[:, given_height(found.codec, rows) :] = _HIDDEN
    lines: dict[str, NDArray[np.uint8]] = {}
    for label in dict.fromkeys(labels.tolist()):
        name, own = found.vocabulary.classes[label], labels == label
        lines |= {name: originals[own], f"{name}, given": told[own], f"{name}, drawn": made[own]}
    return drawing.labelled(lines, scale=scale)
