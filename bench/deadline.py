"""A run's time, kept to: what does not fit is given up, not waited for."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPEAT = 1.0
"""Seconds after which the alarm rings again: whatever caught the first must not go on without a limit."""


class OutOfTime(BaseException):
    """What was limited took too long. No Exception, so that nobody on the way takes it for a failure of theirs."""

    def __init__(self, reason: str = "the run's time was over"):
        super().__init__(reason)


class Deadline:
    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    @contextmanager
    def limit(self, most: float = math.inf) -> Iterator[None]:
        """Raises OutOfTime when the run's time is over, or `most` seconds, within what stands inside.

        In the main thread alone. A call into a library is left only when it returns to Python.
        """
        left = self.left()
        if left <= 0:
            raise OutOfTime
        if math.isinf(min(left, most)) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            raise OutOfTime(f"it took more than {most:g} s") if most < left else OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, min(left, most), REPEAT)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
