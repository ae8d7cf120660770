"""The schema of all results: one flat row for each provider and point, in a CSV file. Collecting needs no pandas."""

import csv
import io
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import triton

from tritonlstm.core import files

MODES = ("inference", "training")
ROOT = Path(__file__).parents[1]

OK, ABSENT, WRONG, OUT_OF_MEMORY, DROPPED, FAILED = "ok", "absent", "wrong", "out of memory", "dropped", "failed"
GRAPH, CALLS = "graph", "calls"
SINGLE_STEPS = "single steps"
"""The run of layers that take one step at a time."""


@dataclass(frozen=True)
class Row:
    """Rows that agree from `run` to `mode` are one point: they were timed in turns, and only they are compared."""

    run: str  # which set of providers: "baselines", "compiled", "steps", …
    case: str
    sizes: str
    steps: int
    dtype: str
    mode: str  # "inference" or "training"; "gates" or "convolutions" for parts of a layer
    provider: str
    peephole: bool
    status: str
    reason: str = ""  # why there is no time, or the largest error as a fraction of its budget
    launch: str = ""  # GRAPH: replays of a CUDA graph. CALLS: from Python. Only times of the same kind are compared.
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int = 0
    peak_bytes: int | None = None  # above what was allocated before
    compile_seconds: float | None = None  # of the first call


def _output(*command: str) -> str:
    """What a command prints, or "unknown"."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip() or "unknown"


def commit() -> str:
    """The commit that is timed, with a mark if the tree has changed since."""
    return _output("git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12")


def environment(device: torch.device, command: str, own_commit: str | None = None) -> dict[str, str]:
    """What results depend on: the machine, the versions, the commit, the command."""
    found = {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": own_commit or commit(),
        "command": command,
    }
    if device.type == "cuda":
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        versions = {"driver": driver, "cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        precision = torch.backends.cudnn.conv.fp32_precision
        return {"device": torch.cuda.get_device_name(device), **found, **versions, "float32": precision}
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = model[1] if model else platform.processor() or platform.machine()
    name = f"{name}, {torch.backends.cpu.get_cpu_capability()}"
    return {"device": name, **found, "driver": "", "cuda": "", "cudnn": "", "float32": "ieee"}


def results_folder(device: torch.device, *, whole: bool = True) -> Path:
    """bench/results/<device>, and in it "partial" for a run that is not `whole`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    folder = ROOT / "bench/results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return folder if whole else folder / "partial"


class Rows:
    """Collects rows, and saves all of them to a file after every point."""

    def __init__(self, path: Path, environment: dict[str, str]):
        files.check_target(path)
        self.path = path
        self.environment = environment
        self.all: list[Row] = []

    def records(self) -> list[dict]:
        return [asdict(row) | self.environment for row in self.all]

    def add(self, rows: Iterable[Row]) -> None:
        self.all += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*(each.name for each in fields(Row)), *self.environment])
        writer.writeheader()
        writer.writerows(self.records())
        files.write(self.path, text.getvalue())  # at once: a run that is interrupted here leaves the earlier file
