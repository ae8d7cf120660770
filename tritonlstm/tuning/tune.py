"""The whole of tuning: what there is to choose, the search for each, and the rows that come of it."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from ..core.devices import architecture
from . import aot, schedules, search
from ..launch.cache import Header, triton_version
from .cases import Case
from .check import disagreement
from .launches import bind
from .schedules import LayerBench, ScheduleOutcome
from .search import Bench, Outcome
from ..launch.tables import KERNELS, ConfigKey, Entry, ScheduleKey, Table
from .timing import CudaTimer

NOT_TIMED = "not timed: ranked statically"

_KERNEL_ROUNDS, _LAYER_ROUNDS = 50, 15

Progress = Callable[[int, str], AbstractContextManager[Callable[[], object]]]
"""progress(total, label) gives, as a context, the function that counts one more."""


@dataclass(frozen=True)
class Device:
    """What is tuned for. `timed` is false where there is only its architecture."""

    arch: str
    name: str
    timed: bool


@dataclass(frozen=True)
class Plan:
    """What a search goes over."""

    device: Device
    dtype: str
    points: list[search.Point]
    layers: dict[ScheduleKey, list[schedules.Layer]]

    @property
    def header(self) -> Header:
        return Header(triton_version(), self.device.arch, self.device.name)


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    plan: Plan
    configs: list[Outcome]
    schedules: list[ScheduleOutcome]


def cuda_device() -> Device | None:
    """The current CUDA device; None where torch finds none."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    return Device(architecture(device), torch.cuda.get_device_name(device), timed=True)


def plan(device: Device, cases: Sequence[Case], dtype: str, kernels: Sequence[str] = KERNELS) -> Plan:
    """What there is to choose. Schedules only where they can be timed, and where all kernels are tuned."""
    layers = schedules.layers(cases, dtype) if device.timed and set(kernels) == set(KERNELS) else {}
    return Plan(device, dtype, search.points(cases, dtype, kernels), layers)


def cuda_bench() -> Bench:
    """The current CUDA device for the search."""
    return Bench(
        bind=lambda launch: bind(launch, "cuda"),
        check=lambda dtype, channels: disagreement(dtype, channels, "cuda"),
        time=CudaTimer(_KERNEL_ROUNDS),
    )


def cuda_layer_bench() -> LayerBench:
    """The current CUDA device for the choice between schedules."""

    def check(dtype: str, key: ScheduleKey, schedule: str) -> str:
        size = {"in_channels": key.in_channels, "kernel": key.kernel[0]}
        return disagreement(dtype, key.channels, "cuda", **size, schedule=schedule)

    return LayerBench(partial(schedules.bind, "cuda"), check, CudaTimer(_LAYER_ROUNDS))


def run(
    plan: Plan,
    progress: Progress | None = None,
    jobs: int | None = None,
    bench: Bench | None = None,
    layer_bench: LayerBench | None = None,
) -> Found:
    """Search all of a plan: by the times that `bench` gives, else statically; schedules only with a `layer_bench`.

    `jobs` processes compile. Raises RuntimeError where Triton interprets.
    """
    if aot.interprets():
        raise RuntimeError("TRITON_INTERPRET is set: Triton interprets the kernels, and compiles none")
    progress = progress or (lambda total, label: nullcontext(lambda: None))
    compiled = _compile(plan, progress, jobs or min(8, os.cpu_count() or 1))
    configs, chosen = [], []
    with progress(len(plan.points), "searching" if bench else "ranking") as done:
        for point in plan.points:
            configs.append(search.search(plan.device.arch, point, compiled[point], bench))
            done()
    if layer_bench is not None:
        with progress(len(plan.layers), "schedules") as done:
            for key, layers in plan.layers.items():
                chosen.append(schedules.choose(key, layers, layer_bench))
                done()
    return Found(plan, configs, chosen)


def rows(found: Found, measured: str) -> Table:
    """What was chosen, as rows of a table: also where the default stands, so that an older row does not."""
    table = Table()
    for outcome in found.configs:
        point = outcome.point
        table.configs[ConfigKey(point.kernel, point.itemsize, point.channels)] = Entry(outcome.chosen, measured)
    for outcome in found.schedules:
        table.schedules[outcome.key] = Entry(outcome.chosen, measured)
    return table


def _compile(plan: Plan, progress: Progress, jobs: int) -> dict:
    """The figures of each point's candidates, the default first."""
    arch = plan.device.arch
    chosen = {point: search.candidates(arch, point) for point in plan.points}
    tasks = [(point.launch(point.sizes[0]), arch, config) for point, configs in chosen.items() for config in configs]
    with progress(len(tasks), "compiling") as done:
        figures = iter(aot.measure(tasks, jobs, done))
    return {point: [(config, next(figures)) for config in configs] for point, configs in chosen.items()}
