"""The user's own tables, which `tritonlstm tune` writes: one file for each GPU architecture.

A file is for one schema, Triton version, architecture and device; a layer compares all but the last, which tells the
tuner whose times its rows are. A layer that meets a file it cannot use warns once and goes on with the tables of the
package: no cache ever breaks a layer.
"""

import json
import os
import warnings
from pathlib import Path

from .tables import Table, parse

SCHEMA = 1


class TuningCacheWarning(UserWarning):
    """The user's table of configurations is there but cannot be used."""


def triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return str(getattr(triton, "__version__", "none"))  # a stub in sys.modules has none


def path_of(arch: str) -> Path:
    """The file in $TRITONLSTM_CACHE_DIR, else $XDG_CACHE_HOME/tritonlstm, else ~/.cache/tritonlstm."""
    own = os.environ.get("TRITONLSTM_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(own or f"{shared}/tritonlstm") / f"{arch}.json"


def read(arch: str) -> Table | None:
    """The user's table for `arch`; None where there is none, and with a warning where it cannot be used."""
    path = path_of(arch)
    table, problem = examine(path, arch)
    if problem:
        warnings.warn(
            f"{path} is not used: {problem}. The layers go on with the default configurations;"
            " `tritonlstm tune` writes the file anew, or delete it.",
            TuningCacheWarning,
            stacklevel=2,
        )
    return table


def examine(path: Path, arch: str) -> tuple[Table | None, str]:
    """The table in a file, and the reason why it cannot be used; (None, "") where there is no file."""
    try:
        content = load(path)
        table = parse(content)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{type(error).__name__}: {error}" if isinstance(error, OSError) else f"it is corrupt ({error})"
    wanted = {"schema": SCHEMA, "arch": arch, "triton": triton_version()}
    for name, value in wanted.items():
        if content.get(name) != value:
            return None, f"its {name} is {content.get(name)!r}, here it is {value!r}"
    return table, ""


def load(path: Path) -> object:
    """The decoded JSON of a file."""
    return json.loads(path.read_text(encoding="utf-8"))
