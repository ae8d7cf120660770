"""Timing of functions in turns; on a GPU by replays of CUDA graphs, with events, and with a cold cache or a hot one."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Sampler = Callable[[], float]
"""Runs what is timed once, and returns the seconds it took."""

_WARMUPS = 3
"""Calls before a capture: the first compiles, and lets cuDNN choose. PyTorch keeps cuDNN's choices for each thread, so
that of a training step the backward pass has to run too, in autograd's own thread."""

ROTATED = 20
"""Launches in one graph: beside a single one of a few µs, what it takes to start a graph would count."""

COLD_BYTES = 256 * 2**20
"""Several times the last cache of any GPU here: what is read before a run so that nothing else is in the cache, and the
size from which on tensors that take turns evict each other."""

_SLEEP_CYCLES, _MOST_CYCLES = 2**18, 2**31
"""How long the device sleeps while a graph is launched, at first and at most: about 0.15 ms and 1.2 s."""


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


@dataclass(frozen=True)
class Rotation:
    """ROTATED launches of one kernel, in a row."""

    bound: Sequence[Callable[[], Any]]
    """The launch on several sets of tensors."""

    @classmethod
    def of(cls, bind: Callable[[], Callable[[], Any]], nbytes: int) -> "Rotation":
        """`bind` gives the launch on tensors of its own, of `nbytes` together.

        As many sets as launches, unless fewer fill the cache several times.
        """
        return cls([bind() for _ in range(min(ROTATED, max(2, -(-COLD_BYTES // nbytes))))])

    def cold(self) -> None:
        """On one set after another: none is in a cache that was cold before."""
        for launch in itertools.islice(itertools.cycle(self.bound), ROTATED):
            launch()

    def hot(self) -> None:
        """All on the first set, which is in the cache if it fits."""
        for _ in range(ROTATED):
            self.bound[0]()

    def __call__(self) -> None:
        self.cold()


class CudaClock:
    """Samples by the device's events. What precedes a run is outside of the measured time."""

    graphs = True

    def __init__(self, device: torch.device):
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._other = torch.zeros(max(2 * cache, COLD_BYTES) // 4, device=device)

    def sampler(
        self,
        run: Callable,
        arguments: Sequence[tuple] = ((),),
        *,
        graph: bool = True,
        cold: bool = True,
        wait: Callable[[Any], Any] | None = None,
    ) -> Sampler:
        """Runs on the next of `arguments`, in a cycle, as replays of a graph of `run`, or as calls.

        A replay is queued while the device sleeps, for so long that it does not wait for the host. A call finds an idle
        device, so that the host's time to launch counts. With `wait`, calls are timed by the host's clock. Before a
        `cold` run the cache is filled with other data; before one that is not, the same run fills it. Raises
        RuntimeError where no sleep is long enough: `run` waits for the device.
        """
        following, static, cycles = itertools.cycle(arguments), (), _SLEEP_CYCLES
        if graph:
            static = tuple(argument.clone() for argument in arguments[0])
            replay = capture(functools.partial(run, *static))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def sample() -> float:
            nonlocal cycles
            own = next(following)
            once = replay if graph else functools.partial(run, *own)
            while True:
                for place, argument in zip(static, own):
                    place.copy_(argument)
                if cold:
                    self._other.sum()  # read: what a fill writes is still to be written back during the run
                else:
                    once()
                if graph:
                    torch.cuda._sleep(cycles)
                else:
                    torch.cuda.synchronize(self.device)
                if wait is not None:
                    return host_sampler(once, wait)()
                start.record()
                once()
                end.record()
                launched_in_time = not start.query()
                end.synchronize()
                if launched_in_time or not graph:
                    return start.elapsed_time(end) / 1e3
                if cycles >= _MOST_CYCLES:
                    raise RuntimeError(f"a graph was not launched within {cycles} cycles of the device")
                cycles *= 2

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
def cudnn_plans(*, tried: bool) -> Iterator[None]:
    """Whether cuDNN tries its plans for a convolution, and takes the fastest, or takes the one that it expects to be.

    It tries as many as PyTorch has it try by default, the ten most promising: all would take long (bench/NOTES.md).
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, tried
    try:
        yield
    finally:
        cudnn.benchmark = before
