"""A tiny run with experts and slots on three made-up domains, trained once for all tests of this room."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vademecum.data import DomainTokens, domains
from vademecum.data.readers import Document
from vademecum.inspection import subject
from vademecum.training import Recipe, commands

WORDS = {
    "prose": "the lamp by a river was quiet and the stone über all".split(),
    "code": "def f( x ): return x + 1 if x else None".split(),
    "digits": "1 22 333 4444 55 6 777 88".split(),
}
SETTINGS: Mapping[str, Any] = {
    "steps": 6,
    "batch": 2,
    "length": 16,
    "eval_tokens": 64,
    "checkpoint_every": 2,
    "keep": 9,
}


def documents(domain: str) -> list[Document]:
    draw = random.Random(domain)
    return [Document(f"{k}", " ".join(draw.choice(WORDS[domain]) for _ in range(300))) for k in range(12)]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    text = tmp_path_factory.mktemp("text")
    for domain in WORDS:
        for document in documents(domain):
            (text / f"{domain}-{document.name}.txt").write_text(document.text, encoding="utf-8")
    cache = tmp_path_factory.mktemp("cache")

    def run(*memory: str, **recipe: Any) -> Path:
        out = tmp_path_factory.mktemp("runs") / "tiny"
        commands.train(
            out=out,
            data_source=text,
            size=2,
            vocab_size=300,
            memory=memory,
            recipe=Recipe(**{**SETTINGS, **recipe}),
            cache=cache,
            device="cpu",
            echo=lambda _: None,
        )
        return out

    return run


@pytest.fixture(scope="session")
def run(train: Callable[..., Path]) -> Path:
    return train("moe:experts=4,top_k=2", "move:slots=3")


@pytest.fixture(scope="session")
def dense(train: Callable[..., Path]) -> Path:
    return train(steps=1)


@pytest.fixture(scope="session")
def texts_of() -> Callable[[Path], dict[str, DomainTokens]]:
    """The made-up domains in the tokens of a run."""

    def made(run: Path) -> dict[str, DomainTokens]:
        found = subject.find(run)
        return {name: domains.cut(documents(name), found.tokenizer, found.end, 700) for name in WORDS}

    return made
