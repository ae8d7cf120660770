"""The user's own tables, which `tritonlstm tune` writes: one file for each GPU architecture.

A file is for one schema, Triton version, architecture and device; a layer compares all but the last, which tells the
tuner whose times its rows are. A layer that meets a file it cannot use warns once and goes on with the tables of the
package: no cache ever breaks a layer.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .tables import Table, dump, parse

SCHEMA = 1


class TuningCacheWarning(UserWarning):
    """The user's table of configurations is there but cannot be used."""


@dataclass(frozen=True)
class Header:
    """What the rows of a file hold for."""

    triton: str
    arch: str
    device: str
    schema: int = SCHEMA


HEADER = frozenset(field.name for field in fields(Header))


def triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return triton.__version__


def directory() -> Path:
    """$TRITONLSTM_CACHE_DIR, else $XDG_CACHE_HOME/tritonlstm, else ~/.cache/tritonlstm."""
    own = os.environ.get("TRITONLSTM_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(shared) / "tritonlstm"


def path_of(arch: str) -> Path:
    return directory() / f"{arch}.json"


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
        content = _load(path)
        table = parse(content, HEADER)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{type(error).__name__}: {error}" if isinstance(error, OSError) else f"it is corrupt ({error})"
    wanted = {"schema": SCHEMA, "arch": arch, "triton": triton_version()}
    for name, value in wanted.items():
        if content.get(name) != value:
            return None, f"its {name} is {content.get(name)!r}, here it is {value!r}"
    return table, ""


def update(path: Path, header: Header, table: Table, measured: str = "") -> str:
    """Add the rows of `table` to a file, atomically, over older rows for the same layers.

    Two processes may do so at once, and neither loses the other's rows. What the file held for another header, or in
    another form, is replaced; returns a sentence that says so, or "". A file without any header, as the package's own
    have none, keeps its rows and gets none. Raises OSError, with the file as it was, where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock")):
        replaced, wanted = "", asdict(header)
        held = wanted
        try:
            content = _load(path)
            older = parse(content, HEADER)
            held = {name: content[name] for name in HEADER if name in content}
        except FileNotFoundError:
            older = Table()
        except (ValueError, RecursionError) as error:
            older, replaced = Table(), f"its former content was corrupt ({error})"
        if not held:
            wanted = {}
        elif held != wanted:
            changed = [f"{name} {held.get(name)!r}" for name in sorted(wanted) if held.get(name) != wanted[name]]
            older, replaced = Table(), f"its former rows were for {', '.join(changed)}"
        sentence = {"measured": measured} if measured and wanted else {}
        _write(path, dump(older.merged(table), wanted | sentence))
    return replaced


def _load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives it to its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is gone afterwards."""
    try:
        import fcntl
    except ImportError:  # not Unix: Triton, and so the tuner, is not there either
        yield
        return
    while True:
        file = open(path, "w")  # noqa: SIM115 closed below, or by whoever comes after
        fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever held the lock has removed its file: then this is not the one that the next will open.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()
    try:
        yield
    finally:
        os.unlink(path)
        file.close()
