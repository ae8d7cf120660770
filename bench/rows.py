"""The one schema of all figures: a row for each contender at each point, in a CSV file."""

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_type_hints

from .environment import Environment

OK = "ok"
ABSENT = "absent"
WRONG = "wrong"
OUT_OF_MEMORY = "out of memory"
DROPPED = "dropped"
FAILED = "failed"

GRAPH = "graph"
CALLS = "calls"


@dataclass(frozen=True)
class Key:
    """A point. Contenders with the same key were timed in turns, and only their times are compared."""

    run: str
    """Which set of contenders: "contenders", "compiled", "steps", …"""
    case: str
    sizes: str
    steps: int
    dtype: str
    mode: str
    """"inference" or "training", "first-measurements", "gates"."""


@dataclass(frozen=True)
class Row:
    key: Key
    provider: str
    peephole: bool
    status: str
    reason: str = ""
    """Of a time: the largest error as a part of its budget. Else why there is none."""
    launch: str = ""
    """GRAPH: replays of a CUDA graph. CALLS: from Python, launches included. Only times of one kind are compared."""
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int = 0
    peak_bytes: int | None = None
    """Above what was held before. None where it was not seen."""
    x_conv_floor: float | None = None
    """The median over that of the convolutions alone."""


def with_floor(rows: list[Row], floor: str) -> list[Row]:
    """The rows of one point, each median also as a multiple of the contender's named `floor`, if launched alike."""
    medians = {row.launch: row.median_ms for row in rows if row.provider == floor and row.status == OK}

    def measured(row: Row) -> Row:
        known = row.status == OK and row.launch in medians
        return replace(row, x_conv_floor=row.median_ms / medians[row.launch]) if known else row

    return [measured(row) for row in rows]


def _flat(row: Row, environment: Environment) -> dict:
    values = asdict(row)
    return values.pop("key") | values | asdict(environment)


def _columns() -> list[str]:
    row = [each.name for each in fields(Row) if each.name != "key"]
    return [each.name for each in fields(Key)] + row + [each.name for each in fields(Environment)]


class Rows:
    """Collects rows and, where there is a path, saves all of them after every point."""

    def __init__(self, path: Path | None, environment: Environment):
        self.path = path
        self.all: list[Row] = []
        self._environment = environment

    def add(self, rows: Iterable[Row]) -> None:
        self.all += rows
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it first: a run that is ended while it writes leaves the rows that were there.
        beside = self.path.with_name(f".{self.path.name}.new")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, _columns())
            writer.writeheader()
            writer.writerows(_flat(row, self._environment) for row in self.all)
        os.replace(beside, self.path)


def read(path: Path) -> tuple[list[Row], Environment]:
    """The rows of a file, and where they come from."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        raise ValueError(f"{path}: no rows")

    def part(line: dict[str, str], kind: type) -> dict:
        hints = {name: hint for name, hint in get_type_hints(kind).items() if name in line}
        return {name: _parse(line[name], hint) for name, hint in hints.items()}

    rows = [Row(Key(**part(line, Key)), **part(line, Row)) for line in lines]
    return rows, Environment(**part(lines[0], Environment))


def _parse(text: str, hint: object) -> object:
    if hint is bool:
        return text == "True"
    if hint is str:
        return text
    if hint is int:
        return int(text)
    return None if text == "" else float(text) if hint == float | None else int(text)
