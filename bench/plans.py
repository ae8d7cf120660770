"""What `make bench` and `make gpu-bench` measure, in the order of importance."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tritonlstm.tuning.cases import CASES, SMALL, STEPS, Case

from . import parts
from .flow import Point
from .parts import Part
from .providers import (
    COMPILED,
    COMPILED_FUSED_CELL,
    COMPILERS,
    CONV_FLOOR,
    EAGER,
    EAGER_FORMATS,
    EAGER_STEP_FORMATS,
    FLAX,
    FLOORS,
    FUSED_CELL,
    HOISTED,
    KERAS,
    LSTM_CELL,
    MAX_AUTOTUNE,
    MAX_AUTOTUNE_FUSED_CELL,
    OURS,
    OURS_COMPILED,
    OURS_STEP,
    OURS_STEP_WITHOUT_PEEPHOLE,
    OURS_WITHOUT_PEEPHOLE,
    RECOMPUTE,
    VARIANTS,
)
from .providers.protocol import Provider
from .rows import SINGLE_STEPS

LONG = "odd"
"""The case that runs over more and more steps on a CPU. Over 32 steps of "latency" the peepholes' gradient is
ill-conditioned: with one seed plain float32 was 60 times as far from float64 as with another."""

MAIN = ("paper", "openstl", "nowcast", "latency")
"""The most important cases on a GPU; the others come after them."""

QUICK = ("nowcast", "latency")
"""Those of MAIN that compile fastest, since the compiler unrolls steps and layers."""


def single_steps(cases: dict[str, Case]) -> list[Point]:
    """Steps in a loop, as calls from Python, which is how they are used."""

    def providers(case: Case) -> list[Provider]:
        if case.is_of_vectors:
            return [OURS_STEP, EAGER_STEP_FORMATS[0], OURS_STEP_WITHOUT_PEEPHOLE, LSTM_CELL]
        return [OURS_STEP, *EAGER_STEP_FORMATS]

    return [
        Point(SINGLE_STEPS, name, case, torch.float32, providers(case), graph=False) for name, case in cases.items()
    ]


def on_cpu(
    cases: dict[str, Case] = SMALL, steps: dict[str, Case] = STEPS, *, max_autotune: bool = False
) -> list[Point]:
    """The small variants of the cases against every baseline that runs on a CPU, in float32."""
    compilers = [OURS_COMPILED, COMPILED, *([MAX_AUTOTUNE] if max_autotune else [])]
    foreign = [FLAX, KERAS]
    if any(each.why_absent(torch.device("cpu")) is None for each in foreign):
        foreign = [OURS_WITHOUT_PEEPHOLE, *foreign]
    providers = [OURS, *FLOORS, *EAGER_FORMATS, RECOMPUTE, HOISTED, *compilers, *foreign]
    long = [OURS, RECOMPUTE, *EAGER_FORMATS, *compilers]
    points = [Point("baselines", name, case, torch.float32, providers) for name, case in cases.items()]
    growing = [
        Point("steps", LONG, cases[LONG].but(steps=count), torch.float32, long, modes=["training"])
        for count in (4, 8, 16, 32)
        if LONG in cases
    ]
    return [*points, *growing, *single_steps(steps)]


def on_gpu(
    cases: dict[str, Case] = CASES, steps: dict[str, Case] = STEPS, cold_bytes: int = parts.COLD_BYTES
) -> list[Point | Part]:
    """Everything worth measuring, in bfloat16 first. What there is no time for comes last."""
    main = {name: cases[name] for name in MAIN if name in cases}
    rest = {name: case for name, case in cases.items() if name not in main}
    quick = {name: case for name, case in main.items() if name in QUICK}
    slow = {name: case for name, case in main.items() if name not in QUICK}
    full = [OURS, CONV_FLOOR, EAGER, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS]
    both = [OURS, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR]

    def each(
        run: str, chosen: dict[str, Case], *providers: Provider, dtype: torch.dtype = torch.bfloat16, graph: bool = True
    ) -> list[Point]:
        return [Point(run, name, case, dtype, providers, graph) for name, case in chosen.items()]

    of_steps = [
        {name: case.but(steps=round(factor * case.steps))} for name, case in quick.items() for factor in (0.5, 1, 2, 4)
    ]
    return [
        *each("baselines", main, *full),
        *(part for name, case in main.items() for part in parts.gates(name, case, cold_bytes)),
        *(part for name, case in main.items() for part in parts.convolutions(name, case)),
        *each("compiled", quick, *both, COMPILED, COMPILED_FUSED_CELL),
        *each("max-autotune", quick, *both, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *(point for case in of_steps for point in each("steps", case, OURS, CONV_FLOOR, EAGER, RECOMPUTE)),
        # JAX has no graphs to capture: both sides are timed as calls.
        *each("JAX", {**quick, **slow}, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR, FLAX, KERAS, graph=False),
        *each("compiled", slow, *both, COMPILED, COMPILED_FUSED_CELL),
        *each("baselines", rest, *full),
        *each("calls", main, OURS, EAGER, graph=False),
        *single_steps(steps),
        *each("max-autotune", slow, *both, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL),
        *each("baselines", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float16),
        *each("baselines", main, OURS, CONV_FLOOR, *EAGER_FORMATS, RECOMPUTE, dtype=torch.float32),
    ]


def without_compilers(work: Sequence[Point | Part]) -> list[Point | Part]:
    return [
        replace(item, providers=[each for each in item.providers if each not in COMPILERS])
        if isinstance(item, Point)
        else item
        for item in work
    ]
