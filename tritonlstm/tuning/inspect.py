"""Figures of a compiled kernel, read from its machine code."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import triton
from triton.compiler import CompiledKernel

from .launches import Launch
from .occupancy import resident_warps


@dataclass(frozen=True)
class Figures:
    """registers: of a thread. spills: bytes of stack or scratch, plus local loads and stores. shared: bytes.
    accesses: global loads and stores by their width in bytes. instructions: all of them. warps: how many of them a
    multiprocessor holds at once."""

    registers: int
    spills: int
    shared: int
    accesses: dict[str, int]
    instructions: int
    warps: int


def inspect(kernel: CompiledKernel) -> Figures:
    return _inspect_cuda(kernel) if "cubin" in kernel.asm else _inspect_hip(kernel)


def faults(launch: Launch, figures: Figures) -> list[str]:
    """What makes a kernel slow whatever the device: spills, and accesses narrower than its channels allow."""
    found = [f"{figures.spills} spills"] if figures.spills else []
    narrow = {width: count for width, count in figures.accesses.items() if int(width) < launch.narrowest_access}
    return found + ([f"accesses narrower than {launch.narrowest_access} bytes: {narrow}"] if narrow else [])


_CUDA_ACCESS = re.compile(r"\b(?:LDG|STG)\.E((?:\.\w+)*)")
_CUDA_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", re.MULTILINE)
_CUDA_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1, "256": 32}


def _inspect_cuda(kernel: CompiledKernel) -> Figures:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        # Only the code, and without the analysis of jumps, which takes its time and changes no instruction.
        code = _run(triton.knobs.nvidia.nvdisasm.path, "-c", "-ndf", file.name)
    instructions = _CUDA_INSTRUCTION.findall(code)
    # An access without a width in its modifiers is of 4 bytes.
    widths = [
        next((_CUDA_WIDTHS[part] for part in modifiers.split(".") if part in _CUDA_WIDTHS), 4)
        for modifiers in _CUDA_ACCESS.findall("\n".join(instructions))
    ]
    local = sum(bool(re.search(r"\b(LDL|STL)\b", instruction)) for instruction in instructions)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    arch = f"sm_{kernel.metadata.target.arch}"
    return _figures(kernel, arch, registers, stack + local, widths, len(instructions))


_HIP_ACCESS = re.compile(r"^\s*(?:global|buffer|flat)_(?:load|store)_(\w+?)(?:_d16)?(?:_hi)?\b", re.MULTILINE)
_HIP_INSTRUCTION = re.compile(r"^\t[sv]_|^\t(?:global|buffer|flat|ds)_", re.MULTILINE)
_HIP_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "ushort": 2, "byte": 1, "ubyte": 1}


def _inspect_hip(kernel: CompiledKernel) -> Figures:
    code = kernel.asm["amdgcn"]
    names = "vgpr_count", "private_segment_fixed_size", "vgpr_spill_count", "sgpr_spill_count"
    registers, *spills = (int(re.search(rf"\.{name}:\s+(\d+)", code)[1]) for name in names)
    widths = [_HIP_WIDTHS[name] for name in _HIP_ACCESS.findall(code)]
    instructions = len(_HIP_INSTRUCTION.findall(code))
    return _figures(kernel, kernel.metadata.target.arch, registers, sum(spills), widths, instructions)


def _figures(
    kernel: CompiledKernel, arch: str, registers: int, spills: int, widths: Iterable[int], instructions: int
) -> Figures:
    shared, accesses = kernel.metadata.shared, {str(width): count for width, count in sorted(Counter(widths).items())}
    warps = resident_warps(arch, registers, shared, kernel.metadata.num_warps)
    return Figures(registers, spills, shared, accesses, instructions, warps)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
