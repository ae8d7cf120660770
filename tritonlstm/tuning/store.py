"""Writing tables: the rows of a search are added to a file that a layer, or another search, may be reading.

Imports no Triton.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from ..launch.cache import SCHEMA, load
from ..launch.tables import HEADER, Table, parse


@dataclass(frozen=True)
class Header:
    """What the rows of a file hold for."""

    triton: str
    arch: str
    device: str
    schema: int = SCHEMA


def update(path: Path, header: Header, table: Table, measured: str = "") -> str:
    """Add the rows of `table` to a file, atomically, over older rows for the same layers.

    Two processes may do so at once, and neither loses the other's rows. What the file held for another header, or in
    another form, is replaced; returns a sentence that says so, or "". A file without any header, as the package's own
    have none, keeps its rows and gets none. Raises OSError, with the file as it was, where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        wanted = held = asdict(header)
        older, replaced = Table(), ""
        try:
            content = load(path)
            older = parse(content)
            held = {name: content[name] for name in HEADER if name in content}
        except FileNotFoundError:
            pass
        except (ValueError, RecursionError) as error:
            replaced = f"its former content was corrupt ({error})"
        if not held:
            wanted = {}
        elif held != wanted:
            changed = [f"{name} {held.get(name)!r}" for name in sorted(wanted) if held.get(name) != wanted[name]]
            older, replaced = Table(), f"its former rows were for {', '.join(changed)}"
        sentence = {"measured": measured} if measured and wanted else {}
        merged = Table(older.configs | table.configs, older.schedules | table.schedules)
        _write(path, dump(merged, wanted | sentence))
    return replaced


def dump(table: Table, header: dict[str, object]) -> str:
    """The table as JSON, one row a line, the inverse of `launch.tables.parse`."""
    configs = [
        key._asdict() | {"BLOCK": value.block, "num_warps": value.num_warps, "measured": measured}
        for key, (value, measured) in sorted(table.configs.items(), key=str)
    ]
    schedules = [
        key._asdict() | {"schedule": value, "measured": measured}
        for key, (value, measured) in sorted(table.schedules.items(), key=str)
    ]
    lines = [f"  {_json(name)}: {_json(value)}" for name, value in header.items()]
    for name, rows in (("configs", configs), ("schedules", schedules)):
        body = ",".join(f"\n    {_json(row)}" for row in rows)
        lines.append(f"  {_json(name)}: [{body}\n  ]" if rows else f"  {_json(name)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # the lock's holder alone writes it
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
