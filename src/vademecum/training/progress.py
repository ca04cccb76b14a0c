"""What a person sees while a run trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm


class Bar:
    """A progress bar with loss, tokens per second and the time left."""

    def __init__(self, steps: int, *, done: int = 0, stream: TextIO | None = None) -> None:
        self._bar = tqdm(total=steps, initial=done, unit="step", file=stream or sys.stderr, dynamic_ncols=True)

    def __call__(self, line: Mapping[str, Any]) -> None:
        self._bar.set_postfix_str(f"loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s", refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class Lines:
    """A plain line about every ``interval`` seconds, and one at the last step."""

    def __init__(
        self,
        steps: int,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps, self._first, self._interval, self._clock = steps, done, interval, clock
        self._stream = stream or sys.stderr
        self._start = self._last = clock()

    def __call__(self, line: Mapping[str, Any]) -> None:
        now, step = self._clock(), line["step"]
        if now - self._last < self._interval and step < self._steps:
            return
        self._last = now
        left = (now - self._start) / (step - self._first) * (self._steps - step)
        print(
            f"step {step}/{self._steps}  loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s  "
            f"{duration(left)} left",
            file=self._stream,
            flush=True,
        )

    def close(self) -> None:
        """Nothing is left open."""


def progress(steps: int, *, done: int = 0, stream: TextIO | None = None) -> Bar | Lines:
    """What suits the stream (standard error by default): a bar in a terminal, lines elsewhere."""
    stream = stream or sys.stderr
    return Bar(steps, done=done, stream=stream) if stream.isatty() else Lines(steps, done=done, stream=stream)


def duration(seconds: float) -> str:
    """Seconds as ``2:05`` or ``1:02:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
