"""What the kernels compile to, for GPUs that need not be there: no spills, wide accesses, and the committed figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from bench.codegen import table

pytestmark = pytest.mark.serial  # its fixture compiles everything, in processes of its own

ROOT = Path(__file__).parents[2]

_MEASURE = """
import json
from bench.codegen import table
chosen = list(table.points())
rows = table.measure(chosen)
violations = [line for point in chosen for line in table.violations(point, rows[point.key])]
print(json.dumps({"rows": rows, "violations": violations}))
"""


@pytest.fixture(scope="module")
def measured() -> dict:
    """The figures of all points, from a process in which Triton compiles rather than interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def committed() -> dict:
    """The rows of the committed table, which are figures of one Triton version alone."""
    content = table.load()
    if content["triton"] != triton.__version__:
        pytest.skip(f"the table is Triton {content['triton']}'s, this is {triton.__version__}")
    return content["kernels"]


def of(arch: str, rows: dict) -> dict:
    return {key: row for key, row in rows.items() if key.endswith(f"/{arch}")}


@pytest.mark.parametrize("arch", table.ARCHITECTURES)
def test_nothing_spills_and_accesses_are_as_wide_as_the_channels_allow(measured: dict, arch: str):
    assert not [line for line in measured["violations"] if f"/{arch}:" in line]


@pytest.mark.parametrize("arch", table.ARCHITECTURES)
def test_nothing_is_worse_than_the_committed_table(measured: dict, committed: dict, arch: str):
    assert not table.regressions(of(arch, measured["rows"]), of(arch, committed))


@pytest.mark.parametrize("arch", table.ARCHITECTURES)
def test_the_committed_table_is_not_stale(measured: dict, committed: dict, arch: str):
    assert not table.differences(of(arch, measured["rows"]), of(arch, committed))


POINT = table.Point("gates_forward", "bf16", 64, "channel", "sm_90")
GOOD = {"registers": 64, "spills": 0, "shared": 0, "accesses": {"16": 9}, "instructions": 100, "warps": 32}


@pytest.mark.parametrize("change", [{"registers": 129}, {"spills": 8}, {"accesses": {"8": 1, "16": 8}}])
def test_every_rule_can_be_broken(change: dict):
    assert table.violations(POINT, GOOD) == []
    (line,) = table.violations(POINT, GOOD | change)
    assert line.startswith(POINT.key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"registers": 65}, "registers 64 → 65"),
        ({"spills": 1}, "spills 0 → 1"),
        ({"accesses": {"8": 2, "16": 8}}, "accesses of 16.00 → 14.40 bytes"),
        ({"warps": 28}, "occupancy 32/64 → 28/64 warps"),
    ],
)
def test_what_is_worse_is_named_by_its_row(change: dict, words: str):
    worse, better = {POINT.key: GOOD | change}, {POINT.key: GOOD}
    (line,) = table.regressions(worse, better)
    assert line.startswith(f"{POINT.key}: {words}")
    assert table.differences(worse, better)
    assert table.regressions(better, worse) == []
    assert table.differences(better, worse), "a table that is too good is stale as well"


def test_any_other_change_makes_the_table_stale():
    rows = {POINT.key: GOOD}
    assert table.differences(rows, rows) == []
    assert table.differences({POINT.key: GOOD | {"shared": 16}}, rows) == [f"{POINT.key}: shared 0 → 16"]
    assert table.differences({}, rows) == [f"{POINT.key}: only in the table"]
    assert table.differences(rows, {}) == [f"{POINT.key}: not in the table"]
    assert table.regressions({}, rows) == table.regressions(rows, {}) == []


def test_the_table_has_every_dtype_at_every_channel_class_on_every_architecture():
    wanted = {
        f"{kernel}/{dtype}/C{channels}/channel/{arch}"
        for kernel in ("gates_forward", "gates_backward", "parameter_grads")
        for dtype in ("bf16", "fp16", "fp32")
        for channels in (1, 3, 17, 64, 96, 130)
        for arch in ("sm_80", "sm_90", "sm_100", "gfx942")
    }
    assert wanted <= {point.key for point in table.points()}


def test_the_printed_table_has_a_line_for_each_row():
    lines = table.text({POINT.key: GOOD}).splitlines()
    assert lines[0].startswith("sm_90")
    assert lines[1].split()[:5] == ["gates_forward/bf16/C64/channel", "64", "0", "0", "32/64"]
