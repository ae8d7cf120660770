"""What launches of the gate kernels cost the host: all but the driver's own launch, without a GPU.

python -m bench.host_cost

A driver that launches nothing stands in for CUDA's. The times are the host's alone, and this machine's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from tritonlstm import Spec
from tritonlstm.core import output
from tritonlstm.launch import launcher
from tritonlstm.tuning import aot
from tritonlstm.tuning.launches import Launch, bind

from .fake_driver import fake_driver, through_triton

CALLS, ROUNDS = 2000, 7

LAUNCHES = {
    "forward": Launch("gates_forward", "bf16", 64),
    "backward": Launch("gates_backward", "bf16", 64),
    "backward, recompute": Launch("gates_backward", "bf16", 64, "recompute"),
    "parameter gradients": Launch("parameter_grads", "bf16", 64),
}


def microseconds(run: Callable[[], object], calls: int, rounds: int) -> float:
    """The median over rounds of so many calls, of a call."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        times.append((time.perf_counter() - start) / calls)
    return 1e6 * statistics.median(times)


def single_step(operator: str) -> Callable[[], object]:
    """One of the operators that a loop over single steps calls: of its gates, or of all their gradients."""
    batch, channels, *image = 8, 64, 16, 16

    def images(channels: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(batch, *image, channels, dtype=dtype).movedim(-1, 1)

    preact, c = images(4 * channels, torch.bfloat16), images(channels, torch.float32)
    bias, peephole = (torch.empty(size, dtype=torch.bfloat16) for size in ((4 * channels,), (3, channels, 1, 1)))
    spec, operators = Spec(backend="triton").encode(), torch.ops.tritonlstm
    if operator != "gates_backward":
        return partial(getattr(operators, operator), preact, c, bias, peephole, spec)
    h, c_next, gates = operators.gates_training(preact, c, bias, peephole, spec)
    return partial(operators.gates_backward, h, c_next, c, bias, peephole, c_next, gates, spec, [True] * 4)


WORK = {name: partial(bind, launch, "cpu") for name, launch in LAUNCHES.items()} | {
    "single step, inference": partial(single_step, "gates_inference"),
    "single step, training": partial(single_step, "gates_training"),
    "single step, backward": partial(single_step, "gates_backward"),
}


def measure(work: Callable[[], Callable[[], object]], calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of what `work` binds, from the step's tensors to the driver."""
    with fake_driver(keeps=False):
        with through_triton():
            by_triton = microseconds(work(), calls, rounds)
        launcher.forget()
        return {"Triton's launcher": by_triton, "ours": microseconds(work(), calls, rounds)}


def main(arguments: list[str]) -> int:
    output.make_robust()
    argparse.ArgumentParser(prog="python -m bench.host_cost", description=__doc__.splitlines()[0]).parse_args(arguments)
    if aot.interprets():
        print("host_cost: TRITON_INTERPRET is set: Triton interprets the kernels, and launches none", file=sys.stderr)
        return 2
    print("Host time of a launch without the driver's own, and of a single step's operator, in microseconds")
    for name, work in WORK.items():
        print(f"{name:23}", ", ".join(f"{who} {cost:.2f}" for who, cost in measure(work).items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
