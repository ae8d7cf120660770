"""A table of launch configurations and schedules: its form, and what makes one invalid.

    {"measured": …, "configs": [row, …], "schedules": [row, …]}

A row of "configs" has kernel, itemsize, channels (null: any), BLOCK and num_warps; one of "schedules" has itemsize,
in_channels, channels, kernel and schedule. Each may say in "measured" where it comes from.
"""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

KERNELS = ("gates_forward", "gates_backward", "parameter_grads")
SCHEDULES = ("concat", "hoisted")

_LARGEST_BLOCK = 16384
_MOST_WARPS = 16
"""1024 threads, the most of a block, on AMD, whose wavefronts have 64; the search stays far below."""


@dataclass(frozen=True)
class Config:
    """block: elements of a program's tile; num_warps: warps of 32 (on AMD, wavefronts of 64) that work on it."""

    block: int
    num_warps: int

    def __str__(self) -> str:
        return f"{self.block}/{self.num_warps}"


class ConfigKey(NamedTuple):
    """What a configuration depends on. `channels` is None in a row for any."""

    kernel: str
    itemsize: int
    channels: int | None


class ScheduleKey(NamedTuple):
    """What a schedule depends on. `kernel` is the convolution's: (kh, kw), or () for a layer of vectors."""

    itemsize: int
    in_channels: int
    channels: int
    kernel: tuple[int, ...]


class Entry(NamedTuple):
    """A row's result, a Config or a schedule's name, and the sentence that says where it was measured."""

    value: Config | str
    measured: str


@dataclass(frozen=True)
class Table:
    configs: dict[ConfigKey, Entry] = field(default_factory=dict)
    schedules: dict[ScheduleKey, Entry] = field(default_factory=dict)

    def config(self, kernel: str, itemsize: int, channels: int | None) -> Entry | None:
        """The row for exactly these channels, else the one for any."""
        exact = self.configs.get(ConfigKey(kernel, itemsize, channels))
        return exact or self.configs.get(ConfigKey(kernel, itemsize, None))

    def merged(self, newer: "Table") -> "Table":
        return Table(self.configs | newer.configs, self.schedules | newer.schedules)


def parse(content: object, header: frozenset[str] = frozenset()) -> Table:
    """The table in decoded JSON, which may also have the keys in `header`.

    Raises ValueError with a reason where anything is unknown, missing, of the wrong type or out of range.
    """
    _check_keys("table", content, required={"configs", "schedules"}, optional={"measured", *header})
    measured = content.get("measured", "")
    _check("measured", measured, isinstance(measured, str), "text")
    for name in ("configs", "schedules"):
        _check(name, content[name], isinstance(content[name], list), "a list")
    return Table(
        dict(_config_row(row, measured) for row in content["configs"]),
        dict(_schedule_row(row, measured) for row in content["schedules"]),
    )


def dump(table: Table, header: dict[str, object]) -> str:
    """The table as JSON, one row a line, `parse`'s inverse."""
    configs = [
        key._asdict() | {"BLOCK": value.block, "num_warps": value.num_warps, "measured": measured}
        for key, (value, measured) in sorted(table.configs.items(), key=str)
    ]
    schedules = [
        key._asdict() | {"schedule": value, "measured": measured}
        for key, (value, measured) in sorted(table.schedules.items(), key=str)
    ]
    lines = [f"  {json.dumps(name)}: {_json(value)}" for name, value in header.items()]
    for name, rows in (("configs", configs), ("schedules", schedules)):
        body = "".join(f"\n    {_json(row)}," for row in rows).removesuffix(",")
        lines.append(f'  "{name}": [{body}\n  ]' if rows else f'  "{name}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _config_row(row: object, measured: str) -> tuple[ConfigKey, Entry]:
    required = {"kernel", "itemsize", "channels", "BLOCK", "num_warps"}
    _check_keys("row of configs", row, required=required, optional={"measured"})
    _check("kernel", row["kernel"], row["kernel"] in KERNELS, f"one of {', '.join(KERNELS)}")
    _check("itemsize", row["itemsize"], _is_count(row["itemsize"]) and row["itemsize"] in (2, 4), "2 or 4")
    channels = row["channels"]
    _check("channels", channels, channels is None or _is_count(channels), "a positive integer or null")
    for name, most in (("BLOCK", _LARGEST_BLOCK), ("num_warps", _MOST_WARPS)):
        value = row[name]
        fits = _is_count(value) and value <= most and value & (value - 1) == 0
        _check(name, value, fits, f"a power of two up to {most}")
    key = ConfigKey(row["kernel"], row["itemsize"], channels)
    return key, Entry(Config(row["BLOCK"], row["num_warps"]), _sentence(row, measured))


def _schedule_row(row: object, measured: str) -> tuple[ScheduleKey, Entry]:
    required = {"itemsize", "in_channels", "channels", "kernel", "schedule"}
    _check_keys("row of schedules", row, required=required, optional={"measured"})
    _check("itemsize", row["itemsize"], _is_count(row["itemsize"]) and row["itemsize"] in (2, 4), "2 or 4")
    for name in ("in_channels", "channels"):
        _check(name, row[name], _is_count(row[name]), "a positive integer")
    kernel = row["kernel"]
    fits = isinstance(kernel, list) and len(kernel) <= 3 and all(_is_count(size) and size % 2 for size in kernel)
    _check("kernel", kernel, fits, "a list of at most three odd sizes")
    _check("schedule", row["schedule"], row["schedule"] in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
    key = ScheduleKey(row["itemsize"], row["in_channels"], row["channels"], tuple(kernel))
    return key, Entry(row["schedule"], _sentence(row, measured))


def _sentence(row: dict, measured: str) -> str:
    sentence = row.get("measured", measured)
    _check("measured", sentence, isinstance(sentence, str), "text")
    return sentence


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0  # type: a bool is an int


def _check(name: str, value: object, fits: bool, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{name}: expected {wanted}, got {value!r:.40}")


def _check_keys(name: str, content: object, required: set[str], optional: set[str]) -> None:
    _check(name, content, isinstance(content, dict), "an object")
    missing, unknown = required - content.keys(), content.keys() - required - optional
    if missing or unknown:
        words = [f"no {key!r}" for key in sorted(missing)] + [f"unknown key {key!r}" for key in sorted(unknown)]
        raise ValueError(f"{name}: {', '.join(words)}")
