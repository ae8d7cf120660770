"""The schema of all results: one flat row for each provider and point, in a CSV file. Collecting needs no pandas."""

import ast
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
TIME_OVER = "the run's time was over"
"""The reason of rows that were dropped and may be measured in another run."""

GRAPH, CALLS = "graph", "calls"
SINGLE_STEPS = "single steps"
"""The run of layers that take one step at a time."""

Key = tuple[str, str, str, int, str, str]
"""A row's fields from `run` to `mode`."""


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

    @property
    def point(self) -> Key:
        return self.run, self.case, self.sizes, self.steps, self.dtype, self.mode


def _output(*command: str, nothing: str = "unknown") -> str:
    """What a command prints, or `nothing`."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return nothing
    return result.stdout.strip() or nothing


def commit(root: Path = ROOT) -> str:
    """The commit that is timed, with a mark if the tree has changed since, but for results."""
    git = "git", "-C", str(root)
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", nothing="")
    return _output(*git, "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


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
    """bench/results/<device>, and in it "partial" for runs of a part, which leave the whole run's results alone."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    folder = ROOT / "bench/results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return folder if whole else folder / "partial"


def differences(earlier: dict[str, str], now: dict[str, str]) -> str:
    """In what but their commands two environments differ, in words; "" if in nothing."""
    names = [name for name in now if name != "command" and str(earlier.get(name)) != str(now[name])]
    return ", ".join(f"{name} {earlier.get(name)!r}, not {now[name]!r}" for name in names)


class Rows:
    """Collects rows, and saves all of them to a file after every point.

    With `resume` it goes on with the file: rows of points that an earlier run completed are kept. Raises ValueError
    where the earlier run was of another machine, other versions or another commit.
    """

    def __init__(self, path: Path, environment: dict[str, str], *, resume: bool = False):
        files.check_target(path)
        self.path = path
        self.environment = environment
        self.all: list[Row] = []
        self.kept = self._completed() if resume and path.exists() else []

    def _completed(self) -> list[tuple[Row, dict[str, str]]]:
        found, reader = [], csv.DictReader(io.StringIO(files.read_text(self.path)))
        if missing := {each.name for each in fields(Row)}.difference(reader.fieldnames or ()):
            raise ValueError(f"{self.path}: expected a file of results, got one without {', '.join(sorted(missing))}")
        for record in reader:
            own = {each.name: _parsed(each.type, record.pop(each.name)) for each in fields(Row)}
            if differs := differences(record, self.environment):
                raise ValueError(f"{self.path}: expected rows of the same environment, got {differs}")
            found.append((Row(**own), record))
        unfinished = {row.point for row, _ in found if (row.status, row.reason) == (DROPPED, TIME_OVER)}
        return [(row, environment) for row, environment in found if row.point not in unfinished]

    def records(self) -> list[dict]:
        rows = [*self.kept, *((row, self.environment) for row in self.all)]
        return [asdict(row) | environment for row, environment in rows]

    def add(self, rows: Iterable[Row]) -> None:
        self.all += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*(each.name for each in fields(Row)), *self.environment])
        writer.writeheader()
        writer.writerows(self.records())
        files.write(self.path, text.getvalue())  # at once: a run that is interrupted here leaves the earlier file


def _parsed(kind: object, text: str) -> object:
    """The value of a field as a file has it."""
    if kind is str:
        return text
    return ast.literal_eval(text) if text else None
