"""What every figure depends on: the machine, the versions, the commit, the command."""

import functools
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

ROOT = Path(__file__).parents[1]


def _output(*command: str) -> str:
    """What a command prints; "unknown" where it is not there or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip() or "unknown"


def _cpu() -> str:
    """The CPU's model, as the kernel tells it, and the vectors that torch computes with: "AMD EPYC, AVX2"."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


@functools.cache
def commit() -> str:
    """The commit that is timed, with a mark where the tree has changed since."""
    return _output("git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12")


@dataclass(frozen=True)
class Environment:
    device: str
    threads: int
    driver: str
    cuda: str
    cudnn: str
    torch: str
    triton: str
    commit: str
    command: str
    float32: str
    """How the convolutions of rows in float32 compute: in "tf32", on a GPU by torch's default, or not."""

    @classmethod
    def of(cls, device: torch.device, command: str, own_commit: str | None = None) -> "Environment":
        """That of this process. `threads` are those of its operators on the CPU; `own_commit` where git cannot tell."""
        on_cuda = device.type == "cuda"
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_cuda else ""
        return cls(
            device=torch.cuda.get_device_name(device) if on_cuda else _cpu(),
            threads=torch.get_num_threads(),
            driver=driver.split("\n")[0],
            cuda=torch.version.cuda or "",
            cudnn=str(torch.backends.cudnn.version()) if on_cuda else "",
            torch=torch.__version__,
            triton=triton.__version__,
            commit=own_commit or commit(),
            command=command,
            float32=torch.backends.cudnn.conv.fp32_precision if on_cuda else "ieee",
        )


def results_folder(device: torch.device, *, whole: bool = True) -> Path:
    """bench/results/<device>/: "cpu", or the GPU's name. In it "partial", for what is not a `whole` run's."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    folder = ROOT / "bench/results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return folder if whole else folder / "partial"
