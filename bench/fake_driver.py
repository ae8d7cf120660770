"""A driver for Triton of a GPU that is not there: kernels are compiled for it, and launched without effect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tritonlstm.launch import launcher


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
    launcher.forget()  # what was launched by another driver
    try:
        yield fake
    finally:
        driver._active = before
        launcher.forget()


@contextmanager
def through_triton() -> Iterator[None]:
    """Within it, every launch that is new goes through Triton's own launcher."""
    before = launcher.VERSIONS
    launcher.VERSIONS = ()
    try:
        yield
    finally:
        launcher.VERSIONS = before
