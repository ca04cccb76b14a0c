import json
import random

import numpy as np
import torch

from vademecum.training.random_state import RandomState


def _draw(state):
    with state.active():
        return [random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item(), torch.randn(1).item()]


def test_two_states_of_one_seed_draw_the_same():
    assert _draw(RandomState(3)) == _draw(RandomState(3))
    assert _draw(RandomState(3)) != _draw(RandomState(4))


def test_a_state_goes_on_where_it_was_after_a_way_through_json():
    first = RandomState(3)
    _draw(first)
    second = RandomState(9)
    second.load(json.loads(json.dumps(first.to_dict())))
    assert _draw(first) == _draw(second)


def test_what_is_drawn_outside_does_not_matter():
    first, second = RandomState(3), RandomState(3)
    _draw(first)
    random.random(), np.random.rand(), torch.rand(5)
    _draw(second)
    assert _draw(first) == _draw(second)


def test_the_state_outside_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    _draw(RandomState(3))
    assert torch.equal(torch.rand(2), expected)
