"""What the kernels compile to, for GPUs that need not be there: no spills, wide accesses, and the committed figures."""

import pytest
import triton

from bench import codegen
from tests.support.covering import pairwise
from tritonlstm.launch.tables import KERNELS
from tritonlstm.tuning.launches import DTYPES, VARIANTS, Launch


def committed() -> dict:
    """The rows of the committed table, which are figures of one Triton version alone."""
    content = codegen.load()
    if content["triton"] != triton.__version__:
        pytest.skip(f"the table is Triton {content['triton']}'s, this is {triton.__version__}")
    return content["kernels"]


CHANNEL_ROWS = pairwise(
    {"kernel": KERNELS, "dtype": DTYPES, "channels": codegen.CHANNELS, "arch": codegen.ARCHITECTURES}
)
"""Every two of a kernel, a dtype, a number of channels and an architecture; `make codegen` has all combinations."""

VARIANT_ROWS = pairwise(
    {
        "variant": [(kernel, name) for kernel in KERNELS for name in VARIANTS[kernel] if name != "channel"],
        "arch": codegen.ARCHITECTURES,
        "dtype": ("bf16", "fp32"),
    }
)
"""On each architecture every other variant, in one dtype or the other."""


def covering() -> list[codegen.Point]:
    """Those rows, and all that limit the instructions for an element on sm_90."""
    points = [codegen.Point(Launch(row["kernel"], row["dtype"], row["channels"]), row["arch"]) for row in CHANNEL_ROWS]
    limited = [(kernel, dtype) for kernel, most in codegen.PER_ELEMENT.items() for dtype in most]
    points += [codegen.Point(Launch(kernel, dtype, 64), "sm_90") for kernel, dtype in limited]
    for row in VARIANT_ROWS:
        kernel, name = row["variant"]
        points.append(codegen.Point(Launch(kernel, row["dtype"], 64, name), row["arch"]))
    return list(dict.fromkeys(points))


# One test: each would start a process that compiles, for seconds.
def test_nothing_spills_accesses_are_as_wide_as_the_channels_allow_and_the_table_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("TRITON_INTERPRET")  # for the process that compiles, which imports the kernels anew
    points, table = covering(), committed()
    rows = codegen.measure(points, processes=1)
    assert not [line for point in points for line in codegen.violations(point, rows[point.key])]
    assert not codegen.differences(rows, {point.key: table[point.key] for point in points})


def test_the_table_has_the_rows_that_the_command_compiles():
    assert codegen.load()["kernels"].keys() == {point.key for point in codegen.points()}


POINT = codegen.Point(Launch("gates_forward", "bf16", 64), "sm_90")
GOOD = {"registers": 64, "spills": 0, "shared": 0, "accesses": {"16": 9}, "instructions": 100, "warps": 32}
GOOD |= {"per_element": 12.5}


@pytest.mark.parametrize(
    "change", [{"registers": 129}, {"spills": 8}, {"accesses": {"8": 1, "16": 8}}, {"per_element": 99.0}]
)
def test_every_rule_can_be_broken(change: dict):
    assert codegen.violations(POINT, GOOD) == []
    (line,) = codegen.violations(POINT, GOOD | change)
    assert line.startswith(POINT.key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"registers": 65}, "registers 64 → 65"),
        ({"registers": 63}, "registers 64 → 63"),
        ({"spills": 1}, "spills 0 → 1"),
        ({"shared": 16}, "shared 0 → 16"),
        ({"accesses": {"8": 2, "16": 8}}, "accesses {'16': 9} → {'8': 2, '16': 8}"),
        ({"warps": 28}, "warps 32 → 28"),
        ({"per_element": 12.0}, "per_element 12.5 → 12.0"),
    ],
)
def test_every_change_makes_the_table_stale_and_is_named_by_its_row(change: dict, words: str):
    rows = {POINT.key: GOOD}
    assert codegen.differences(rows, rows) == []
    assert codegen.differences({POINT.key: GOOD | change}, rows) == [f"{POINT.key}: {words}"]


def test_missing_and_additional_rows_make_the_table_stale():
    rows = {POINT.key: GOOD}
    assert codegen.differences({}, rows) == [f"{POINT.key}: only in the table"]
    assert codegen.differences(rows, {}) == [f"{POINT.key}: not in the table"]


def test_the_table_has_every_dtype_at_every_channel_class_on_every_architecture():
    wanted = {
        f"{kernel}/{dtype}/C{channels}/channel/{arch}"
        for kernel in ("gates_forward", "gates_backward", "parameter_grads")
        for dtype in ("bf16", "fp16", "fp32")
        for channels in (1, 3, 17, 64, 96, 130)
        for arch in ("sm_80", "sm_90", "sm_100", "gfx942")
    }
    assert wanted <= {point.key for point in codegen.points()}


def test_the_printed_table_has_a_line_for_each_row():
    _, line = codegen.text({POINT.key: GOOD}).splitlines()
    assert line.split() == [POINT.key, "64", "0", "0", "9", "×", "16", "B", "100", "32/64", "12.5"]
