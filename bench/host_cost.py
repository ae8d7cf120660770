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


def bind_single_step() -> Callable[[], object]:
    """The gates of one step by their operator, as a loop over single steps calls it."""
    preact, c = torch.empty(8, 16, 16, 256, dtype=torch.bfloat16), torch.empty(8, 16, 16, 64)
    images = preact.movedim(-1, 1), c.movedim(-1, 1)
    bias, peephole = torch.empty(256, dtype=torch.bfloat16), torch.empty(3, 64, 1, 1, dtype=torch.bfloat16)
    return partial(torch.ops.tritonlstm.gates_inference, *images, bias, peephole, Spec(backend="triton").encode())


WORK = {name: partial(bind, launch, "cpu") for name, launch in LAUNCHES.items()} | {"single step": bind_single_step}


def measure(work: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Microseconds of what `work` binds, from the step's tensors to the driver."""
    with fake_driver(keeps=False):
        with through_triton():
            by_triton = microseconds(work())
        launcher.forget()
        return {"Triton's launcher": by_triton, "ours": microseconds(work())}


def main(arguments: list[str]) -> int:
    output.make_robust()
    argparse.ArgumentParser(prog="python -m bench.host_cost", description=__doc__.splitlines()[0]).parse_args(arguments)
    if aot.interprets():
        print("host_cost: TRITON_INTERPRET is set: Triton interprets the kernels, and launches none", file=sys.stderr)
        return 2
    print("Host time of a launch without the driver's own, and of a single step's operator, in microseconds")
    for name, work in WORK.items():
        print(f"{name:20}", ", ".join(f"{who} {cost:.2f}" for who, cost in measure(work).items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
