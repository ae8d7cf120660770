"""Which launch configuration a kernel gets, and which schedule a layer.

Three tables are searched in turn: the user's own for this GPU architecture (see `cache`), the package's for it, and the
package's for any, the last two in kernels/tuned. In each a row for exactly these channels takes precedence over one for
any. The result never depends on T or B, and is cached: a second call reads no file and asks no device.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from . import cache
from .tables import Config, Entry, ScheduleKey, Table, parse

_in_use: dict[str, Config] = {}


def pick_config(kernel: str, arch: str, itemsize: int, channels: int) -> Config:
    """The configuration of `kernel` ("gates_forward", …) on `arch` ("sm_90", …).

    For a dtype of `itemsize` bytes, 2 or 4, and C channels. Raises KeyError where no table knows the kernel.
    """
    if kernel in _in_use:
        return _in_use[kernel]
    return find_config(kernel, arch, itemsize, channels)[0].value


def pick_schedule(arch: str, itemsize: int, in_channels: int, channels: int, kernel: tuple[int, ...]) -> str:
    """ "hoisted" where a table says that it is faster for this layer on `arch`, else "concat".

    `kernel` is the size of the convolution's: (kh, kw), or () for a layer of vectors.
    """
    return find_schedule(arch, itemsize, in_channels, channels, tuple(kernel))[0].value


def has_launch_pdl(arch: str) -> bool:
    """Whether kernels on `arch` may be launched before the one before has ended."""
    return arch.startswith("sm_") and arch.removeprefix("sm_").isdecimal() and int(arch.removeprefix("sm_")) >= 90


@contextmanager
def use(configs: dict[str, Config]) -> Iterator[None]:
    """Within it, these kernels get these configurations, in every thread: for the tuner, which tries them."""
    before = dict(_in_use)
    _in_use.update(configs)
    try:
        yield
    finally:
        _in_use.clear()
        _in_use.update(before)


@functools.cache
def find_config(kernel: str, arch: str, itemsize: int, channels: int | None, user: bool = True) -> tuple[Entry, str]:
    """The row that `pick_config` takes, and the file it is in; without `user`, of the package's tables alone.

    `channels` None: the row for any.
    """
    for origin, table in tables(arch, user):
        entry = table.config(kernel, itemsize, channels)
        if entry is not None:
            if entry.value.launch_pdl and not has_launch_pdl(arch):
                entry = entry._replace(value=entry.value._replace(launch_pdl=False))
            return entry, origin
    raise KeyError(f"kernel: no table has {kernel!r} for elements of {itemsize} bytes on {arch}")


@functools.cache
def find_schedule(
    arch: str, itemsize: int, in_channels: int, channels: int, kernel: tuple[int, ...]
) -> tuple[Entry, str]:
    """The row that `pick_schedule` takes, and the file it is in."""
    key = ScheduleKey(itemsize, in_channels, channels, kernel)
    for origin, table in tables(arch, True):
        if key in table.schedules:
            return table.schedules[key], origin
    return Entry("concat", "nowhere: no table has this layer"), "built in"


@functools.cache
def tables(arch: str, user: bool) -> list[tuple[str, Table]]:
    """The tables in the order in which they are searched, each with its name."""
    found = [(str(cache.path_of(arch)), cache.read(arch))] if user else []
    found += [(f"kernels/tuned/{name}.json", _shipped(name)) for name in (arch, "default")]
    return [(origin, table) for origin, table in found if table is not None]


def forget() -> None:
    """Forget the tables, so that the next call reads them again."""
    for function in (find_config, find_schedule, tables):
        function.cache_clear()


def _shipped(name: str) -> Table | None:
    file = resources.files("tritonlstm.kernels") / "tuned" / f"{name}.json"
    return parse(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
