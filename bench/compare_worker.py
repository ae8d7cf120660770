"""One version in a process of its own, controlled over its pipes: `python compare_worker.py <tree> <slowdown>`.

In: a JSON line with the points, then one with the number of a point for each run. Out: where the package was imported
from, then the seconds of each run. `slowdown` is the fraction of its own time that each run is extended by in a busy
loop, to test that it is noticed.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tritonlstm
from tritonlstm import ConvLSTM2d
from tritonlstm import kernels as tritonlstm_kernels


def _prepare(point: dict, slowdown: float) -> Callable[[], float]:
    case, device, training = point["case"], point["device"], point["mode"] == "training"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    layer = ConvLSTM2d(case["in_channels"], case["channels"], case["kernel"], device=device, dtype=dtype)
    image = case["steps"], case["batch"], case["height"], case["width"]
    channels = case["in_channels"], case["channels"][-1]
    input, cotangent = (torch.randn(*image, each).movedim(-1, 2).to(device, dtype) for each in channels)
    leaves = list(layer.parameters())

    def run() -> None:
        with torch.set_grad_enabled(training):
            output, _ = layer(input)
        if training:
            torch.autograd.grad(output, leaves, cotangent)
        if device == "cuda":
            torch.cuda.synchronize()

    # On the CPU the process's own time counts: what another process takes of the core does not.
    clock = time.perf_counter if device == "cuda" else time.process_time

    def timed() -> float:
        start = clock()
        run()
        end = clock()
        while clock() < end + slowdown * (end - start):
            pass
        return clock() - start

    for _ in range(2):
        run()
    return timed


def main(tree: Path, slowdown: float) -> None:
    # Whatever libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    for module in (tritonlstm, tritonlstm_kernels):
        if tree not in Path(module.__file__).resolve().parents:
            sys.exit(f"{module.__name__} came from {module.__file__}, not from {tree}")
    points = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    runs = [_prepare(point, slowdown) for point in points]
    print(json.dumps(str(tree)), file=answers)
    for line in sys.stdin:
        print(json.dumps(runs[json.loads(line)]()), file=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), float(sys.argv[2]))
