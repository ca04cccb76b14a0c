import io

import pytest

from vademecum.training.progress import Bar, Lines, duration, progress

LINE = {"loss": 1.25, "tokens_per_second": 1234.5}


def test_plain_lines_show_loss_speed_and_time_left():
    now, out = [0.0], io.StringIO()
    lines = Lines(10, stream=out, interval=10, clock=lambda: now[0])
    for step in range(1, 6):
        now[0] += 4
        lines({"step": step, **LINE})
    assert out.getvalue() == "step 3/10  loss 1.250  1,234 tokens/s  0:28 left\n"


def test_the_last_step_is_always_shown():
    out = io.StringIO()
    lines = Lines(2, stream=out, clock=lambda: 0.0)
    for step in (1, 2):
        lines({"step": step, **LINE})
    assert out.getvalue().startswith("step 2/2")


def test_time_left_counts_only_the_steps_of_this_opening():
    now, out = [0.0], io.StringIO()
    lines = Lines(100, done=90, stream=out, interval=1, clock=lambda: now[0])
    now[0] = 2.0
    lines({"step": 91, **LINE})
    assert out.getvalue().endswith("0:18 left\n")


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    bar = progress(5, stream=Terminal())
    assert isinstance(bar, Bar)
    bar({"step": 1, **LINE})
    bar.close()
    assert isinstance(progress(5, stream=io.StringIO()), Lines)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3725, "1:02:05")])
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text
