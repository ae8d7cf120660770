"""Figures of a compiled kernel, read from its machine code."""

import collections
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass

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

    def as_json(self) -> dict:
        return asdict(self)


def inspect(kernel: CompiledKernel) -> Figures:
    return _inspect_cuda(kernel) if "cubin" in kernel.asm else _inspect_hip(kernel)


def faults(launch: Launch, figures: Figures) -> list[str]:
    """What makes a kernel slow whatever the device: spills, and accesses narrower than its channels allow."""
    found = [f"{figures.spills} spills"] if figures.spills else []
    narrow = {width: count for width, count in figures.accesses.items() if int(width) < launch.narrowest_access}
    return found + ([f"accesses narrower than {launch.narrowest_access} bytes: {narrow}"] if narrow else [])


def _warps(kernel: CompiledKernel, registers: int) -> int:
    metadata = kernel.metadata
    arch = f"sm_{metadata.target.arch}" if metadata.target.backend == "cuda" else metadata.target.arch
    return resident_warps(arch, registers, metadata.shared, metadata.num_warps)


_CUDA_ACCESS = re.compile(r"\b(LDG|STG)\.E((?:\.\w+)*)")
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
    accesses = collections.Counter()
    for _, modifiers in _CUDA_ACCESS.findall("\n".join(instructions)):
        widths = [_CUDA_WIDTHS[part] for part in modifiers.split(".") if part in _CUDA_WIDTHS]
        accesses[str(widths[0] if widths else 4)] += 1
    local = sum(bool(re.search(r"\b(LDL|STL)\b", instruction)) for instruction in instructions)
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    return Figures(
        registers=registers,
        spills=int(re.search(r"STACK:(\d+)", usage)[1]) + local,
        shared=kernel.metadata.shared,
        accesses=dict(sorted(accesses.items(), key=lambda item: int(item[0]))),
        instructions=len(instructions),
        warps=_warps(kernel, registers),
    )


_HIP_ACCESS = re.compile(r"^\s*(?:global|buffer|flat)_(?:load|store)_(\w+)", re.MULTILINE)
_HIP_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "ushort": 2, "byte": 1, "ubyte": 1}


def _inspect_hip(kernel: CompiledKernel) -> Figures:
    code = kernel.asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", code)[1])

    accesses = collections.Counter()
    for name in _HIP_ACCESS.findall(code):
        stem = name.removesuffix("_d16_hi").removesuffix("_d16")
        accesses[str(_HIP_WIDTHS[stem])] += 1
    registers = field("vgpr_count")
    return Figures(
        registers=registers,
        spills=field("private_segment_fixed_size") + field("vgpr_spill_count") + field("sgpr_spill_count"),
        shared=kernel.metadata.shared,
        accesses=dict(sorted(accesses.items(), key=lambda item: int(item[0]))),
        instructions=len(re.findall(r"^\t[sv]_|^\t(?:global|buffer|flat|ds)_", code, re.MULTILINE)),
        warps=_warps(kernel, registers),
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
