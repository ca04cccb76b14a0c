import pytest

from vademecum.training.schedule import factor


def _whole(steps, warmup, decay):
    return [factor(step, steps=steps, warmup=warmup, decay=decay) for step in range(steps)]


def test_it_rises_stays_and_falls():
    assert _whole(10, 0.2, 0.4) == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_without_warm_up_and_decay_it_is_constant():
    assert _whole(5, 0.0, 0.0) == [1.0] * 5


def test_no_step_is_wasted_on_a_rate_of_zero():
    assert min(_whole(1000, 0.05, 0.3)) > 0


def test_warm_up_and_decay_may_share_the_whole_run():
    rates = _whole(8, 0.5, 0.5)
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match="steps 0 to 9"):
        factor(step, steps=10, warmup=0.1, decay=0.1)
