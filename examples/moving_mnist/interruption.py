"""Ctrl-C and SIGTERM: the first asks the training to end, so that what was learned is kept; the second ends all."""

import os
import signal
from contextlib import suppress
from types import FrameType


class Interruption:
    """Handles both signals from its creation on. Calling it says whether the first has come."""

    def __init__(self):
        self._came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        return self._came

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            _say("ended by a second signal, without all results")
            raise SystemExit(128 + number)
        self._came = True
        _say("training ends here, scores and pictures follow; a second Ctrl-C or SIGTERM ends at once")


def _say(text: str) -> None:
    """Write a line to stderr, past Python's buffer, which may be in use where a signal comes."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
