"""What `make bench` and `make gpu-bench` measure, in the order of importance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    EAGER_CELL_FORMATS,
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
    NCHW,
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


@dataclass(frozen=True)
class Section:
    """What is measured together: `--section` chooses by name."""

    name: str
    items: Sequence[Point | Part]
    seconds: float = math.inf
    """That it may take. What there is no time for is dropped."""


def _single_steps(cases: dict[str, Case], seconds: float = math.inf) -> Section:
    """Steps in a loop, as calls from Python, which is how they are used."""

    def providers(case: Case) -> list[Provider]:
        if case.is_of_vectors:
            eager = [EAGER_CELL_FORMATS[0], EAGER_STEP_FORMATS[0]]
            return [OURS_STEP, *eager, OURS_STEP_WITHOUT_PEEPHOLE, LSTM_CELL]
        return [OURS_STEP, *EAGER_CELL_FORMATS, *EAGER_STEP_FORMATS]

    points = [
        Point(SINGLE_STEPS, name, case, torch.float32, providers(case), graph=False) for name, case in cases.items()
    ]
    return Section(SINGLE_STEPS, points, seconds)


def on_cpu(
    cases: dict[str, Case] = SMALL, steps: dict[str, Case] = STEPS, *, max_autotune: bool = False
) -> list[Section]:
    """The small variants of the cases against every baseline that runs on a CPU, in float32."""
    compilers = [OURS_COMPILED, COMPILED, *([MAX_AUTOTUNE] if max_autotune else [])]
    foreign = [FLAX, KERAS]
    if any(each.why_absent(torch.device("cpu")) is None for each in foreign):
        foreign = [OURS_WITHOUT_PEEPHOLE, *foreign]
    providers = [OURS, *FLOORS, *EAGER_FORMATS, RECOMPUTE, HOISTED, NCHW, *compilers, *foreign]
    long = [OURS, RECOMPUTE, *EAGER_FORMATS, *compilers]
    points = [Point("baselines", name, case, torch.float32, providers) for name, case in cases.items()]
    growing = [
        Point("steps", LONG, cases[LONG].but(steps=count), torch.float32, long, modes=["training"])
        for count in (4, 8, 16, 32)
        if LONG in cases
    ]
    return [Section("baselines", points), Section("steps", growing), _single_steps(steps)]


def on_gpu(cases: dict[str, Case] = CASES, steps: dict[str, Case] = STEPS) -> list[Section]:
    """Everything worth measuring, in bfloat16 first, cuDNN's rates before all. What there is no time for comes last.

    The seconds of the sections were not measured.
    """
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

    def compiled(chosen: dict[str, Case]) -> list[Point]:
        return each("compiled", chosen, *both, COMPILED, COMPILED_FUSED_CELL)

    def autotuned(chosen: dict[str, Case]) -> list[Point]:
        return each("max-autotune", chosen, *both, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL)

    of_steps = [
        {name: case.but(steps=round(factor * case.steps))} for name, case in quick.items() for factor in (0.5, 1, 2, 4)
    ]
    growing = [point for case in of_steps for point in each("steps", case, OURS, CONV_FLOOR, EAGER, RECOMPUTE)]
    # JAX has no graphs to capture: both sides are timed as calls.
    jax = each("JAX", {**quick, **slow}, OURS_WITHOUT_PEEPHOLE, CONV_FLOOR, FLAX, KERAS, graph=False)
    of_float32 = [OURS, CONV_FLOOR, *EAGER_FORMATS, RECOMPUTE]
    rates = [part for named in {**main, **rest}.items() for part in parts.convolutions(*named)]
    return [
        Section("convolutions", rates, 120),
        Section("baselines", each("baselines", main, *full), 120),
        Section("gates", [part for named in main.items() for part in parts.gates(*named)], 40),
        Section("compiled", compiled(quick), 120),
        Section("max-autotune", autotuned(quick), 120),
        Section("steps", growing, 60),
        Section("JAX", jax, 90),
        Section("compiled, large cases", compiled(slow), 240),
        Section("baselines, other cases", each("baselines", rest, *full), 90),
        Section("calls", each("calls", main, OURS, EAGER, graph=False), 30),
        _single_steps(steps, 60),
        Section("max-autotune, large cases", autotuned(slow), 240),
        Section("float16", each("baselines", main, OURS, CONV_FLOOR, EAGER, dtype=torch.float16), 60),
        Section("float32", each("baselines", main, *of_float32, dtype=torch.float32), 90),
    ]


def chosen(sections: Sequence[Section], names: Sequence[str] | None, *, compilers: bool = True) -> list[Section]:
    """Those with these names, or all; without `compilers`, without the providers that compile.

    Raises ValueError for a name that none has.
    """
    if unknown := set(names or ()).difference(section.name for section in sections):
        known = ", ".join(section.name for section in sections)
        raise ValueError(f"section: expected some of {known}, got {', '.join(sorted(unknown))}")

    def kept(item: Point | Part) -> Point | Part:
        if compilers or isinstance(item, Part):
            return item
        return replace(item, providers=[each for each in item.providers if each not in COMPILERS])

    return [
        replace(section, items=[kept(item) for item in section.items])
        for section in sections
        if names is None or section.name in names
    ]
