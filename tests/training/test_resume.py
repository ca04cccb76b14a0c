import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_runs.py"), str(folder)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("variant", ["adamw", "muon", "bank on disk"])
@pytest.mark.parametrize(
    "when",
    [
        "before the first checkpoint",
        "between checkpoints",
        "at a step that is due, before it is saved",
        "at the last step",
        "halfway through a file of the second checkpoint",
        "before the second checkpoint is sealed",
        "before the second checkpoint is renamed",
        "before latest is moved",
        "while an old checkpoint is removed",
        "at an arbitrary moment from outside",
    ],
)
def test_a_run_killed_and_resumed_equals_one_never_killed_bit_for_bit(outcomes, variant, when):
    never, killed = outcomes[variant]["never killed"], outcomes[variant][when]
    assert never["first"] == 0
    assert killed["first"] == -signal.SIGKILL
    assert killed["second"] == 0
    assert [line[0] for line in killed["steps"]] == list(range(1, 13))
    for what in ("steps", "evaluations", "weights"):
        assert killed[what] == never[what], what


@pytest.mark.parametrize("variant", ["adamw", "muon", "bank on disk"])
def test_nothing_half_written_is_left_among_the_checkpoints(outcomes, variant):
    for name, outcome in outcomes[variant].items():
        assert outcome["checkpoints"] == ["latest", "step-00000012"], name
