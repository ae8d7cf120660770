"""What the GPU check writes down: the machine, the versions, the commit, and each check with its figures."""

import json
import platform
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.rows import ROOT, environment, results_folder
from tritonlstm.core import files


class Report:
    """A pytest plugin that collects outcomes, and the figures that tests give with `record_property`."""

    def __init__(self, command: str):
        self._command = command
        self._start = time.time()
        self._checks = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        check = {"outcome": report.outcome, "seconds": round(report.duration, 3), **dict(report.user_properties)}
        if report.skipped:
            check["reason"] = report.longrepr[2]
        if report.failed:
            check["error"] = str(report.longrepr)[-2000:]
        self._checks[report.nodeid.split("tests/gpu/")[-1]] = check

    def summary(self) -> str:
        counts = Counter(check["outcome"] for check in self._checks.values())
        seconds = time.time() - self._start
        return f"{', '.join(f'{number} {outcome}' for outcome, number in sorted(counts.items()))} in {seconds:.0f} s"

    def save(self) -> Path:
        """Write check.json, and return its path."""
        device = torch.device("cuda", torch.cuda.current_device())
        path = results_folder(device) / "check.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            **environment(device, self._command),
            "capability": list(torch.cuda.get_device_capability()),
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "python": platform.python_version(),
            "summary": self.summary(),
            "checks": self._checks,
        }
        files.write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path.relative_to(ROOT)
