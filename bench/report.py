"""The rows of a benchmark: one CSV schema, and a table to read."""

import csv
import functools
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import triton

from .measure import Times


@functools.cache
def _device() -> str:
    """The CPU's model, as the kernel tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@functools.cache
def _commit() -> str:
    """The commit that is timed, with a mark where the tree has changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


@dataclass(frozen=True)
class Row:
    """One contender at one point. Times in milliseconds, memory in bytes above what was held before."""

    case: str
    mode: str
    contender: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    peak_bytes: int
    device: str = field(default_factory=_device)
    threads: int = field(default_factory=torch.get_num_threads)
    torch: str = torch.__version__
    triton: str = triton.__version__
    commit: str = field(default_factory=_commit)
    command: str = " ".join(["pytest", *sys.argv[1:]])

    @classmethod
    def of(cls, case: str, mode: str, contender: str, times: Times, peak: int) -> "Row":
        p20, p80 = times.spread
        return cls(case, mode, contender, 1e3 * times.median, 1e3 * p20, 1e3 * p80, peak)


class Rows:
    """Collects rows, and saves all of them after each where there is a path."""

    def __init__(self, path: Path | None):
        self._path = path
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [each.name for each in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(each) for each in self._rows)

    def table(self) -> str:
        """A line for each case and mode: both medians with their spread, and the ratios."""
        lines = [
            f"{'case':26} {'mode':10} {'tritonlstm, ms (p20–p80)':>26} {'eager, ms (p20–p80)':>26}"
            f" {'speed':>6} {'memory':>7}"
        ]
        for ours, eager in zip(self._rows[::2], self._rows[1::2], strict=True):
            times = [f"{row.median_ms:.1f} ({row.p20_ms:.1f}–{row.p80_ms:.1f})" for row in (ours, eager)]
            lines.append(
                f"{ours.case:26} {ours.mode:10} {times[0]:>26} {times[1]:>26}"
                f" {eager.median_ms / ours.median_ms:5.2f}× {ours.peak_bytes / eager.peak_bytes:6.2f}×"
            )
        return "\n".join([*lines, "speed: eager's time over ours; memory: our peak over eager's"])
