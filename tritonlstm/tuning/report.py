"""What a search found: a table to read, and a CSV with a line for every candidate."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from ..core import files
from ..launch.cache import triton_version
from ..launch.tables import ConfigKey, ScheduleKey
from .occupancy import limits
from .search import MARGIN, Outcome, Trial, by_mode, speedup
from .timing import spread
from .tune import Device, Plan

FIELDS = (
    "kernel", "dtype", "channels", "BLOCK", "num_warps", "launch_pdl", "verdict", "registers", "spills", "shared",
    "accesses", "instructions", "warps", "static_cost", "median_us", "p20_us", "p80_us", "speedup", "sizes", "device",
    "arch", "torch", "triton",
)  # fmt: skip
"""Times are of the first of the sizes, between those with a cold cache and with a hot one; `speedup`, over the default,
is of all. What was not timed is left empty."""


def table(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """A line for each kernel and number of channels, and one for each layer's schedule."""
    configs = [outcome for outcome in outcomes if isinstance(outcome.key, ConfigKey)]
    schedules = [outcome for outcome in outcomes if isinstance(outcome.key, ScheduleKey)]
    gain, note = "cost", "static cost of the default → of the chosen, lower is better"
    if plan.device.timed:
        gain, note = "speed-up", f"speed-up over the default, of which {MARGIN:.0%} is needed to replace it"
    lines = [f"{'kernel':16}{'C':>5}{'default':>12}{'chosen':>12}{gain:>16}{'warps':>8}  candidates"]
    lines += [_config_line(plan.device, outcome) for outcome in configs]
    lines.append(f"BLOCK/num_warps, and pdl for programmatic dependent launch; {note}")
    if schedules:
        lines.append(f"\n{'layer':24}{'schedule':>10}  speed-up of hoisted over concat")
    return "\n".join([*lines, *map(_schedule_line, schedules)])


def check_csv(path: Path) -> None:
    """Raise ValueError where a file is there that `write_csv` did not write. Raises OSError where it cannot be read."""
    with suppress(FileNotFoundError):
        if not files.read_text(path).startswith(",".join(FIELDS[:3])):
            raise ValueError(f"{path}: expected an earlier report or no file, got something else")


def write_csv(plan: Plan, outcomes: Sequence[Outcome], path: Path) -> None:
    """Every configuration with its figures, its verdict and its times.

    Raises OSError where it cannot be written, and ValueError where another file is there.
    """
    check_csv(path)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    for outcome in outcomes:
        if isinstance(outcome.key, ConfigKey):
            writer.writerows(_record(plan, outcome, trial) for trial in outcome.trials)
    files.write(path, text.getvalue())


def _config_line(device: Device, outcome: Outcome) -> str:
    key, default = outcome.key, outcome.trials[0]
    chosen = next(trial for trial in outcome.trials if trial.choice == outcome.chosen)
    warps = f"{chosen.figures.warps}/{limits(device.arch).warps}" if chosen.figures else "?"
    gain = "not timed" if outcome.speedup is None else f"{outcome.speedup:.2f}×"
    if not device.timed:
        gain = f"{default.cost:.2f} → {chosen.cost:.2f}"
    rejected = sum(bool(trial.rejected) for trial in outcome.trials)
    return (
        f"{key.kernel:16}{key.channels:5}{outcome.default!s:>12}{outcome.chosen!s:>12}"
        f"{gain:>16}{warps:>8}  {len(outcome.trials)}, {rejected} rejected"
    )


def _schedule_line(outcome: Outcome) -> str:
    key, (concat, hoisted) = outcome.key, outcome.trials
    layer = f"{key.in_channels}→{key.channels} {'×'.join(map(str, key.kernel))}"
    if concat.times and hoisted.times:
        detail = ", ".join(f"{mode} {gain:.2f}×" for mode, gain in by_mode(outcome).items())
    else:
        detail = hoisted.rejected or f"concat {concat.rejected}"
    return f"{layer:24}{outcome.chosen:>10}  {detail}"


def _record(plan: Plan, outcome: Outcome, trial: Trial) -> dict[str, object]:
    key, default, launches = outcome.key, outcome.trials[0], plan.launches[outcome.key]
    words = ("default", trial is default), ("chosen", trial.choice == outcome.chosen), (trial.rejected, True)
    record = {
        "kernel": key.kernel,
        "dtype": launches[0].dtype,
        "channels": key.channels,
        "BLOCK": trial.choice.block,
        "num_warps": trial.choice.num_warps,
        "launch_pdl": "yes" if trial.choice.launch_pdl else "",
        "verdict": "; ".join(word for word, holds in words if word and holds),
        "sizes": " ".join(f"{launch.batch}×{launch.height}×{launch.width}" for launch in launches),
        "device": plan.device.name,
        "arch": plan.device.arch,
        "torch": torch.__version__,
        "triton": triton_version(),
    }
    if trial.figures:
        accesses = " ".join(f"{count}×{width}" for width, count in trial.figures.accesses.items())
        record |= asdict(trial.figures) | {"accesses": accesses, "static_cost": f"{trial.cost:.4f}"}
    if trial.times:
        names = "median_us", "p20_us", "p80_us"
        record |= {name: f"{1e6 * each:.2f}" for name, each in zip(names, spread(trial.times[launches[0]]))}
        if default.times:
            record["speedup"] = f"{speedup(default, trial):.4f}"
    return record
