"""Which launch configuration a kernel gets.

The tables lie in kernels/tuned: one for each GPU architecture that was measured, and `default.json` for the others. A
configuration depends on the kernel, the architecture and the size of the layer's dtype, never on T or B.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Config:
    """block: elements of a program's tile; num_warps: warps of 32 (on AMD, wavefronts of 64) that work on it."""

    block: int
    num_warps: int


@functools.cache
def pick_config(kernel: str, arch: str, itemsize: int) -> Config:
    """The configuration of `kernel` ("gates_forward", …) on `arch` ("sm_90", …) for a dtype of `itemsize` bytes."""
    row = _table(arch)[kernel][str(itemsize)]
    return Config(block=row["BLOCK"], num_warps=row["num_warps"])


@functools.cache
def _table(arch: str) -> dict:
    tuned = resources.files("tritonlstm.kernels") / "tuned"
    table = tuned / f"{arch}.json"
    if not table.is_file():
        table = tuned / "default.json"
    return json.loads(table.read_text())
