"""The warps that a multiprocessor holds, against the makers' published tables."""

import pytest

from tritonlstm.tuning.occupancy import LIMITS, limits, resident_blocks, resident_warps


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(
    ("registers", "warps"), [(16, 64), (32, 64), (33, 48), (40, 48), (64, 32), (72, 28), (80, 24), (128, 16), (255, 8)]
)
def test_registers_on_nvidia(arch: str, registers: int, warps: int):
    assert resident_warps(arch, registers, 0, num_warps=4) == warps


@pytest.mark.parametrize(
    ("registers", "waves"), [(64, 8), (65, 7), (72, 7), (84, 5), (96, 5), (128, 4), (192, 2), (512, 1)]
)
def test_registers_on_amd(registers: int, waves: int):
    assert resident_warps("gfx942", registers, 0, num_warps=4) == 4 * waves


def test_a_block_goes_in_whole_or_not_at_all():
    assert resident_warps("sm_90", 80, 0, num_warps=4) == 24
    assert resident_warps("sm_90", 80, 0, num_warps=16) == 16
    assert resident_blocks("gfx942", 512, 0, num_warps=8) == 0


def test_there_are_at_most_32_blocks():
    assert resident_warps("sm_90", 16, 0, num_warps=1) == 32


@pytest.mark.parametrize(
    ("arch", "shared", "blocks"),
    [
        ("sm_80", 40 * 1024, 4),  # 164 KB, one more for each block
        ("sm_80", 40 * 1024 + 1, 3),
        ("sm_90", 56 * 1024, 4),  # 228 KB
        ("sm_90", 227 * 1024, 1),
        ("gfx942", 16 * 1024, 4),
        ("gfx942", 16 * 1024 + 1, 3),
        ("gfx942", 65 * 1024, 0),
    ],
)
def test_shared_memory(arch: str, shared: int, blocks: int):
    assert resident_blocks(arch, 16, shared, num_warps=2) == blocks


def test_an_architecture_that_is_not_listed_has_the_limits_of_the_oldest():
    assert limits("sm_123") == LIMITS["sm_80"]
    assert limits("gfx1201") == LIMITS["gfx942"]
