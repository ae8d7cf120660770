"""A table of launch configurations and schedules: its form, and what makes one invalid.

    {"measured": …, "configs": [row, …], "schedules": [row, …]}

A row of "configs" has kernel, itemsize, channels (null: any), BLOCK, num_warps and, where it is not false, launch_pdl;
one of "schedules" has itemsize, in_channels, channels, kernel and schedule. Each may say in "measured" where it comes
from. A user's own table also has
the keys in HEADER, which say what it holds for.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

KERNELS = ("gates_forward", "gates_backward", "parameter_grads")
SCHEDULES = ("concat", "hoisted")
HEADER = frozenset(("schema", "triton", "arch", "device"))


class Config(NamedTuple):
    """block: elements of a program's tile; num_warps: warps of 32 (on AMD, wavefronts of 64) that work on it;
    launch_pdl: programmatic dependent launch, before the end of the kernel before (compute capability 9.0 and higher).
    """

    block: int
    num_warps: int
    launch_pdl: bool = False

    def __str__(self) -> str:
        return f"{self.block}/{self.num_warps}{'/pdl' if self.launch_pdl else ''}"


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


def parse(content: object) -> Table:
    """The table in decoded JSON.

    Raises ValueError with a reason where anything is unknown, missing, of the wrong type or out of range.
    """
    _check_keys("table", content, required=_ROWS.keys(), optional={"measured", *HEADER})
    measured, table = content.get("measured", ""), Table()
    _check("measured", measured, isinstance(measured, str), "text")
    for name, fields in _ROWS.items():
        _check(name, content[name], isinstance(content[name], list), "a list")
        for row in content[name]:
            _check_keys(f"row of {name}", row, required=fields.keys(), optional={"measured", *_OPTIONAL[name]})
            for key, (fits, wanted) in (fields | _OPTIONAL[name]).items():
                _check(key, row.get(key, False), fits(row.get(key, False)), wanted)
            _check("measured", row.get("measured", measured), isinstance(row.get("measured", measured), str), "text")
    for row in content["configs"]:
        key = ConfigKey(row["kernel"], row["itemsize"], row["channels"])
        value = Config(row["BLOCK"], row["num_warps"], row.get("launch_pdl", False))
        table.configs[key] = Entry(value, row.get("measured", measured))
    for row in content["schedules"]:
        key = ScheduleKey(row["itemsize"], row["in_channels"], row["channels"], tuple(row["kernel"]))
        table.schedules[key] = Entry(row["schedule"], row.get("measured", measured))
    return table


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0  # type: a bool is an int


def _is_kernel_size(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 3 and all(_is_count(size) and size % 2 for size in value)


def _is_power_of_two(value: object, most: int) -> bool:
    return _is_count(value) and value <= most and value & (value - 1) == 0


_COUNT = (_is_count, "a positive integer")
_ITEMSIZE = (lambda value: _is_count(value) and value in (2, 4), "2 or 4")
_ROWS = {
    "configs": {
        "kernel": (KERNELS.__contains__, f"one of {', '.join(KERNELS)}"),
        "itemsize": _ITEMSIZE,
        "channels": (lambda value: value is None or _is_count(value), "a positive integer or null"),
        "BLOCK": (lambda value: _is_power_of_two(value, 16384), "a power of two up to 16384"),
        # 1024 threads, the most of a block, on AMD, whose wavefronts have 64; the search stays far below.
        "num_warps": (lambda value: _is_power_of_two(value, 16), "a power of two up to 16"),
    },
    "schedules": {
        "itemsize": _ITEMSIZE,
        "in_channels": _COUNT,
        "channels": _COUNT,
        "kernel": (_is_kernel_size, "a list of at most three odd sizes"),
        "schedule": (SCHEDULES.__contains__, f"one of {', '.join(SCHEDULES)}"),
    },
}
"""The fields of each kind of row: what a value must fulfil, in code and in words."""

_OPTIONAL = {"configs": {"launch_pdl": (lambda value: isinstance(value, bool), "true or false")}, "schedules": {}}
"""Those that may be left out, for false."""


def _check(name: str, value: object, fits: bool, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{name}: expected {wanted}, got {value!r:.40}")


def _check_keys(name: str, content: object, required: set[str], optional: set[str]) -> None:
    _check(name, content, isinstance(content, dict), "an object")
    missing, unknown = required - content.keys(), content.keys() - required - optional
    if missing or unknown:
        words = [f"no {key!r}" for key in sorted(missing)] + [f"unknown key {key!r}" for key in sorted(unknown)]
        raise ValueError(f"{name}: {', '.join(words)}")
