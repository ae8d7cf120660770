"""A progress bar on the error stream: tqdm's where it is installed, else one plain line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[], object]]:
    """Gives the function that counts one more of `total`. Where no terminal is there to see it, nothing is shown."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from _plain(total, label)
        return
    with tqdm(total=total, desc=label, disable=None, leave=False) as bar:
        yield bar.update


def _plain(total: int, label: str) -> Iterator[Callable[[], object]]:
    watched = sys.stderr.isatty()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if watched:
            print(f"\r{label}: {count}/{total}", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        if watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
