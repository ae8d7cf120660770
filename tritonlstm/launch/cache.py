"""The user's own tables, which `tritonlstm tune` writes: one file for each GPU architecture.

A file is for one schema, Triton version, architecture and device; a layer compares all but the last, which tells the
tuner whose times its rows are. A layer that meets a file it cannot use warns once and goes on with the tables of the
package: no cache ever breaks a layer.
"""

import json
import os
import warnings
from pathlib import Path

from ..core import files
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


def path_of(arch: str) -> Path | None:
    """The file in $TRITONLSTM_CACHE_DIR, else $XDG_CACHE_HOME/tritonlstm, else $HOME/.cache/tritonlstm.

    None where none of the three is set: there is no cache then.
    """
    own, shared, home = (os.environ.get(name) for name in ("TRITONLSTM_CACHE_DIR", "XDG_CACHE_HOME", "HOME"))
    folder = own or (shared and f"{shared}/tritonlstm") or (home and f"{home}/.cache/tritonlstm")
    return Path(os.path.expanduser(folder), f"{arch}.json") if folder else None


def read(arch: str) -> Table | None:
    """The user's table for `arch`; None where there is none, and with a warning where it cannot be used."""
    path = path_of(arch)
    if path is None:
        return None
    table, problem = examine(path, arch)
    if problem:
        warnings.warn(
            f"{path} is not used: {problem}. The layers go on with the default configurations. Move the file away, or"
            " delete it; `tritonlstm tune` then writes a new one.",
            TuningCacheWarning,
            stacklevel=2,
        )
    return table


def examine(path: Path, arch: str) -> tuple[Table | None, str]:
    """The table in a file, and the reason why it cannot be used; (None, "") where there is no file."""
    try:
        content = load(path)
        table = parse(content)
        wanted = {"schema": SCHEMA, "arch": arch, "triton": triton_version()}
        for name, value in wanted.items():
            if content.get(name) != value:
                return None, f"its {name} is {content.get(name)!r:.40}, here it is {value!r}"
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{type(error).__name__}: {error}"
    except (ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        return None, f"it is corrupt ({reason:.200})"
    return table, ""


def load(path: Path) -> object:
    """The decoded JSON of a small regular file."""
    return json.loads(files.read_text(path))
