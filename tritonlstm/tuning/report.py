"""What a search found: a table to read, and a CSV with a line for every candidate."""

import csv
import statistics
from pathlib import Path

import torch

from ..launch.cache import triton_version
from .occupancy import limits
from .schedules import MODES
from .search import MARGIN, Outcome, Trial, speedup
from .tune import Found

FIELDS = (
    "kernel", "dtype", "channels", "BLOCK", "num_warps", "verdict", "registers", "spills", "shared", "accesses",
    "instructions", "warps", "static_cost", "median_us", "p20_us", "p80_us", "speedup", "sizes", "device", "arch",
    "torch", "triton",
)  # fmt: skip
"""Times are of the first of the sizes; `speedup`, over the default, is of all. What was not timed is left empty."""


def table(found: Found) -> str:
    """A line for each kernel and number of channels, and one for each layer's schedule."""
    timed = found.plan.device.timed
    last = "speed-up" if timed else "cost"
    lines = [f"{'kernel':16}{'dtype':>6}{'C':>5}{'default':>10}{'chosen':>10}{last:>16}{'warps':>8}  candidates"]
    lines += [_line(found, outcome, timed) for outcome in found.configs]
    if timed:
        lines.append(f"BLOCK/num_warps; speed-up over the default, of which {MARGIN:.0%} is needed to replace it")
    else:
        lines.append("BLOCK/num_warps; static cost of the default → of the chosen, lower is better")
    if found.schedules:
        lines.append(f"\n{'layer':24}{'schedule':>10}  speed-up of hoisted over concat")
    for outcome in found.schedules:
        layer = f"{outcome.key.in_channels}→{outcome.key.channels} {'×'.join(map(str, outcome.key.kernel))}"
        detail = outcome.rejected or ", ".join(f"{mode} {outcome.speedup(mode):.2f}×" for mode in MODES)
        lines.append(f"{layer:24}{outcome.chosen:>10}  {detail}")
    return "\n".join(lines)


def write_csv(found: Found, path: Path) -> None:
    """Every candidate with its figures, its verdict and its times. Raises OSError where it cannot be written."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for outcome in found.configs:
            writer.writerows(_record(found, outcome, trial) for trial in outcome.trials)


def _chosen(outcome: Outcome) -> Trial:
    return next(trial for trial in outcome.trials if trial.config == outcome.chosen)


def _line(found: Found, outcome: Outcome, timed: bool) -> str:
    point, chosen = outcome.point, _chosen(outcome)
    most = limits(found.plan.device.arch).warps
    warps = f"{chosen.figures.warps}/{most}" if chosen.figures else "?"
    if timed:
        gain = "not timed" if outcome.speedup is None else f"{outcome.speedup:.2f}×"
    else:
        gain = f"{outcome.trials[0].cost:.2f} → {chosen.cost:.2f}"
    rejected = sum(bool(trial.rejected) for trial in outcome.trials)
    return (
        f"{point.kernel:16}{point.dtype:>6}{point.channels:5}{outcome.default!s:>10}{outcome.chosen!s:>10}"
        f"{gain:>16}{warps:>8}  {len(outcome.trials)}, {rejected} rejected"
    )


def _record(found: Found, outcome: Outcome, trial: Trial) -> dict[str, object]:
    point, device = outcome.point, found.plan.device
    record = {
        "kernel": point.kernel,
        "dtype": point.dtype,
        "channels": point.channels,
        "BLOCK": trial.config.block,
        "num_warps": trial.config.num_warps,
        "verdict": _verdict(outcome, trial),
        "sizes": " ".join("×".join(map(str, size)) for size in point.sizes),
        "device": device.name,
        "arch": device.arch,
        "torch": torch.__version__,
        "triton": triton_version(),
    }
    if trial.figures:
        figures = trial.figures.as_json()
        figures["accesses"] = " ".join(f"{count}×{width}" for width, count in trial.figures.accesses.items())
        record |= figures | {"static_cost": f"{trial.cost:.4f}"}
    if trial.times:
        p20, *_, p80 = statistics.quantiles(trial.times[0], n=5, method="inclusive")
        times = {"median_us": trial.medians[0], "p20_us": p20, "p80_us": p80}
        record |= {name: f"{1e6 * seconds:.2f}" for name, seconds in times.items()}
        if outcome.trials[0].times:
            record["speedup"] = f"{speedup(outcome.trials[0], trial):.4f}"
    return record


def _verdict(outcome: Outcome, trial: Trial) -> str:
    words = ["default"] if trial is outcome.trials[0] else []
    words += ["chosen"] if trial.config == outcome.chosen else []
    return "; ".join([*words, *([trial.rejected] if trial.rejected else [])])
