"""How long a layer takes on a GPU at least, and which of the GPU's limits holds: python -m bench.roofline [case …]

A model of an H100, not a measurement. A launch takes as long as the slowest of four: its FLOPs by cuDNN, its
instructions at the rate at which the multiprocessors issue them, its bytes through the L2 cache, and those that come
from DRAM. What it takes to start a launch is not in the model: see the number of launches.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from tritonlstm.core import output
from tritonlstm.launch.config import find_config
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.launches import DTYPES, Launch
from tritonlstm.tuning.occupancy import limits

from . import codegen, parts, report, rows
from .work import MODES, Layer, Mode, Work, layers, works

Rates = Mapping[str, float]
"""cuDNN's FLOP/s by the name of the work."""

TFLOPS = (444.0, 798.0)
"""cuDNN's rate in half types on an H100 SXM: of a convolution (pytorch/pytorch#174752), and what a large matrix product
reaches. In float32, TF32 has half the peak."""

MEASURED_BY = {
    "convolution": ("forward, into a buffer", "forward"),
    "data_grad": ("dX and dH together",),
    "weight_grad": ("dW, all steps at once",),
}
"""The functions of `parts.convolutions` whose times give the rates; of several the first that was timed."""


@dataclass(frozen=True)
class Gpu:
    """An H100 SXM, by its data sheet: clock in Hz, bytes per second and bytes.

    l2: in the cost model of openxla/xla, where it was measured; not by us.
    """

    arch: str = "sm_90"
    clock: float = 1.755e9
    dram: float = 3.35e12
    l2: float = 6.65e12
    l2_bytes: float = 50e6

    @property
    def issue(self) -> float:
        """Instructions of single threads per second: one of a warp in each cycle of each of four schedulers."""
        limit = limits(self.arch)
        return limit.multiprocessors * 4 * limit.warp_size * self.clock


H100 = Gpu()


def instructions(kernel: str, dtype: str, channels: int, variant: str = "channel", arch: str = "sm_90") -> float:
    """Of a gate kernel for each element of c, by the committed table of generated code.

    Of the numbers of channels there, the most similar one counts: accesses as wide, a power of two or not, then size.
    Variants are there at 64 channels alone; others differ from "channel" by as much.
    """
    table = codegen.load()["kernels"]

    def traits(channels: int) -> tuple[int, bool]:
        return Launch(kernel, dtype, channels).narrowest_access, channels & (channels - 1) == 0

    def difference(other: int) -> tuple[bool, bool, float]:
        (access, power), (its_access, its_power) = traits(channels), traits(other)
        return access != its_access, power != its_power, abs(math.log(other / channels))

    def count(dtype: str, channels: int, variant: str) -> float:
        config = find_config(kernel, arch, DTYPES[dtype].itemsize, channels, user=False)[0].value
        share = config.block / (config.num_warps * limits(arch).warp_size)
        return table[f"{kernel}/{dtype}/C{channels}/{variant}/{arch}"]["instructions"] / share

    found = count(dtype, min(codegen.CHANNELS, key=difference), "channel")
    if variant != "channel":
        like = "fp32" if dtype == "fp32" else "bf16"
        found *= count(like, 64, variant) / count(like, 64, "channel")
    return found


def bounds(layer: Layer, mode: Mode, work: Work, dtype: str, rates: Rates, gpu: Gpu = H100) -> dict[str, float]:
    """The least seconds of a layer's launches of one kind, by what bounds them.

    A launch whose tensors fit in the L2 cache finds them there, but for what the forward pass saved for the backward
    pass: if all of that does not fit, it goes to DRAM and comes back.
    """
    from_dram, issued = 0.0, 0.0
    if work.nbytes / work.launches > gpu.l2_bytes:
        from_dram = work.nbytes
    elif mode.training and work.name in parts.GATES and layer.saved_bytes(mode) > gpu.l2_bytes:
        from_dram = layer.saved_bytes(mode)
    if work.name in parts.GATES:
        special = {"gates_forward": (mode.hoisted, "hoisted"), "gates_backward": (mode.recompute, "recompute")}
        applies, variant = special[work.name]
        each = instructions(work.name, dtype, layer.channels, variant if applies else "channel", gpu.arch)
        issued = each * work.launches * layer.rows * layer.channels
    return {
        "cuDNN": work.flops / rates[work.name] if work.flops else 0.0,
        "issue": issued / gpu.issue,
        "L2": work.nbytes / gpu.l2,
        "DRAM": from_dram / gpu.dram,
    }


def measured(path: Path, names: Iterable[str]) -> dict[str, Rates]:
    """cuDNN's rates for these cases by a file of results, over all layers of each.

    Raises ValueError where the file does not have them.
    """
    timed = report.read(path)
    timed = timed[(timed.run == "convolutions") & (timed.status == rows.OK)]
    seconds = timed.set_index(["case", "sizes", "provider"]).median_ms / 1e3

    def rate(name: str, case: Case, functions: tuple[str, ...]) -> float:
        stack = [case.but(in_channels=in_channels, channels=(channels,)) for in_channels, channels in case.layers]
        for function in functions:
            if all((name, str(layer), function) in seconds.index for layer in stack):
                took = sum(seconds[name, str(layer), function] for layer in stack)
                return sum(map(parts.flops, stack)) / took
        raise ValueError(f"{path}: expected the convolutions of {name}, got no time of '{functions[-1]}'")

    return {
        name: {work: rate(name, CASES[name], functions) for work, functions in MEASURED_BY.items()} for name in names
    }


def table(cases: Iterable[str], dtype: torch.dtype) -> pd.DataFrame:
    """The sums over all launches of all layers, for each case and mode."""
    records = []
    for name in cases:
        stack = layers(CASES[name], dtype)
        for mode in MODES:
            every = [work for layer in stack for work in works(layer, mode)]
            saved = sum(layer.saved_bytes(mode) for layer in stack) if mode.training else 0
            record = {
                "case": name,
                "mode": str(mode),
                "GFLOP": sum(work.flops for work in every) / 1e9,
                "GB moved": sum(work.nbytes for work in every) / 1e9,
                "launches per step and layer": sum(work.launches for work in every) / (CASES[name].steps * len(stack)),
                "GB saved": saved / 1e9,
            }
            records.append(record)
    return pd.DataFrame(records)


def times(cases: Iterable[str], dtype: str, rates: Mapping[str, Callable[[str, Mode], Rates | None]]) -> pd.DataFrame:
    """The least time of each case and mode with cuDNN's rates, by their names, and the share of it that each bound
    takes: of all launches, and of the gate kernels alone. Where there are no rates there is no row."""
    records = []
    for name in cases:
        stack = layers(CASES[name], DTYPES[dtype])
        for mode in MODES:
            for label, of_case in rates.items():
                given = of_case(name, mode)
                if given is None:
                    continue
                every, of_gates = Counter(), Counter()
                for layer in stack:
                    for work in works(layer, mode):
                        seconds = bounds(layer, mode, work, dtype, given)
                        bound = max(seconds, key=seconds.get)
                        every[bound] += seconds[bound]
                        if work.name in parts.GATES:
                            of_gates[bound] += seconds[bound]
                record = {"case": name, "mode": str(mode), "TFLOP/s": label, "ms": 1e3 * every.total()}
                records.append(record | {"bound by": _shares(every), "gates bound by": _shares(of_gates)})
    return pd.DataFrame(records)


def _shares(seconds: Counter) -> str:
    """The largest first."""
    return ", ".join(f"{name} {each / seconds.total():.0%}" for name, each in seconds.most_common())


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def main() -> None:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tflops", type=_positive, nargs="+", help="cuDNN's rates (444 798; half of them with fp32)")
    parser.add_argument(
        "--measured", type=Path, metavar="CSV", help="the rates that gpu-bench measured, in bf16 and concat"
    )
    options = parser.parse_args()
    names, dtype = options.case or list(CASES), options.dtype
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"case: expected some of {', '.join(CASES)}, got {', '.join(unknown)}")
    if options.measured and dtype != "bf16":
        parser.error(f"--measured: expected --dtype bf16, got {dtype}")
    tflops = options.tflops or [each / (2 if dtype == "fp32" else 1) for each in TFLOPS]
    rates = {f"{each:g}": lambda name, mode, each=each: dict.fromkeys(MEASURED_BY, 1e12 * each) for each in tflops}
    if options.measured:
        try:
            of_file = measured(options.measured, names)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        # Of one convolution a step: a hoisted one may be faster.
        rates["measured"] = lambda name, mode: None if mode.hoisted else of_file[name]
    print("a model, not a measurement")
    print(table(names, DTYPES[dtype]).to_string(index=False, float_format="{:.3f}".format))
    print("\nThe least time on an H100 SXM, by cuDNN's rate, without what it takes to start launches:")
    print(times(names, dtype, rates).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
