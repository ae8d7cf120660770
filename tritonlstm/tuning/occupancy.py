"""How many warps of a kernel a multiprocessor can hold at once.

Theoretical: what registers, shared memory and the size of a block allow, whatever the launch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor (on AMD, compute unit, and its wavefronts). Shared memory in bytes."""

    multiprocessors: int
    """Of the largest product."""
    warps: int
    shared: int
    shared_unit: int
    shared_reserved: int
    """By the system, in each block."""
    warp_size: int = 32
    blocks: int = 32


LIMITS = {
    "sm_80": Limits(108, warps=64, shared=164 * 1024, shared_unit=128, shared_reserved=1024),
    "sm_90": Limits(132, warps=64, shared=228 * 1024, shared_unit=128, shared_reserved=1024),
    "sm_100": Limits(148, warps=64, shared=228 * 1024, shared_unit=128, shared_reserved=1024),
    "gfx942": Limits(304, warps=32, shared=64 * 1024, shared_unit=512, shared_reserved=0, warp_size=64),
}
"""NVIDIA: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the units in which registers
and shared memory are given out are those of cuda_occupancy.h; multiprocessors of A100, H100 SXM and B200. AMD: the
"AMD Instinct MI300" CDNA3 instruction set guide, and LLVM's AMDGPUBaseInfo.cpp for units and wavefronts; MI300X."""

_PARTITIONS = 4
_REGISTERS = 512
_REGISTER_UNIT = 8
"""A multiprocessor's warps live in four partitions, each with 512 registers of 32 bits for every lane, given out by
eights: 65,536 registers on NVIDIA, 256 to a warp; on AMD, whose figures count accumulators too, 8 wavefronts a SIMD."""


def limits(arch: str) -> Limits:
    """The architecture's limits; those of its maker's oldest here where it is not listed."""
    return LIMITS.get(arch) or LIMITS["sm_80" if arch.startswith("sm_") else "gfx942"]


def resident_blocks(arch: str, registers: int, shared: int, num_warps: int) -> int:
    """Blocks of `num_warps` that a multiprocessor holds, with so many registers a thread and bytes shared a block."""
    limit = limits(arch)
    registers = _round_up(max(registers, 1), _REGISTER_UNIT)
    warps = _PARTITIONS * min(limit.warps // _PARTITIONS, _REGISTERS // registers)
    shared = _round_up(shared + limit.shared_reserved, limit.shared_unit)
    return min(limit.blocks, warps // num_warps, limit.shared // shared if shared else limit.blocks)


def resident_warps(arch: str, registers: int, shared: int, num_warps: int) -> int:
    """The same in warps, of `limits(arch).warps` at most."""
    return resident_blocks(arch, registers, shared, num_warps) * num_warps


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
