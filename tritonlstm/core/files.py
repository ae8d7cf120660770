"""Small files, read and written so that nothing hangs, nothing is half written, and no device is replaced."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LIMIT = 4 * 2**20
"""Bytes of the largest file that is read: a table of 20,000 rows."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def read_text(path: Path) -> str:
    """The text of a regular file of at most LIMIT bytes, in UTF-8. Raises OSError, or ValueError for any other file."""
    with open_regular(path) as file:
        data = file.read(LIMIT + 1) or b""  # in /proc, a file may be larger than it says, or have nothing to read yet
    if len(data) > LIMIT:
        raise ValueError(f"{path}: expected at most {LIMIT} bytes, got more")
    return data.decode("utf-8")


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises OSError, or ValueError for what is no regular file."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        _check_regular(os.fstat(file.fileno()), path)
        yield file


def write(path: Path, content: str | bytes) -> None:
    """Write a regular file, whole or not at all, in UTF-8 and with the mode that the umask gives.

    A symbolic link stays; the file it points to is replaced. Raises OSError where it cannot be written, and ValueError
    where it is no regular file, with the file as it was.
    """
    path = Path(os.path.realpath(path))
    check_target(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_target(path: Path) -> None:
    """Raise ValueError where `path` is a device, a folder or anything else that is no regular file."""
    with suppress(FileNotFoundError):
        _check_regular(os.stat(path), path)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait for other processes that hold the lock of `path`, then hold it: an empty file beside it, which stays."""
    import fcntl  # Unix alone has it

    beside = path.with_name(f".{path.name}.lock")
    descriptor = _open_without_waiting(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _check_regular(os.fstat(descriptor), beside)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_without_waiting(path: str | Path, flags: int, mode: int = 0o777) -> int:
    """`os.open`, which sets O_CLOEXEC, with O_NONBLOCK: opening a FIFO waits for its other end without it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)  # not on Windows


def _check_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise ValueError(f"{path}: expected a regular file, got {kind}")
