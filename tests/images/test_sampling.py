"""Draws: through a cache as without one, the same whatever the batch, guided as the equation says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vademecum as vm
from vademecum.images.sampling import Sampling, draw
from vademecum.images.tokens import Vocabulary
from vademecum.training import presets

LENGTH = 12
VOCABULARY = Vocabulary(5, ("a", "b", "c"), 0.1)
LABELS = np.array([0, 1, 2, -1, 1])


def model(*kinds: Any, host: str = "qwen3") -> Any:
    torch.manual_seed(0)
    made = presets.build_host(host, size=2, vocab_size=VOCABULARY.size, length=LENGTH)
    torch.manual_seed(1)
    vm.attach(made, *kinds)
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def by_hand(made: Any, sampling: Sampling, seed: int) -> np.ndarray:
    """The same draws one picture at a time, without a cache, from the equation."""
    numbers = torch.rand(len(LABELS), LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = []
    for label, chances in zip(LABELS, numbers, strict=True):
        begun = [VOCABULARY.any if label < 0 else VOCABULARY.codes + int(label)]
        for chance in chances:

            def logits(first: int, rest: list[int]) -> torch.Tensor:
                with torch.no_grad():
                    return made(input_ids=torch.tensor([[first, *rest]]), use_cache=False).logits[0, -1, :5].double()

            scores = logits(begun[0], begun[1:])
            if sampling.guidance != 1:
                free = logits(VOCABULARY.any, begun[1:]).log_softmax(-1)
                scores = free + sampling.guidance * (scores.log_softmax(-1) - free)
            shares = (scores / sampling.temperature).softmax(-1).cumsum(-1)
            begun.append(int((shares <= chance * shares[-1]).sum().clamp(max=4)))
        rows.append(begun[1:])
    return np.array(rows)


@pytest.mark.parametrize("guidance", [1.0, 2.5, 0.0])
@pytest.mark.parametrize(
    "kinds",
    [(), (vm.MoVE(slots=2),), (vm.NGram(layers="all", heads=2, width=16), vm.MoE(experts=4, top_k=2))],
    ids=["bare", "move", "ngram and moe"],
)
def test_draws_are_those_of_the_equation(kinds: tuple[Any, ...], guidance: float) -> None:
    made, sampling = model(*kinds).eval(), Sampling(guidance=guidance, temperature=0.9)
    found = draw(made, VOCABULARY, LABELS, length=LENGTH, sampling=sampling, seed=3, batch=3)
    assert np.array_equal(found, by_hand(made, sampling, 3))


def test_latent_attention_draws_too() -> None:
    made = model(vm.MoVE(slots=2), host="deepseek_v3").eval()
    found = draw(made, VOCABULARY, LABELS, length=LENGTH, sampling=Sampling(), seed=3)
    assert np.array_equal(found, by_hand(made, Sampling(), 3))


def test_a_picture_is_the_same_in_every_batch_and_another_for_another_seed() -> None:
    made = model(vm.MoVE(slots=2))
    settings: dict[str, Any] = {"length": LENGTH, "sampling": Sampling()}
    every = [draw(made, VOCABULARY, LABELS, seed=5, batch=batch, **settings) for batch in (1, 2, 64)]
    assert np.array_equal(every[0], every[1])
    assert np.array_equal(every[0], every[2])
    assert not np.array_equal(every[0], draw(made, VOCABULARY, LABELS, seed=6, **settings))
    assert made.training  # as it was


def test_what_is_given_of_a_picture_stays_and_the_rest_is_drawn() -> None:
    made = model()
    begun = np.array([[0, 1, 2, 3, 4]] * len(LABELS))
    found = draw(made, VOCABULARY, LABELS, length=LENGTH, sampling=Sampling(), seed=0, begun=begun)
    assert np.array_equal(found[:, :5], begun)
    assert found.shape == (5, LENGTH)
    assert found.max() < VOCABULARY.codes
    with pytest.raises(ValueError, match="shorter than a picture"):
        draw(made, VOCABULARY, LABELS, length=5, sampling=Sampling(), seed=0, begun=begun)


def test_the_likeliest_code_alone_is_greedy_search() -> None:
    made = model().eval()
    found = draw(made, VOCABULARY, LABELS[:3], length=LENGTH, sampling=Sampling(top_k=1), seed=0)
    again = draw(made, VOCABULARY, LABELS[:3], length=LENGTH, sampling=Sampling(top_p=1e-6), seed=9)
    assert np.array_equal(found, again)


def test_guidance_needs_a_model_that_saw_pictures_without_their_class() -> None:
    sure = Vocabulary(5, ("a", "b", "c"), 0.0)
    with pytest.raises(ValueError, match=r"trained with drop=0.*Train with --drop 0.1, or sample with --guidance 1"):
        draw(model(), sure, LABELS, length=LENGTH, sampling=Sampling(guidance=2), seed=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance": -1.0}, "guidance=-1.0"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
    ],
)
def test_settings_that_make_no_draw_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling(**settings)
