"""Writing tables: the rows of a search are added to a file that a layer, or another search, may be reading.

Imports no Triton.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..core import files
from ..launch.cache import SCHEMA, load
from ..launch.tables import HEADER, Table, parse


@dataclass(frozen=True)
class Header:
    """What the rows of a file hold for."""

    triton: str
    arch: str
    device: str
    schema: int = SCHEMA


def read(path: Path) -> dict | None:
    """The content of a table; None where there is no file. Raises OSError, or ValueError where it is no table."""
    try:
        content = load(path)
        parse(content)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a table of ours or no file, got something else ({error!s:.200})") from None
    return content


def update(path: Path, header: Header, table: Table, measured: str = "") -> str:
    """Add the rows of `table` to a file, atomically, over older rows for the same layers.

    Two processes may do so at once, and neither loses the other's rows. What a table held for another header is
    replaced; returns a sentence that says so, or "". A table without any header, as the package's own have none, keeps
    its rows and gets none. Raises OSError where the file cannot be written, and ValueError where it is no table; it
    stays as it was.
    """
    path = Path(os.path.realpath(path))  # all links to a file share its lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(path):
        wanted = asdict(header)
        content = read(path) or wanted | {"configs": [], "schedules": []}
        older, replaced = parse(content), ""
        held = {name: content[name] for name in HEADER if name in content}
        if not held:
            wanted = {}
        elif held != wanted:
            changed = [f"{name} {held.get(name)!r:.40}" for name in sorted(wanted) if held.get(name) != wanted[name]]
            older, replaced = Table(), f"its former rows were for {', '.join(changed)}"
        sentence = {"measured": measured} if measured and wanted else {}
        merged = Table(older.configs | table.configs, older.schedules | table.schedules)
        files.write(path, dump(merged, wanted | sentence))
    return replaced


def dump(table: Table, header: dict[str, object]) -> str:
    """The table as JSON, one row a line, the inverse of `launch.tables.parse`."""
    configs = [
        key._asdict()
        | {"BLOCK": value.block, "num_warps": value.num_warps}
        | ({"launch_pdl": True} if value.launch_pdl else {})
        | {"measured": measured}
        for key, (value, measured) in sorted(table.configs.items(), key=str)
    ]
    schedules = [
        key._asdict() | {"schedule": value, "measured": measured}
        for key, (value, measured) in sorted(table.schedules.items(), key=str)
    ]
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in header.items()]
    for name, rows in (("configs", configs), ("schedules", schedules)):
        body = ",".join(f"\n    {json.dumps(row)}" for row in rows)
        lines.append(f"  {json.dumps(name)}: [{body}\n  ]" if rows else f"  {json.dumps(name)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"
