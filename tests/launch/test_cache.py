"""The user's own tables: whatever is in a file, no layer breaks."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tritonlstm import ConvLSTM2d
from tritonlstm.core import files
from tritonlstm.launch import Config, TuningCacheWarning, cache, config, pick_config

DEFAULT, OWN = Config(512, 4), Config(256, 2)
ROW = {"kernel": "gates_forward", "itemsize": 4, "channels": 3, "BLOCK": 256, "num_warps": 2}
SCHEDULE = {"itemsize": 4, "in_channels": 1, "channels": 3, "kernel": [3, 3], "schedule": "hoisted"}
HEADER = {"schema": 1, "triton": cache.triton_version(), "arch": "cpu", "device": "a device"}
"""Interpreted kernels ask for the architecture "cpu": so their layers meet this very file."""

GOOD = HEADER | {"configs": [ROW], "schedules": []}


def write(content: object) -> Path:
    path = cache.path_of("cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def run_a_layer() -> None:
    layer = ConvLSTM2d(1, 3, 3, backend="triton")
    output, _ = layer(torch.randn(2, 1, 1, 4, 5))
    output.sum().backward()
    assert output.isfinite().all()


def test_location(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITONLSTM_CACHE_DIR", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.path_of("sm_90") == Path("/own/sm_90.json")
    monkeypatch.delenv("TRITONLSTM_CACHE_DIR")
    assert cache.path_of("sm_90") == Path("/shared/tritonlstm/sm_90.json")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.path_of("sm_90") == Path("/home/someone/.cache/tritonlstm/sm_90.json")
    monkeypatch.setenv("TRITONLSTM_CACHE_DIR", "~/own")  # as a file of settings has it, which no shell expands
    assert cache.path_of("sm_90") == Path("/home/someone/own/sm_90.json")


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_there_is_no_cache(home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("TRITONLSTM_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    assert cache.path_of("sm_90") is None
    assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT
    run_a_layer()
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_there_is_no_warning():
    assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT


def change(**changes: object) -> dict:
    return GOOD | changes


def change_row(**changes: object) -> dict:
    return GOOD | {"configs": [ROW | changes]}


def change_schedule(**changes: object) -> dict:
    return GOOD | {"schedules": [SCHEDULE | changes]}


UNUSABLE = {
    "empty": ("", "corrupt"),
    "no JSON": ("BLOCK = 256", "corrupt"),
    "truncated": (json.dumps(GOOD)[:-9], "corrupt"),
    "nested": ("[" * 100_000, "corrupt"),
    "a list": ([GOOD], "table: expected an object"),
    "foreign": ({"gates_forward": {"2": {"BLOCK": 256, "num_warps": 2}}}, "no 'configs'"),
    "a header nested deeply": (json.dumps(GOOD)[:-1] + f', "triton": {"[" * 900}{"]" * 900}}}', ""),
    "a header of a megabyte": (change(triton="x" * 2**20), "its triton is 'xxx"),
    "another Triton": (change(triton="3.0.0"), "its triton is '3.0.0', here it is"),
    "another schema": (change(schema=2), "its schema is 2, here it is 1"),
    "no schema": ({key: value for key, value in GOOD.items() if key != "schema"}, "its schema is None"),
    "another architecture": (change(arch="sm_90"), "its arch is 'sm_90'"),
    "unknown key": (change(author="me"), "unknown key 'author'"),
    "configs no list": (change(configs={}), "configs: expected a list"),
    "row no object": (change(configs=[3]), "row of configs: expected an object"),
    "unknown key in a row": (change_row(num_stages=3), "unknown key 'num_stages'"),
    "missing key in a row": (change(configs=[{"kernel": "gates_forward"}]), "no 'BLOCK'"),
    "unknown kernel": (change_row(kernel="gates_sideways"), "kernel: expected one of"),
    "kernel no text": (change_row(kernel=["gates_forward"]), "kernel: expected one of"),
    "itemsize": (change_row(itemsize=8), "itemsize: expected 2 or 4, got 8"),
    "channels zero": (change_row(channels=0), "channels: expected a positive integer or null, got 0"),
    "channels text": (change_row(channels="64"), "channels: expected"),
    "BLOCK zero": (change_row(BLOCK=0), "BLOCK: expected a power of two"),
    "BLOCK negative": (change_row(BLOCK=-256), "BLOCK: expected a power of two"),
    "BLOCK no power of two": (change_row(BLOCK=768), "BLOCK: expected a power of two"),
    "BLOCK huge": (change_row(BLOCK=2**20), "BLOCK: expected a power of two"),
    "BLOCK a float": (change_row(BLOCK=256.0), "BLOCK: expected a power of two"),
    "num_warps true": (change_row(num_warps=True), "num_warps: expected a power of two"),
    "num_warps absurd": (change_row(num_warps=64), "num_warps: expected a power of two"),
    "launch_pdl a number": (change_row(launch_pdl=1), "launch_pdl: expected true or false, got 1"),
    "num_warps three": (change_row(num_warps=3), "num_warps: expected a power of two"),
    "measured a number": (change_row(measured=3), "measured: expected text"),
    "unknown schedule": (change_schedule(schedule="sideways"), "schedule: expected one of"),
    "even kernel": (change_schedule(kernel=[2, 3]), "kernel: expected a list"),
    "kernel no list": (change_schedule(kernel=3), "kernel: expected a list"),
    "no input": (change_schedule(in_channels=0), "in_channels: expected a positive integer"),
}


def test_the_good_file_is_good():
    write(GOOD | {"configs": [ROW | {"launch_pdl": True}], "schedules": [SCHEDULE], "measured": "here"})
    assert pick_config("gates_forward", "cpu", 4, 3) == OWN
    assert config.pick_schedule("cpu", 4, 1, 3, (3, 3)) == "hoisted"
    run_a_layer()


@pytest.mark.parametrize("content, reason", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_file_warns_once_and_the_defaults_stand(content: object, reason: str):
    path = write(content)
    with pytest.warns(TuningCacheWarning) as caught:
        assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT
    (warning,) = caught
    assert str(path) in str(warning.message)
    assert reason in str(warning.message)
    assert len(str(warning.message)) < 1000
    assert pick_config("gates_backward", "cpu", 2, 64) == Config(1024, 4)
    assert config.pick_schedule("cpu", 4, 1, 3, (3, 3)) == "concat"
    run_a_layer()


def test_bytes_that_are_no_text_warn():
    write("").write_bytes(b"\xff\xfe\x00")
    with pytest.warns(TuningCacheWarning, match="corrupt"):
        assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT


SPECIAL = {
    "FIFO": (os.mkfifo, "got a FIFO"),
    "/dev/zero": (lambda path: path.symlink_to("/dev/zero"), "got a character device"),
    "/dev/full": (lambda path: path.symlink_to("/dev/full"), "got a character device"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "too large": (lambda path: path.write_text(json.dumps(GOOD) + " " * files.LIMIT), "expected at most"),
}


@pytest.mark.parametrize(("make", "reason"), SPECIAL.values(), ids=SPECIAL.keys())
def test_what_is_no_small_regular_file_warns_once_and_hangs_nothing(make: Callable, reason: str):
    path = write("")
    path.unlink()
    make(path)
    with pytest.warns(TuningCacheWarning, match=reason) as caught:
        run_a_layer()
    # Any other than Triton 3.6's interpreter's raises again behind the block.
    (warning,) = (each for each in caught if each.category is TuningCacheWarning)
    assert str(path) in str(warning.message)
    assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT


def test_a_folder_in_the_files_place_warns():
    cache.path_of("cpu").mkdir(parents=True)
    with pytest.warns(TuningCacheWarning, match="IsADirectoryError"):
        assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT


def test_a_file_that_may_not_be_read_warns(monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> dict:
        raise PermissionError(13, "Permission denied", str(path))

    write(GOOD)
    monkeypatch.setattr(cache, "load", refuse)
    with pytest.warns(TuningCacheWarning, match="PermissionError"):
        assert pick_config("gates_forward", "cpu", 4, 3) == DEFAULT
