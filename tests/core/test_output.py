"""What the commands print: an encoding that lacks a character, and a reader that has gone, end in no traceback."""

import os
import subprocess
import sys

import pytest

from tritonlstm.core import output

PROGRAM = f"""
import runpy, sys
runpy.run_path({output.__file__!r})["make_robust"]()
for _ in range(20_000):
    print("32→64 × σ")
print("done", file=sys.stderr)
"""
"""Loads the module alone: importing PyTorch would take its time in each process."""


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """What a shell's line does; `$PROGRAM` in it runs the program."""
    variables = os.environ | {"PYTHON": sys.executable, "TEXT": PROGRAM} | environment
    line = line.replace("$PROGRAM", '"$PYTHON" -c "$TEXT"')
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], env=variables, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("$PROGRAM | head -1", "32→64 × σ\n"),
        ("$PROGRAM | true", ""),
        ("$PROGRAM >&-", ""),
        ("$PROGRAM <&- >&-", ""),
        ("$PROGRAM 2>&1 | head -1", "32→64 × σ\n"),
    ],
)
def test_an_output_that_nobody_reads_is_no_error(line: str, printed: str):
    result = shell(line)
    assert result.returncode == 0
    assert result.stdout.decode() == printed
    assert result.stderr.decode() == ("" if "2>&1" in line else "done\n")


def test_closed_errors_are_no_error():
    result = shell("$PROGRAM 2>&- | tail -1")
    assert (result.returncode, result.stdout.decode()) == (0, "32→64 × σ\n")


def test_what_an_encoding_lacks_is_escaped():
    result = shell("$PROGRAM | tail -1", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stdout) == (0, rb"32\u219264 \xd7 \u03c3" + b"\n")
