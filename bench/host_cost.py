"""What a launch of the gate kernels costs the host: all but the driver's own launch, without a GPU.

python -m bench.host_cost

A driver that launches nothing stands in for CUDA's. The times are the host's alone, and this machine's.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tritonlstm.core import output
from tritonlstm.launch import launcher
from tritonlstm.tuning import aot
from tritonlstm.tuning.launches import Launch, bind

CALLS, ROUNDS = 2000, 7

LAUNCHES = {
    "forward": Launch("gates_forward", "bf16", 64),
    "backward": Launch("gates_backward", "bf16", 64),
    "backward, recompute": Launch("gates_backward", "bf16", 64, "recompute"),
    "parameter gradients": Launch("parameter_grads", "bf16", 64),
}


@dataclass
class Launched:
    """One launch as it reached the driver: the kernel's name and number, the grid, the stream, and all arguments in
    their order, tensors as addresses."""

    name: str
    function: int
    grid: tuple[int, int, int]
    stream: int
    arguments: tuple


@dataclass
class FakeDriver:
    """Stands in for Triton's driver of one GPU, or several. `launched` has what was launched, unless `keeps` is off."""

    target: GPUTarget = field(default_factory=lambda: GPUTarget("cuda", 90, 32))
    device: int = 0
    stream: int = 0
    keeps: bool = True
    loaded: int = 0
    launched: list[Launched] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.utils = self

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 1000 * device + self.stream

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**18, "max_num_regs": 2**16, "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple:
        self.loaded += 1
        return self.loaded, self.loaded, 64, 0, 1024

    def unload_module(self, *arguments: object) -> None:
        """Nothing was loaded."""

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
            if not self.keeps:
                return
            if launch_metadata is not None:
                enter(launch_metadata)
            addresses = (each.data_ptr() if isinstance(each, torch.Tensor) else each for each in arguments)
            self.launched.append(Launched(metadata.name, function, (x, y, z), stream, tuple(addresses)))
            if launch_metadata is not None:
                leave(launch_metadata)

        return launch


@contextmanager
def fake_driver(**settings: object) -> Iterator[FakeDriver]:
    """Within it, Triton compiles for a GPU that is not there, and launches nothing."""
    fake, before = FakeDriver(**settings), driver._active
    driver.set_active(fake)
    try:
        yield fake
    finally:
        driver._active = before


@contextmanager
def through_triton() -> Iterator[None]:
    """Within it, every launch goes through Triton's own launcher."""
    before = launcher.VERSIONS
    launcher.VERSIONS = ()
    try:
        yield
    finally:
        launcher.VERSIONS = before


def microseconds(run: Callable[[], object]) -> float:
    """The median over rounds of a call's time in the fastest of many."""
    run()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            run()
        rounds.append((time.perf_counter() - start) / CALLS)
    return 1e6 * statistics.median(rounds)


def measure(launch: Launch) -> dict[str, float]:
    """Microseconds of a launch, from the step's tensors to the driver."""
    with fake_driver(keeps=False):
        with through_triton():
            by_triton = microseconds(bind(launch, "cpu"))
        return {"Triton's launcher": by_triton, "ours": microseconds(bind(launch, "cpu"))}


def main() -> int:
    output.make_robust()
    if aot.interprets():
        print("host_cost: TRITON_INTERPRET is set: Triton interprets the kernels, and launches none", file=sys.stderr)
        return 2
    print("Host time of a launch without the driver's own, in microseconds")
    for name, launch in LAUNCHES.items():
        print(f"{name:20}", ", ".join(f"{who} {cost:.2f}" for who, cost in measure(launch).items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
