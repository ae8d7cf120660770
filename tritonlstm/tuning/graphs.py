"""A function's launches as a CUDA graph, so that its time is the device's and not Python's."""

from collections.abc import Callable
from typing import Any

import torch

_WARMUPS = 3


def capture(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A function that replays what `run` launches on the current device, and the results, to which it writes.

    Whatever `run` raises is raised, and the process can go on with other work.
    """
    before = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(before)
    with torch.cuda.stream(side):
        for _ in range(_WARMUPS):  # compiles, and lets cuDNN choose
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
    return graph.replay, results
