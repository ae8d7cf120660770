"""The whole of tuning: what there is to choose on a device, the search for each, and the rows that come of it."""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from ..core.devices import architecture
from ..launch.cache import triton_version
from ..launch.config import use
from ..launch.tables import KERNELS, Config, ConfigKey, Entry, ScheduleKey, Table
from . import aot, search
from .cases import Case
from .check import disagreement
from .launches import Launch, Layer, bind, bind_layer
from .search import Bench, Choice, Outcome, Workload
from .store import Header
from .timing import ROTATED, CudaClock, Rotation, cudnn_plans, interleave

NOT_TIMED = "not timed: ranked statically"

_ROUNDS = 50


@dataclass(frozen=True)
class Device:
    """What is tuned for. `timed` is false where there is only its architecture."""

    arch: str
    name: str
    timed: bool

    @property
    def header(self) -> Header:
        return Header(triton_version(), self.arch, self.name)


@dataclass(frozen=True)
class Plan:
    """What a search goes over. `launch_pdl`: each configuration also with programmatic dependent launch."""

    device: Device
    launches: dict[ConfigKey, list[Launch]]
    layers: dict[ScheduleKey, list[Layer]]
    launch_pdl: bool = False

    def candidates(self, key: ConfigKey) -> list[Config]:
        return search.candidates(self.device.arch, key, self.launch_pdl)


def cuda_device() -> Device | None:
    """The current CUDA device; None where torch finds none."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    return Device(architecture(device), torch.cuda.get_device_name(device), timed=True)


def cuda_bench() -> Bench:
    """The current CUDA device for the search."""
    clock = CudaClock(torch.device("cuda", torch.cuda.current_device()))
    return Bench(partial(_bind, "cuda"), partial(_check, "cuda"), partial(_time, clock))


def plan(
    device: Device, cases: Sequence[Case], dtype: str, kernels: Sequence[str] = KERNELS, *, launch_pdl: bool = False
) -> Plan:
    """What there is to choose. Schedules only where they can be timed, and where all kernels are tuned."""
    layers = search.layers(cases, dtype) if device.timed and set(kernels) == set(KERNELS) else {}
    return Plan(device, search.launches(cases, dtype, kernels), layers, launch_pdl)


def run(plan: Plan, jobs: int | None = None, bench: Bench | None = None) -> list[Outcome]:
    """Search all of a plan: by the times that `bench` gives, else statically, and then no schedules.

    `jobs` processes compile. Triton must not interpret.
    """
    arch = plan.device.arch
    candidates = {key: plan.candidates(key) for key in plan.launches}
    tasks = [(plan.launches[key][0], arch, config) for key, configs in candidates.items() for config in configs]
    with _progress(len(tasks), "compiling") as done:
        figures = iter(aot.measure(tasks, jobs or min(8, os.cpu_count() or 1), done))
    outcomes = []
    with _progress(len(plan.launches) + len(plan.layers), "searching" if bench else "ranking") as done:
        for key, launches in plan.launches.items():
            compiled = [(config, next(figures)) for config in candidates[key]]
            outcomes.append(search.search(arch, launches, compiled, bench))
            done()
        for layers in plan.layers.values() if bench else ():
            outcomes.append(search.choose_schedule(layers, bench))
            done()
    return outcomes


def rows(outcomes: Sequence[Outcome], measured: str) -> Table:
    """What was chosen, as rows of a table: also where the default stands, so that an older row does not."""
    table = Table()
    for outcome in outcomes:
        chosen = table.configs if isinstance(outcome.key, ConfigKey) else table.schedules
        chosen[outcome.key] = Entry(outcome.chosen, measured)
    return table


def _bind(device: str, workload: Workload, choice: Choice) -> Callable[[], object]:
    if isinstance(workload, Layer):
        # cuDNN keeps the first plan it takes for a convolution, so that any run must take the fastest.
        return cudnn_plans(tried=True)(bind_layer(workload, choice, device))
    configured = use({workload.kernel: choice})
    return Rotation.of(lambda: configured(configured(bind)(workload, device)), workload.nbytes)


def _check(device: str, workload: Workload, choice: Choice) -> str:
    if isinstance(workload, Layer):
        _, in_channels, channels, (size, _) = workload.key
        return disagreement(workload.dtype, channels, device, in_channels=in_channels, kernel=size, schedule=choice)
    with use({workload.kernel: choice}):
        return disagreement(workload.dtype, workload.channels, device)


def _time(clock: CudaClock, runs: Sequence[Callable[[], object]]) -> list[list[float]]:
    """The seconds of a layer's run with a cold cache, or of a launch: the geometric mean of a cold and a hot one.

    In a layer a launch finds part of its tensors in the cache.
    """
    with cudnn_plans(tried=True):
        samplers = {(index, "cold"): clock.sampler(run) for index, run in enumerate(runs)}
        for index, run in enumerate(runs):
            if isinstance(run, Rotation):
                samplers[index, "hot"] = clock.sampler(run.hot, cold=False)
    seconds = interleave(samplers, _ROUNDS)

    def of(index: int, run: Callable[[], object]) -> list[float]:
        if not isinstance(run, Rotation):
            return seconds[index, "cold"]
        pairs = zip(seconds[index, "cold"], seconds[index, "hot"])
        return [statistics.geometric_mean(pair) / ROTATED for pair in pairs]

    return [of(index, run) for index, run in enumerate(runs)]


@contextmanager
def _progress(total: int, label: str) -> Iterator[Callable[[], object]]:
    """Gives the function that counts one more of `total`, with a bar on a terminal where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, desc=label, disable=None, leave=False) as bar:
        yield bar.update
