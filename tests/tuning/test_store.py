"""Writing tables: what is written is read, no other process loses a row, and a failure leaves the file as it was."""

import json
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from tritonlstm import kernels
from tritonlstm.launch import Config, cache, pick_config
from tritonlstm.launch.tables import HEADER as HEADER_KEYS
from tritonlstm.launch.tables import ConfigKey, Entry, ScheduleKey, Table, parse
from tritonlstm.tuning.store import Header, update

HEADER = Header(cache.triton_version(), "cpu", "a device")
OWN = Config(256, 2)


def rows(*channels: int) -> Table:
    return Table({ConfigKey("gates_forward", 4, each): Entry(OWN, f"for {each}") for each in channels})


def files(folder: Path) -> list[str]:
    """The names of the files in a folder, without the lock's."""
    return sorted(each.name for each in folder.iterdir() if each.suffix != ".lock")


def test_what_is_written_is_read():
    schedules = {
        ScheduleKey(2, 1, 64, (3, 5)): Entry("hoisted", "σ × here"),
        ScheduleKey(4, 1, 2, ()): Entry("concat", ""),
    }
    early = {ConfigKey("gates_backward", 2, 8): Entry(Config(512, 4, launch_pdl=True), "")}
    table = Table(rows(3, None).configs | early, schedules)
    assert update(cache.path_of("cpu"), HEADER, table) == ""
    assert cache.examine(cache.path_of("cpu"), "cpu") == (table, "")
    assert json.loads(cache.path_of("cpu").read_text())["device"] == "a device"
    assert pick_config("gates_forward", "cpu", 4, 3) == OWN


def test_newer_rows_replace_older_ones_and_leave_the_others():
    path = cache.path_of("cpu")
    update(path, HEADER, rows(1, 2))
    newer = Table({ConfigKey("gates_forward", 4, 2): Entry(Config(128, 1), "newer")})
    assert update(path, HEADER, newer) == ""
    table, _ = cache.examine(path, "cpu")
    assert table == Table(rows(1, 2).configs | newer.configs)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Header("3.0.0", "cpu", "a device"), "triton '3.0.0'"),
        (Header(HEADER.triton, "cpu", "another device"), "device 'another device'"),
        (Header(HEADER.triton, "cpu", "a device", schema=0), "schema 0"),
    ],
)
def test_rows_for_something_else_are_replaced_and_that_is_said(other: Header, words: str):
    path = cache.path_of("cpu")
    update(path, other, rows(1))
    assert update(path, HEADER, rows(2)) == f"its former rows were for {words}"
    assert cache.examine(path, "cpu") == (rows(2), "")


@pytest.mark.parametrize("content", ["", "{", "root:x:0:0", "[]", '{"configs": []}', "[" * 100_000])
def test_what_is_no_table_is_never_overwritten(content: str):
    path = cache.path_of("cpu")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: expected a table of ours or no file, got something else"):
        update(path, HEADER, rows(2))
    assert path.read_text() == content
    assert files(path.parent) == ["cpu.json"]


def test_a_link_to_a_table_stays_a_link(tmp_path: Path):
    path, link = tmp_path / "table.json", tmp_path / "link.json"
    update(path, HEADER, rows(1))
    link.symlink_to(path)
    update(link, HEADER, rows(2))
    assert link.is_symlink()
    assert cache.examine(path, "cpu") == (rows(1, 2), "")


def test_any_text_that_json_may_hold_is_kept():
    """A lone surrogate has no UTF-8: it is escaped, as JSON allows."""
    path, table = cache.path_of("cpu"), Table({ConfigKey("gates_forward", 4, 1): Entry(OWN, "\ud800 σ\x1b")})
    update(path, HEADER, table)
    update(path, HEADER, Table())
    assert cache.examine(path, "cpu") == (table, "")


def test_a_table_for_any_device_keeps_its_rows_and_gets_no_header(tmp_path: Path):
    path = tmp_path / "gfx942.json"
    shipped = Path(kernels.__file__).with_name("tuned") / "gfx942.json"
    path.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    before = parse(json.loads(shipped.read_text(encoding="utf-8")))
    for header in (HEADER, Header("3.0.0", "gfx942", "another device")):
        assert update(path, header, rows(64), "here") == ""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert parse(content) == Table(before.configs | rows(64).configs, before.schedules)
    assert before.configs and not content.keys() & HEADER_KEYS


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_file_and_no_other(failing: str, monkeypatch: pytest.MonkeyPatch):
    path = cache.path_of("cpu")
    update(path, HEADER, rows(1))
    before = path.read_text()

    def refuse(*arguments: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(PermissionError):
        update(path, HEADER, rows(2))
    monkeypatch.undo()
    assert path.read_text() == before
    assert files(path.parent) == ["cpu.json"]


def _write_rows(folder: str, start: multiprocessing.Barrier, first: int) -> None:
    path = Path(folder) / "cpu.json"
    start.wait()
    for channels in range(first, first + 10):
        update(path, HEADER, rows(channels))


def test_processes_that_write_at_once_lose_nothing(cache_folder: Path):
    # Forked: spawned ones would import torch, one after another, and never meet.
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    writers = [context.Process(target=_write_rows, args=(str(cache_folder), start, 1 + 10 * i)) for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which these do not use
        for writer in writers:
            writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    table, problem = cache.examine(cache_folder / "cpu.json", "cpu")
    assert problem == ""
    assert {key.channels for key in table.configs} == set(range(1, 41))
    assert files(cache_folder) == ["cpu.json"]
