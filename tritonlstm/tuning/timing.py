"""Timing of functions in turns; on a GPU by replays of CUDA graphs, with the device's own events and a cold cache."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Sampler = Callable[[], float]
"""Runs what is timed once, and returns the seconds it took."""

_WARMUPS = 3
"""Calls before a capture: the first compiles, and lets cuDNN choose."""

_LEAST_FLUSH = 256 * 2**20
"""Bytes that are overwritten before each run: several times the last cache of any GPU here."""


class Failed(Exception):
    """The sampler called `name` raised the exception that is the `__cause__`."""

    def __init__(self, name: Hashable, error: Exception):
        super().__init__(str(error))
        self.name = name


def interleave(samplers: dict[Hashable, Sampler], rounds: int, warmup: int = 2) -> dict[Hashable, list[float]]:
    """The seconds of each sampler in each round. Every round runs all of them, so that a disturbance hits them all."""
    names, seconds = list(samplers), {name: [] for name in samplers}
    for turn in range(warmup + rounds):
        for name in (names[index] for index in order(turn, len(names))):
            try:
                seconds[name].append(samplers[name]())
            except Exception as error:
                raise Failed(name, error) from error
    return {name: each[warmup:] for name, each in seconds.items()}


def order(turn: int, count: int) -> list[int]:
    """The order in which `count` functions run in a round.

    Each round begins one function later than the one before, and every other round goes backwards, so that none always
    follows the same other.
    """
    found = [(turn // 2 + place) % count for place in range(count)]
    return found[::-1] if turn % 2 else found


def spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The median, and what a fifth of them stays below (p20) and above (p80)."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive") if len(seconds) > 1 else [*seconds] * 4
    return statistics.median(seconds), fifths[0], fifths[3]


def host_sampler(call: Callable[[], Any], wait: Callable[[Any], Any] | None = None) -> Sampler:
    """Calls timed by the host's clock. `wait` blocks until the result of a call is computed."""

    def sample() -> float:
        start = time.perf_counter()
        result = call()
        if wait is not None:
            wait(result)
        return time.perf_counter() - start

    return sample


class CudaClock:
    """Before every sample the next input is copied in and the L2 cache overwritten, both outside the measured time."""

    graphs = True

    def __init__(self, device: torch.device):
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(2 * cache, _LEAST_FLUSH), dtype=torch.uint8, device=device)

    def sampler(
        self,
        run: Callable,
        arguments: Sequence[tuple] = ((),),
        *,
        graph: bool = True,
        wait: Callable[[Any], Any] | None = None,
    ) -> Sampler:
        """Runs on the next of `arguments`, in a cycle: replays of a graph of `run`, or calls.

        They are timed by the device's events or, with `wait`, by the host's clock.
        """
        following, static = itertools.cycle(arguments), ()
        if graph:
            static = tuple(argument.clone() for argument in arguments[0])
            replay = capture(functools.partial(run, *static))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def sample() -> float:
            own = next(following)
            for place, argument in zip(static, own):
                place.copy_(argument)
            # This also keeps the device busy until the call is queued: no launch waits for Python.
            self._flush.zero_()
            once = replay if graph else functools.partial(run, *own)
            if wait is not None:
                torch.cuda.synchronize(self.device)
                return host_sampler(once, wait)()
            start.record()
            once()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        return sample


def capture(run: Callable[[], Any]) -> Callable[[], Any]:
    """A function that replays what `run` launches on the current device, as a CUDA graph, and returns its results.

    They are the same tensors at every replay. Whatever `run` raises is raised, and the process can go on with other
    work.
    """
    before = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(before)
    with torch.cuda.stream(side):
        for _ in range(_WARMUPS):
            run()
    before.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # Of this thread alone: another library's threads in this process may do what a capture forbids.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = run()
    except BaseException:
        # The end of a capture that failed raises too, before it gives back the stream and the random generator.
        torch.cuda.set_stream(before)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        raise

    def replay() -> Any:
        graph.replay()
        return results  # kept alive: the graph writes to them

    return replay


@contextmanager
def best_plans() -> Iterator[None]:
    """cuDNN tries all of its plans for a convolution, and takes the fastest; ten would be its limit."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before
