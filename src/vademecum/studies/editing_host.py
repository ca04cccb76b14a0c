"""A small host trained from scratch on what GeoNames says of cities, so that ten thousand facts can be edited."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vademecum import data, files
from vademecum.data.geonames import City, Land
from vademecum.editing import Fact, prompts
from vademecum.studies.editing_records import RELATIONS

#: Cities that it learns, the texts about each, and of how many sentences a text may be. Most are of one: what a text
#: has said before is copied, and nothing is learned by heart from it.
CITIES, TEXTS, SENTENCES = 12_000, 40, (1, 1, 1, 2)
#: Passages of an encyclopedia among them, so that it knows other text as well, and their words.
PASSAGES, WORDS = 8_000, 120
#: The host and its training: about one reading of the texts, of which each city has several.
HOST, SIZE, VOCABULARY, STEPS, BATCH, LENGTH = "llama", 6, 6_144, 9_500, 8, 128
#: What is said of a city besides its country: what follows from its name or its land.
SAID = (
    "{} is a city on the continent of {continent}.",
    "In {} people pay with the {currency}.",
    "The letter with which {} begins is {letter}.",
)


def trained(
    folder: Path,
    lands: Sequence[Land],
    cities: Sequence[City],
    *,
    echo: Callable[[str], None],
    device: str | None = None,
) -> Path:
    """The host's folder; it is trained first, or its training is gone on with, where it is not there.

    Args:
        folder: of the run and its texts.
        lands: countries.
        cities: what it learns the countries of.
        echo: takes lines for the user.
        device: that it is trained on, such as "cuda"; the GPU where there is one, where None.
    """
    from vademecum.training import commands, export
    from vademecum.training.recipe import Recipe

    final = folder / "run" / export.FOLDER
    if (final / "config.json").is_file():
        return final
    texts = folder / "cities.jsonl"
    if not texts.is_file():
        plain = [document.text for document in data.sources()["wikipedia"].documents()]
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in written(lands, cities, plain)]
        files.write_file(texts, "\n".join(lines) + "\n")
    recipe = Recipe.for_host(
        pretrained=False, steps=STEPS, batch=BATCH, length=LENGTH, eval_every=0, checkpoint_every=500
    )
    commands.train(
        out=folder / "run",
        data_source=texts,
        host=HOST,
        size=SIZE,
        vocab_size=VOCABULARY,
        recipe=recipe,
        device=device,
        echo=echo,
    )
    return final


def written(lands: Sequence[Land], cities: Sequence[City], plain: Sequence[str]) -> list[str]:
    """Texts about ``cities``, every one of several, and pieces of ``plain`` ones; always the same."""
    draw = random.Random(0)
    by_code: Mapping[str, Land] = {land.code: land for land in lands}
    found = []
    for city in cities:
        if city.land in by_code:
            said = _said(city, by_code[city.land])
            found += [" ".join(draw.sample(said, draw.choice(SENTENCES))) for _ in range(TEXTS)]
    for text in draw.choices(plain, k=PASSAGES) if plain else ():
        words = text.split()
        begin = draw.randrange(max(1, len(words) - WORDS))
        found.append(" ".join(words[begin : begin + WORDS]))
    draw.shuffle(found)
    return found


def _said(city: City, land: Land) -> list[str]:
    """Every sentence about ``city``: also in the words that entries are learned from.

    A host that does not understand a question cannot be taught by it what the question asks.
    """
    country = RELATIONS["country"]
    fact = Fact(subject=city.name, prompt=country.prompt.replace("{}", city.name), target=land.name)
    asked = [f"{way} {land.name}." for way in (*prompts.paraphrases(fact), *country.paraphrases)]
    facts = {"continent": land.continent, "currency": land.currency, "letter": city.name[:1]}
    return [
        text.replace("{}", city.name) for text in (*asked, *(one.replace("{}", "{{}}").format(**facts) for one in SAID))
    ]
