"""What a launch of the gate kernels costs the host: all but the driver's own launch, without a GPU.

python -m bench.host_cost

A driver that launches nothing stands in for CUDA's. The times are the host's alone, and this machine's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from tritonlstm.core import output
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


def measure(launch: Launch) -> dict[str, float]:
    """Microseconds of a launch, from the step's tensors to the driver."""
    with fake_driver(keeps=False):
        with through_triton():
            by_triton = microseconds(bind(launch, "cpu"))
        return {"Triton's launcher": by_triton, "ours": microseconds(bind(launch, "cpu"))}


def main(arguments: list[str]) -> int:
    output.make_robust()
    argparse.ArgumentParser(prog="python -m bench.host_cost", description=__doc__.splitlines()[0]).parse_args(arguments)
    if aot.interprets():
        print("host_cost: TRITON_INTERPRET is set: Triton interprets the kernels, and launches none", file=sys.stderr)
        return 2
    print("Host time of a launch without the driver's own, in microseconds")
    for name, launch in LAUNCHES.items():
        print(f"{name:20}", ", ".join(f"{who} {cost:.2f}" for who, cost in measure(launch).items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
