"""An interrupt waits until what was begun is finished."""

from __future__ import annotations

import signal
import threading

import pytest

from vademecum import interrupts

pytestmark = pytest.mark.usefixtures("interruptible")


def test_an_interrupt_waits_for_the_end_of_the_block_and_of_the_outer_one() -> None:
    done = []

    def run() -> None:
        with interrupts.finished():
            with interrupts.finished():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_is_not_lost_when_an_interrupt_came_as_well() -> None:
    def run() -> None:
        with interrupts.finished():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("first")

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_are_never_interrupted_and_set_nothing() -> None:
    seen: list[object] = []

    def run() -> None:
        with interrupts.finished():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_where_interrupts_are_ignored_they_still_are() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.finished():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
