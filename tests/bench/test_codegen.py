"""What the kernels compile to, for GPUs that need not be there: no spills, wide accesses, and the committed figures."""

import pytest
import triton

from bench.codegen import table


def committed(arch: str) -> dict:
    """The rows of the committed table, which are figures of one Triton version alone."""
    content = table.load()
    if content["triton"] != triton.__version__:
        pytest.skip(f"the table is Triton {content['triton']}'s, this is {triton.__version__}")
    return {key: row for key, row in content["kernels"].items() if key.endswith(f"/{arch}")}


# A test for each architecture and not for each claim: two processes that run tests would both compile the kernels.
@pytest.mark.parametrize("arch", table.ARCHITECTURES)
def test_nothing_spills_accesses_are_as_wide_as_the_channels_allow_and_the_table_is_up_to_date(
    arch: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TRITON_INTERPRET")  # for the process that compiles, which imports the kernels anew
    points = list(table.points((arch,)))
    rows = table.measure(points, processes=1)
    assert not [line for point in points for line in table.violations(point, rows[point.key])]
    expected = committed(arch)
    assert not table.regressions(rows, expected)
    assert not table.differences(rows, expected)


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
