"""A process in which Triton compiles: this one interprets the kernels, as is decided at the import."""

import atexit
import functools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def compiling(function: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns there, or raises; both travel between processes."""
    return _process().submit(function, *arguments).result()


@functools.cache
def _process() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    atexit.register(pool.shutdown)
    interpret = os.environ.pop("TRITON_INTERPRET", None)
    try:
        pool.submit(os.getpid).result()  # so that it is started without
    finally:
        if interpret is not None:
            os.environ["TRITON_INTERPRET"] = interpret
    return pool
