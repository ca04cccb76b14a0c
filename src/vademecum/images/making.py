"""From a source's name and a codec's spec to what a run learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vademecum.data.wheels import cache_folder
from vademecum.images.codec import Codec
from vademecum.images.grey import Grey
from vademecum.images.pictures import Pictures, prepare
from vademecum.images.reading import grey_values
from vademecum.images.tokens import PictureTokens, tokenized

if TYPE_CHECKING:
    from vademecum.images.autoencoder import Shape
    from vademecum.images.learning import Lessons

GREY, LEARNED = "grey", "learned"
CODEC = "learned, learned:8x8x8,shrink=4,width=64 (levels, how much coarser, channels), or grey:levels=4 (raw pixels)"


@dataclass(frozen=True)
class Spec:
    """A codec that is asked for: its form and its settings as text, such as ``learned:8x8x8,shrink=4``."""

    form: str
    settings: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read a spec; ValueError for an unknown form or setting."""
        form, _, rest = text.strip().partition(":")
        known = {GREY: ("levels",), LEARNED: ("levels", "shrink", "width", "steps")}
        if form not in known:
            raise ValueError(f"'{text}' is not a codec; write {CODEC}.")
        settings = {}
        for part in filter(None, (each.strip() for each in rest.split(","))):
            name, equals, value = part.partition("=")
            name, value = (name, value) if equals else ("levels", name)
            if name not in known[form]:
                raise ValueError(f"the codec '{form}' has no setting '{name}'; it has {', '.join(known[form])}.")
            settings[name] = value
        return cls(form, settings)

    def number(self, name: str, default: int) -> int:
        """A setting as a whole number."""
        try:
            return int(self.settings.get(name, default))
        except ValueError as error:
            raise ValueError(f"{name}={self.settings[name]} was given; expected a whole number.") from error

    def sizes(self, pictures: Pictures) -> Grey | Shape:
        """Sizes of the codec, its ``codes`` and its ``grid``, known before a learned one is trained.

        Raises:
            ValueError: settings that make no codec for these pictures.
        """
        if self.form == GREY:
            return Grey(pictures.side, self.number("levels", 4))
        from vademecum.images.autoencoder import Shape

        self.lessons()
        text = self.settings.get("levels", "8x8x8")
        try:
            levels = tuple(int(each) for each in text.split("x"))
        except ValueError as error:
            raise ValueError(f"levels={text} was given; expected numbers joined by x, such as 8x8x8.") from error
        return Shape(
            side=pictures.side,
            channels=pictures.channels,
            levels=levels,
            shrink=self.number("shrink", 4),
            width=self.number("width", 64),
        )

    def lessons(self) -> Lessons:
        """How a learned codec is trained."""
        from vademecum.images.learning import Lessons

        steps = self.number("steps", Lessons().steps)
        if steps < 1:
            raise ValueError(f"steps={steps} was given; expected 1 or more.")
        return Lessons(steps=steps)


def codec_for(pictures: Pictures, spec: str, *, cache: Path | None = None, progress: bool = True) -> Codec:
    """The codec that ``spec`` asks for; a learned one is trained on ``pictures``, or opened from the cache."""
    asked, cache = Spec.parse(spec), cache or cache_folder()
    sizes = asked.sizes(pictures)
    if isinstance(sizes, Grey):
        return sizes
    from vademecum.images.learning import learned

    return learned(pictures, sizes, lessons=asked.lessons(), cache=cache, progress=progress)


def as_read(pictures: Pictures, spec: str) -> Pictures:
    """``pictures`` as the codec sees them: in grey where it knows nothing else."""
    if Spec.parse(spec).form != GREY or pictures.channels == 1:
        return pictures
    import dataclasses

    return dataclasses.replace(
        pictures,
        key=f"{pictures.key}-grey",
        description=f"{pictures.description}, read in grey",
        train=grey_values(pictures.train),
        heldout=grey_values(pictures.heldout),
    )


@dataclass(frozen=True, eq=False)
class Made:
    """A set of pictures and the same in tokens."""

    pictures: Pictures
    tokens: PictureTokens


def read(
    source: str | Path,
    *,
    codec: str = LEARNED,
    side: int | None = None,
    grey: bool | None = None,
    cache: Path | None = None,
    progress: bool = True,
) -> Pictures:
    """Prepare ``source`` (see :func:`vademecum.images.pictures.prepare`), as ``codec`` sees it; no codec is trained."""
    Spec.parse(codec)
    return as_read(prepare(source, side=side, grey=grey, cache=cache, progress=progress), codec)


def in_tokens(
    pictures: Pictures, *, codec: str = LEARNED, drop: float = 0.1, cache: Path | None = None, progress: bool = True
) -> Made:
    """``pictures``, as :func:`read` gives them, in the tokens of ``codec``."""
    require_drop(drop)
    cache = cache or cache_folder()
    made = codec_for(pictures, codec, cache=cache, progress=progress)
    return Made(pictures, tokenized(pictures, made, drop=drop, cache=cache))


def make(
    source: str | Path,
    *,
    codec: str = LEARNED,
    side: int | None = None,
    grey: bool | None = None,
    drop: float = 0.1,
    cache: Path | None = None,
    progress: bool = True,
) -> Made:
    """:func:`read` and :func:`in_tokens` in one."""
    require_drop(drop)
    pictures = read(source, codec=codec, side=side, grey=grey, cache=cache, progress=progress)
    return in_tokens(pictures, codec=codec, drop=drop, cache=cache, progress=progress)


def require_drop(drop: float) -> None:
    """Raise ValueError where ``drop`` is no share of the pictures."""
    if not 0 <= drop < 1:
        raise ValueError(f"drop={drop} was given; expected a share of the pictures, from 0 to below 1, such as 0.1.")
