"""A run's time, kept to: what does not fit is given up, not waited for."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(BaseException):
    """What was limited took too long. No Exception, so that nobody on the way takes it for a failure of theirs."""


class Deadline:
    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Raises OutOfTime when the run's time is over, within what stands inside; in the main thread alone.

        A call into a library is left only when it returns to Python.
        """
        if self.left() <= 0:
            raise OutOfTime
        if math.isinf(self.seconds) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.left())
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
