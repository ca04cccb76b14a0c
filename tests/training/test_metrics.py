import sys

import pytest

from vademecum.training import metrics


def test_rewinding_drops_later_steps_and_lines_cut_short(tmp_path):
    lines = metrics.JsonLines(tmp_path)
    for step in (1, 2, 3):
        lines.log(step, {"loss": 1.0 / step})
    with open(lines.path, "a") as file:
        file.write('{"step": 2, "lo')
    lines.rewind(2)
    lines.log(3, {"loss": 0.25})
    assert [line["loss"] for line in metrics.read(tmp_path)[0]] == [1.0, 0.5, 0.25]


def test_rewinding_keeps_every_digit(tmp_path):
    lines = metrics.JsonLines(tmp_path)
    lines.log(1, {"loss": 0.1 + 0.2})
    before = lines.path.read_bytes()
    lines.rewind(1)
    assert lines.path.read_bytes() == before


def test_training_and_evaluation_lines_are_told_apart(tmp_path):
    lines = metrics.JsonLines(tmp_path)
    lines.log(1, {"loss": 2.0})
    lines.log(1, {"bits_per_byte": 1.5})
    steps, evaluations = metrics.read(tmp_path)
    assert [line["loss"] for line in steps] == [2.0]
    assert [line["bits_per_byte"] for line in evaluations] == [1.5]


def test_nested_values_are_flattened_to_paths():
    assert metrics.flat({"loss": 1, "norms": {"host": 2.0}, "name": "x"}) == {"loss": 1.0, "norms/host": 2.0}


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("trackio", "trackio")])
def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'vademecum\[{name}\]'"):
        metrics.tracker(name)


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="tensorboard, trackio"):
        metrics.tracker("wandb")
