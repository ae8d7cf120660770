"""What the kernels compile to, for GPUs that need not be there: no spills, wide accesses, and the committed figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

ROOT = Path(__file__).parents[2]

_MEASURE = """
import json, sys
from bench.codegen import points, table
chosen = list(points.points((sys.argv[1],)))
rows = table.measure(chosen)
violations = [line for point in chosen for line in table.violations(point, rows[point.key])]
print(json.dumps({"rows": rows, "violations": violations}))
"""


@pytest.fixture(scope="module", params=["sm_80", "sm_90", "sm_100", "gfx942"])
def measured(request: pytest.FixtureRequest) -> dict:
    """The figures for one architecture, from a process in which Triton compiles rather than interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, request.param],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) | {"arch": request.param}


def test_nothing_spills_and_accesses_are_as_wide_as_the_channels_allow(measured: dict):
    assert not measured["violations"]


def test_figures_are_those_of_the_committed_table(measured: dict):
    from bench.codegen import table

    committed = table.load()
    if committed["triton"] != triton.__version__:
        pytest.skip(f"the table is Triton {committed['triton']}'s, this is {triton.__version__}")
    rows = {key: row for key, row in committed["kernels"].items() if key.endswith(f"/{measured['arch']}")}
    assert not table.differences(measured["rows"], rows)


def test_every_rule_can_be_broken():
    from bench.codegen import points, table

    point = points.Point("gates_forward", "bf16", 64, "channel", "sm_90")
    good = {"registers": 64, "spills": 0, "shared": 0, "accesses": {"16": 9}, "instructions": 100}
    assert table.violations(point, good) == []
    for change in ({"registers": 129}, {"spills": 8}, {"accesses": {"8": 1, "16": 8}}):
        assert len(table.violations(point, good | change)) == 1
    assert table.differences({point.key: good}, {point.key: good}) == []
    assert table.differences({point.key: good | {"shared": 16}}, {point.key: good})
    assert table.differences({}, {point.key: good})
    assert table.differences({point.key: good}, {})
