"""Processes of their own that begin with torch imported, without the seconds that this takes.

A process imports torch, and what else it is told to as far as that is installed, and is forked for each program. There
is one for each choice of modules.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = """
import contextlib, importlib, json, os, sys
import torch
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

for request in sys.stdin:
    process = os.fork()
    if process == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
else:
    sys.exit()

request = json.loads(request)
for descriptor, name in enumerate((os.devnull, request["output"], request["errors"])):
    os.dup2(os.open(name, os.O_RDWR), descriptor)
os.chdir(request["folder"])
os.environ.clear()
os.environ.update(request["environment"])
sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
sys.argv[1:] = request["arguments"]
exec(compile(request["program"], "<string>", "exec"), {"__name__": "__main__"})
"""


def run_with_torch(
    program: str,
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    imported: Sequence[str] = (),
) -> subprocess.CompletedProcess:
    """Run a program as `python -c` does, in this folder and environment, by default this process's.

    What torch and the other `imported` modules read from the environment when they are imported is this process's in
    any case.
    """
    server = _server(*imported)
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as errors:
        request = {
            "program": program,
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(os.environ if environment is None else environment),
            "output": output.name,
            "errors": errors.name,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(program, status, output.read(), errors.read())


def run_module(name: str, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    """The same for `python -m name`."""
    program = f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return run_with_torch(program, *arguments, **options)


def run_script(path: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    """The same for `python path`."""
    folder = f"import sys; sys.path[0] = {str(path.parent)!r}"
    program = f"{folder}\nimport runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    return run_with_torch(program, *arguments, **options)


@functools.cache
def _server(*imported: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, *imported],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server
