import pytest

from vademecum.training import Recipe


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch", -1),
        ("length", 1.5),
        ("accumulate", 0),
        ("keep", 0),
        ("seed", -1),
        ("seed", 2**62 + 1),
        ("eval_every", -2),
        ("steps", True),
        ("lr", 0),
        ("lr", float("nan")),
        ("clip", -1.0),
        ("weight_decay", "much"),
        ("optimizer", "adam"),
        ("dtype", "fp16"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_shown(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}"):
        Recipe(**{setting: value})


def test_an_unknown_choice_suggests_the_nearest():
    with pytest.raises(ValueError, match="optimizer='muon'"):
        Recipe(optimizer="moun")


def test_warm_up_and_decay_must_fit_into_the_run():
    with pytest.raises(ValueError, match="together exceed 1"):
        Recipe(warmup=0.6, decay=0.5)


def test_an_evaluation_needs_at_least_one_sequence():
    with pytest.raises(ValueError, match="eval_tokens=16"):
        Recipe(length=32, eval_tokens=16)


def test_a_recipe_survives_the_way_through_plain_data():
    recipe = Recipe(steps=7, lr=1e-3, optimizer="muon")
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(ValueError, match="'warmup'"):
        Recipe.from_dict({"warm_up": 0.1})


def test_tokens_per_step_counts_accumulated_forwards():
    assert Recipe(batch=2, length=16, accumulate=3, eval_tokens=16).tokens_per_step == 96


def test_bookkeeping_is_no_part_of_what_is_learned():
    assert Recipe(keep=5, checkpoint_every=1).learning() == Recipe().learning()
    assert Recipe(seed=1).learning() != Recipe().learning()
