"""What runs on the device, by the profiler."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def kernels(run: Callable[[], object]) -> Counter:
    """How often each kernel, copy and fill runs on the device."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return Counter(event.name for event in profiler.events() if event.device_type == DeviceType.CUDA)


def is_copy_or_fill(name: str) -> bool:
    """Of memory, by the driver: "Memcpy DtoD (Device -> Device)", or in a graph "memcpy128"."""
    return name.lower().startswith(("memcpy", "memset"))
