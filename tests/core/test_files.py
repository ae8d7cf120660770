"""Files: what is no small regular file neither hangs a reader nor is replaced, and what is written is written whole."""

import os
import socket
from pathlib import Path

import pytest

from tritonlstm.core import files


def make(kind: str, path: Path) -> Path:
    """Put something at `path` that is no small regular file."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "a folder":
        path.mkdir()
    elif kind == "too large":
        with open(path, "wb") as file:
            file.truncate(files.LIMIT + 1)
    else:
        path.symlink_to(kind)
    return path


SPECIAL = ("a FIFO", "a socket", "a folder", "/dev/null", "/dev/zero", "/dev/full")


@pytest.mark.parametrize("kind", [*SPECIAL, "too large"])
def test_what_is_no_small_regular_file_is_not_read(kind: str, tmp_path: Path):
    path = make(kind, tmp_path / "file")
    with pytest.raises((OSError, ValueError), match=str(path)):
        files.read_text(path)


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path):
    path = make(kind, tmp_path / "file")
    before = path.lstat().st_mode, path.stat().st_mode
    for write in (files.check_target, lambda path: files.write(path, "text")):
        with pytest.raises(ValueError, match="expected a regular file, got a"):
            write(path)
    assert (path.lstat().st_mode, path.stat().st_mode) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_file_has_the_mode_of_the_umask(umask: int, mode: int, tmp_path: Path):
    former = os.umask(umask)
    try:
        with files.lock(tmp_path / "file"):
            files.write(tmp_path / "file", "text")
    finally:
        os.umask(former)
    assert {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {"file": mode, ".file.lock": mode}


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    files.write(link, "σ")
    assert link.is_symlink()
    assert files.read_text(target) == "σ"


@pytest.mark.parametrize("kind", ["a FIFO", "/dev/null", "a link"])
def test_a_lock_follows_no_link_and_truncates_nothing(kind: str, tmp_path: Path):
    victim, lock = tmp_path / "victim", tmp_path / ".file.lock"
    victim.write_text("precious")
    make(str(victim) if kind == "a link" else kind, lock)
    with pytest.raises((OSError, ValueError), match=str(lock)), files.lock(tmp_path / "file"):
        pytest.fail("held a lock that is no file of ours")
    assert victim.read_text() == "precious"


def test_a_lock_keeps_what_its_file_held(tmp_path: Path):
    (tmp_path / ".file.lock").write_text("not ours")
    with files.lock(tmp_path / "file"):
        pass
    assert (tmp_path / ".file.lock").read_text() == "not ours"
