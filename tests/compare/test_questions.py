"""A question is answered by a paired difference and its interval, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.compare import commands, questions, report, stats
from vademecum.compare.plan import PRESETS, Plan
from vademecum.compare.questions import Question

PAYS = Question(text="Does the memory pay?", arm="move", against="dense")


def runs(**values: list[float]) -> list[dict[str, Any]]:
    return [
        {"data": "book", "arm": arm, "seed": seed, "bits_per_byte": value}
        for arm, each in values.items()
        for seed, value in enumerate(each)
    ]


def test_the_answer_is_the_difference_paired_by_seed() -> None:
    (answer,) = questions.ask([PAYS], runs(dense=[1.5, 1.7, 1.6], move=[1.4, 1.6, 1.5]))
    assert answer.difference is not None
    assert answer.difference.mean == pytest.approx(-0.1)
    assert answer.difference.half == pytest.approx(0, abs=1e-9)
    assert (answer.words, answer.seeds) == ("Yes", 3)
    assert answer.sentence == "Yes: move ends 0.100 \u00b1 0.000 bits per byte below dense."


def test_seeds_that_only_one_arm_has_do_not_count() -> None:
    (answer,) = questions.ask([PAYS], runs(dense=[1.5, 1.7], move=[1.6, 1.8, 0.1]))
    assert (answer.words, answer.seeds) == ("No", 2)


def test_one_seed_gives_no_answer() -> None:
    (answer,) = questions.ask([PAYS], runs(dense=[1.5], move=[1.0]))
    assert answer.sentence == "No claim: one seed."


def test_a_seed_that_diverged_gives_no_answer() -> None:
    lost = {"data": "book", "arm": "move", "seed": 2, "diverged": 7}
    (answer,) = questions.ask([PAYS], [*runs(dense=[1.5, 1.7, 1.6], move=[1.4, 1.6]), lost])
    assert answer.sentence == "No claim: 1 seed diverged."


def test_an_arm_that_diverged_in_every_seed_gives_no_answer() -> None:
    lost = [{"data": "book", "arm": "move", "seed": seed, "diverged": 7} for seed in (0, 1)]
    (answer,) = questions.ask([PAYS], [*runs(dense=[1.5, 1.7]), *lost])
    assert answer.difference is None
    assert answer.sentence == "No claim: 2 seeds diverged."
    assert questions.to_csv([answer]).splitlines()[1].startswith("book,Does the memory pay?,move,dense,0,,,")


def test_a_question_is_asked_only_where_both_arms_were_run() -> None:
    assert questions.ask([PAYS], runs(dense=[1.5, 1.7], moe=[1.4, 1.6])) == []


numbers = st.floats(0.5, 4.0, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6))
def test_a_direction_is_named_only_where_the_interval_excludes_zero(pairs: list[tuple[float, float]]) -> None:
    (answer,) = questions.ask([PAYS], runs(dense=[a for a, _ in pairs], move=[b for _, b in pairs]))
    found = answer.difference
    assert found is not None
    claimed = found.half is not None and abs(found.mean) > found.half
    assert claimed == any(word in answer.sentence for word in ("below", "above"))
    assert claimed == (answer.words in ("Yes", "No"))


def test_answers_survive_json_and_stand_in_the_csv(tmp_path: Path) -> None:
    answers = questions.ask([PAYS], runs(dense=[1.5, 1.7, 1.6], move=[1.4, 1.58, 1.49]))
    plain = json.loads(json.dumps([dataclasses.asdict(answer) for answer in answers]))
    assert questions.read({"answers": plain}) == answers
    assert questions.read({}) == []
    questions.write(tmp_path, answers)
    lines = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(questions.COLUMNS)
    assert lines[1].endswith("better," + answers[0].sentence)


def test_nothing_is_written_where_nothing_was_asked(tmp_path: Path) -> None:
    questions.write(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_question_about_an_arm_that_is_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match="is about 'lave', and the arms are dense, move, moe"):
        dataclasses.replace(PRESETS["smoke"], questions=(Question(text="?", arm="lave", against="dense"),))


def test_other_arms_leave_the_questions_about_them() -> None:
    plan = commands.plan_of("hybrid", arms=["dense", "move", "moe"])
    assert {(each.arm, each.against) for each in plan.questions} == {("moe", "dense"), ("move", "dense")}
    assert plan.arms[2].share == 0, "the preset's own arm of that name is taken"


def test_plans_from_before_there_were_questions_are_read() -> None:
    old = PRESETS["smoke"].to_dict()
    del old["questions"], old["budget"]
    for arm in old["arms"]:
        del arm["share"], arm["sparse"]
    assert Plan.from_dict(old) == PRESETS["smoke"]


def test_the_page_answers_and_draws_what_was_asked(tmp_path: Path, made_up: Any) -> None:
    found = made_up()
    asked = questions.ask(
        [
            Question(text="Is <this> better?", arm="move+moe", against="dense"),
            Question(text="Is the other?", arm="moe", against="dense"),
        ],
        [
            {"data": "factbook", "arm": row.arm, "seed": seed, "bits_per_byte": value}
            for row in found["rows"]
            for seed, value in enumerate(row.bits_per_byte.values)
        ],
    )
    found["answers"] = [dataclasses.asdict(answer) for answer in asked]
    text = report.write(tmp_path, found).read_text(encoding="utf-8")
    assert "Is &lt;this&gt; better?" in text
    assert asked[0].verdict == stats.BETTER
    for answer in asked:
        assert answer.sentence in text
    assert text.index('id="asked"') < text.index('id="on-factbook"')
    assert (tmp_path / "figures" / "questions-factbook.png").stat().st_size < 150_000


def test_a_page_without_questions_has_no_such_section(tmp_path: Path, made_up: Any) -> None:
    assert 'id="asked"' not in report.write(tmp_path, made_up()).read_text(encoding="utf-8")
