"""Pictures: what each arm draws, judged by a classifier of the same pictures, and shown side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vademecum.compare.media import pictures_page
from vademecum.compare.media.base import Materials, Words

if TYPE_CHECKING:
    from vademecum.compare.plan import Plan
    from vademecum.images.judge import TorchScript
    from vademecum.images.making import Made
    from vademecum.images.sampling import Sampling
    from vademecum.images.tokens import PictureTokens
    from vademecum.images.verdict import Bench, Verdict
    from vademecum.pages.drawing import Drawing
    from vademecum.training import Run

SHOWN = 8
"""Pictures of each class in a grid, and pictures whose nearest neighbours are shown."""


@dataclass(frozen=True)
class Pictures:
    """A set of pictures in the tokens of a codec, and how arms draw from it.

    ``codec``, ``side``, ``grey`` and ``drop`` are those of :func:`vademecum.images.making.make`; ``samples`` pictures
    are drawn from each model, the classes in turn, with ``guidance``, ``temperature``, ``top_k`` and ``top_p``;
    ``features`` is the path of a TorchScript extractor for the Frechet distance, None for the judge's own.
    """

    codec: str = "learned"
    side: int | None = None
    grey: bool | None = None
    drop: float = 0.1
    samples: int = 500
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    features: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 10:
            raise ValueError(f"samples={self.samples} was given; expected 10 or more, such as 500.")
        if self.guidance != 1 and not self.drop:
            raise ValueError(f"guidance={self.guidance:g} needs drop above 0, such as 0.1; drop=0 was given.")
        self._sampling()

    @property
    def words(self) -> Words:
        """What the report says."""
        return pictures_page.WORDS

    def to_dict(self) -> dict[str, Any]:
        """Its form and settings."""
        return {"form": "pictures", **dataclasses.asdict(self)}

    def made(self, source: str, *, progress: bool = False) -> Made:
        """The set called ``source``, as pictures and as tokens: made once, and looked at once in a process.

        Pictures that could not be judged are refused before a codec is learned.
        """
        if source not in self._sets:
            from vademecum.images import making
            from vademecum.images.verdict import require

            pictures = making.read(source, codec=self.codec, side=self.side, grey=self.grey, progress=progress)
            require(pictures)
            self._sets[source] = making.in_tokens(pictures, codec=self.codec, drop=self.drop, progress=progress)
        return self._sets[source]

    def material(self, plan: Plan, source: str) -> PictureTokens:
        """One source in tokens; pictures that could not be judged afterwards are refused."""
        made = self.made(source)
        if self.features is not None:  # a file that gives no features is found before anything is trained
            self._extractor().features(made.pictures.heldout[:2])
        tokens = made.tokens
        for name, given, needed in (
            ("vocab_size", plan.vocab_size, tokens.vocab_size),
            ("length", plan.recipe.length, tokens.length),
        ):
            if given != needed:
                raise ValueError(f"the plan has {name}={given}, and {source} needs {name}={needed}.")
        return tokens

    def materials(self, plan: Plan) -> Materials:
        """All sources; one whose pictures another source already gave is left out."""
        found: dict[str, PictureTokens] = {}
        notes = []
        for source in plan.data:
            tokens = self.material(plan, source)
            twin = next((name for name, other in found.items() if other.key == tokens.key), None)
            if twin is None:
                found[source] = tokens
            else:
                notes.append(f"{source} gave the same pictures as {twin} and is left out.")
        called = [each.name for each in found.values()]
        names = {source: each.name if called.count(each.name) == 1 else source for source, each in found.items()}
        return Materials(found, names, tuple(notes))

    def measured(self, run: Run, plan: Plan, seed: int) -> dict[str, Any]:
        """Draw, judge, and write three grids into the run's folder: as it is, silenced, and nearest neighbours."""
        from vademecum.images import drawing
        from vademecum.images.commands import by_class
        from vademecum.images.sampling import draw
        from vademecum.images.slots import slot_places
        from vademecum.images.tokens import balanced
        from vademecum.surgery import knocked_out, memories

        tokens = cast("PictureTokens", run.corpus)
        bench, blurred = self._bench(run, plan)
        labels = balanced(self.samples, tokens.vocabulary.classes)
        shown = np.repeat(np.arange(len(tokens.vocabulary.classes)), SHOWN)

        def drawn(wanted: Any) -> Any:
            ids = draw(
                run.model,
                tokens.vocabulary,
                wanted,
                length=tokens.length,
                sampling=self._sampling(),
                seed=1000 + seed,
                batch=256,
            )
            return tokens.codec.decode(ids)

        made = drawn(labels)
        grid = drawn(shown)
        drawing.save(run.folder / pictures_page.DRAWN, by_class(grid, shown, tokens.vocabulary))
        found: dict[str, Any] = {
            "verdict": bench.verdict(made, labels, seed).to_dict(),
            "slots": slot_places(run.model, tokens),
        }
        if any(part.can_be_silent for _, _, part in memories(run.model).parts()):
            with knocked_out(run.model):
                silenced, of_all = drawn(shown), drawn(labels)
            drawing.save(run.folder / pictures_page.SILENCED, by_class(silenced, shown, tokens.vocabulary))
            found["silenced"] = bench.verdict(of_all, labels, seed).to_dict()
        some = made[: 2 * SHOWN]
        pair = {"drawn": some, "nearest in training": bench.neighbours(some)}
        drawing.save(run.folder / pictures_page.NEAREST, drawing.labelled(pair))
        found |= {
            "judge": bench.extractor.description,
            "floor": bench.floor(self.samples).to_dict(),
            "through": blurred.to_dict(),
        }
        return {"pictures": found}

    def collected(
        self,
        plan: Plan,
        runs: Sequence[Mapping[str, Any]],
        materials: Materials,
        places: Mapping[tuple[str, str, int], Path],
    ) -> dict[str, Any]:
        """Verdicts of every run, and the grids of the first seed, by source."""
        found: dict[str, Any] = {}
        for source, name in materials.names.items():
            tokens = cast("PictureTokens", materials.corpora[source])
            own = [each for each in runs if each["data"] == name]
            if not own:
                continue
            verdicts: dict[str, dict[str, Any]] = {}
            for each in own:
                verdicts.setdefault(each["arm"], {})[str(each["seed"])] = each["pictures"]
            first = {
                each["arm"]: places[name, each["arm"], each["seed"]] for each in own if each["seed"] == plan.seeds[0]
            }
            found[name] = {
                "classes": list(tokens.vocabulary.classes),
                "grid": list(tokens.codec.grid),
                "verdicts": verdicts,
                "images": {arm: pictures_page.embedded(place) for arm, place in first.items()},
            }
        return found

    def drawings(self, found: Mapping[str, Any]) -> list[Drawing]:
        """Figures of verdicts and of slots."""
        return pictures_page.drawings(found)

    def section(self, found: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
        """Verdicts as a table, figures, and grids side by side."""
        return pictures_page.section(found, drawings)

    def _sampling(self) -> Sampling:
        from vademecum.images.sampling import Sampling

        return Sampling(guidance=self.guidance, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def _bench(self, run: Run, plan: Plan) -> tuple[Bench, Verdict]:
        """What pictures are judged against, and the verdict on held-out pictures that went through the codec."""
        source = next((each for each in plan.data if self.made(each).tokens.key == run.corpus.key), None)
        if source is None:
            raise ValueError(f"{run.folder} was trained on other pictures than {', '.join(plan.data)}; leave them be.")
        if source not in self._benches:
            from vademecum.data.wheels import cache_folder
            from vademecum.images.judge import schooled
            from vademecum.images.verdict import Bench

            pictures = self.made(source).pictures
            judge = schooled(pictures, cache=cache_folder())
            extractor = None if self.features is None else self._extractor()
            codec = self.made(source).tokens.codec

            def through(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
                return codec.decode(codec.encode(images))

            bench = Bench.of(pictures, judge, extractor, through)
            blurred = bench.verdict(through(pictures.heldout), pictures.heldout_labels)
            self._benches[source] = bench, blurred
        return self._benches[source]

    def _extractor(self) -> TorchScript:
        from vademecum.images.judge import TorchScript

        return TorchScript(Path(str(self.features)))

    @cached_property
    def _sets(self) -> dict[str, Made]:
        """Sets of pictures by source: a folder that changes while arms are trained is not read again."""
        return {}

    @cached_property
    def _benches(self) -> dict[str, tuple[Bench, Verdict]]:
        """Features of real pictures, by source: they are the same for every run."""
        return {}
