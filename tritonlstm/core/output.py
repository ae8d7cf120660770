"""What the commands print: no encoding and no absent reader makes them fail, and no text controls the terminal."""

import io
import os
import sys


class _Descriptor(io.FileIO):
    """A file descriptor that drops what nobody reads any more, as after `| head -1`."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def make_robust() -> None:
    """From here on, stdout and stderr escape what their encoding lacks, and may be closed. Call it first in `main`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):  # not what a test or a notebook put in its place
            stream.flush()
            buffer = io.BufferedWriter(_Descriptor(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=True))


def printable(line: str) -> str:
    """The line with control characters escaped: a terminal obeys those in a text from elsewhere."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def warn(message: str) -> None:
    """Print what a command's user should know, in one line."""
    print(f"tritonlstm: warning: {printable(message)}", file=sys.stderr)


def fail(message: str) -> int:
    """Print why a command fails, in one line. Returns its exit status."""
    print(f"tritonlstm: {printable(message)}", file=sys.stderr)
    return 1
