"""Which configuration and which schedule a layer gets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.layers import in_threads
from tritonlstm.launch import Config, cache, config, pick_config, pick_schedule
from tritonlstm.launch.tables import KERNELS, ConfigKey, Entry, ScheduleKey, Table
from tritonlstm.tuning.store import Header, update

HEADER = Header(cache.triton_version(), "sm_90", "a device")


def keep(configs: dict, schedules: dict | None = None) -> None:
    table = Table(
        {ConfigKey(*key): Entry(value, "here") for key, value in configs.items()},
        {ScheduleKey(*key): Entry(value, "here") for key, value in (schedules or {}).items()},
    )
    update(cache.path_of("sm_90"), HEADER, table)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_123", "gfx942", "gfx1201", "cpu", "meta"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_kernel_has_a_configuration_everywhere(arch: str, kernel: str, itemsize: int):
    picked = {pick_config(kernel, arch, itemsize, channels) for channels in (1, 33, 64, 4096)}
    assert all(isinstance(each, Config) and each.block > 0 and each.num_warps > 0 for each in picked)


def test_an_unknown_kernel_is_named():
    with pytest.raises(KeyError, match="kernel: no table has 'gates_sideways'"):
        pick_config("gates_sideways", "sm_90", 2, 64)


def test_an_architectures_own_table_goes_before_the_default():
    assert pick_config("gates_forward", "gfx942", 2, 64) == Config(2048, 4)
    assert pick_config("gates_forward", "sm_90", 2, 64) == Config(1024, 4)


def test_the_users_cache_goes_first_and_exact_channels_before_any():
    keep({("gates_forward", 2, None): Config(256, 1), ("gates_forward", 2, 64): Config(512, 2)})
    assert pick_config("gates_forward", "sm_90", 2, 64) == Config(512, 2)
    assert pick_config("gates_forward", "sm_90", 2, 65) == Config(256, 1)
    assert pick_config("gates_forward", "sm_90", 4, 64) == Config(512, 4), "another dtype's size"
    assert pick_config("gates_backward", "sm_90", 2, 64) == Config(1024, 4), "another kernel"
    assert pick_config("gates_forward", "sm_80", 2, 64) == Config(1024, 4), "another architecture"
    _, origin = config.find_config("gates_forward", "sm_90", 2, 64)
    assert origin == str(cache.path_of("sm_90"))
    shipped, origin = config.find_config("gates_forward", "sm_90", 2, 64, user=False)
    assert (shipped.value, origin) == (Config(1024, 4), "kernels/tuned/default.json")


@pytest.mark.parametrize(("arch", "has"), [("sm_90", True), ("sm_100", True), ("sm_80", False), ("gfx942", False)])
def test_programmatic_dependent_launch_is_used_where_there_is_such(arch: str, has: bool):
    row = Entry(Config(256, 1, launch_pdl=True), "")
    update(cache.path_of(arch), replace(HEADER, arch=arch), Table({ConfigKey("gates_forward", 2, 64): row}))
    assert pick_config("gates_forward", arch, 2, 64) == Config(256, 1, launch_pdl=has)
    assert str(row.value) == "256/1/pdl"
    assert not any(config.has_launch_pdl(other) for other in ("cpu", "meta", "sm_next"))


def test_concatenation_is_the_schedule_unless_a_row_says_otherwise():
    keep({}, {(2, 1, 64, (5, 5)): "hoisted"})
    assert pick_schedule("sm_90", 2, 1, 64, (5, 5)) == "hoisted"
    for other in ((4, 1, 64, (5, 5)), (2, 2, 64, (5, 5)), (2, 1, 32, (5, 5)), (2, 1, 64, (3, 3)), (2, 0, 64, ())):
        assert pick_schedule("sm_90", *other) == "concat"
    assert pick_schedule("cpu", 8, 1, 64, (5, 5)) == "concat"


def test_nothing_is_read_again_and_a_cache_that_appears_changes_nothing_in_a_running_process(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = pick_config("gates_forward", "sm_90", 2, 64), pick_schedule("sm_90", 2, 1, 64, (3, 3))
    keep({("gates_forward", 2, 64): Config(256, 1)}, {(2, 1, 64, (3, 3)): "hoisted"})
    monkeypatch.setattr(cache, "read", lambda arch: pytest.fail("the cache was read again"))
    assert (pick_config("gates_forward", "sm_90", 2, 64), pick_schedule("sm_90", 2, 1, 64, (3, 3))) == first
    assert pick_config("gates_backward", "sm_90", 4, 7) == Config(512, 4)


def test_a_configuration_in_use_goes_before_all_and_is_gone_afterwards():
    before = pick_config("gates_forward", "sm_90", 2, 64)
    with config.use({"gates_forward": Config(128, 1)}):
        assert pick_config("gates_forward", "sm_90", 2, 64) == Config(128, 1)
        assert pick_config("gates_backward", "sm_90", 2, 64) == Config(1024, 4)
        with pytest.raises(ZeroDivisionError), config.use({"gates_forward": Config(256, 1)}):
            raise ZeroDivisionError
        assert pick_config("gates_forward", "sm_90", 2, 64) == Config(128, 1)
    assert pick_config("gates_forward", "sm_90", 2, 64) == before


def test_threads_get_the_same():
    found = []
    in_threads(4, lambda: found.append(pick_config("gates_forward", "sm_90", 2, 64)))
    assert set(found) == {Config(1024, 4)}


def test_the_packages_tables_say_where_they_were_measured():
    folder = Path(__file__).parents[2] / "kernels/tuned"
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        assert content["measured"] or all(row.get("measured") for row in content["configs"] + content["schedules"])
