"""Faults planted in the compiled kernels, as a compiler or a kernel's author might make them: each is found."""

import re
from collections.abc import Callable

import pytest
import torch

from tests.support.activations import apply_kernel
from tests.support.problems import MASKS, MODES, Problem, Shape, by_operator, by_reference, growing_budgets
from tests.support.ptx.fault import Fault, Unsupported
from tests.support.ptx.launch import Device, Kernel, on_machine
from tests.support.tolerances import assert_all_within
from tritonlstm.launch import pick_config
from tritonlstm.launch.config import use
from tritonlstm.tuning.launches import Launch, bind

FORWARD = Launch("gates_forward", "bf16", 64, "channel", batch=1, height=7, width=3)
BACKWARD = Launch("gates_backward", "bf16", 64, "channel", batch=1, height=7, width=3)
ODD = Launch("gates_forward", "fp32", 17, "full", batch=1, height=7, width=3)
SUMS = Launch("parameter_grads", "bf16", 17, "channel", batch=1, height=7, width=3)
SUMS_OF_BIAS = Launch("parameter_grads", "bf16", 17, "none", batch=1, height=7, width=3)

SMALL = Shape(steps=2, in_channels=2, channels=3, spatial=(5, 3), kernel=(3, 3), peephole="full")
"""As in test_layers.py, for whose kernels are compiled."""


def replaced(pattern: str, by: str, count: int = 0) -> Callable[[str], str]:
    """Every match replaced, or the first `count`; there must be one."""

    def edit(ptx: str) -> str:
        edited, matches = re.subn(pattern, by, ptx, count=count)
        assert matches, f"nothing in the PTX is like {pattern}"
        return edited

    return edit


def edited_accesses(pointer: int, pattern: str, by: str, number: int | None = None) -> Callable[[str], str]:
    """The pattern replaced in all accesses to what one of the kernel's pointers reaches, or in one of its loads and one
    of its stores; there must be some."""

    def edit(ptx: str) -> str:
        lines, reached, loads, stores = ptx.split("\n"), set(), [], []
        for place, line in enumerate(lines):
            target, *sources = re.findall(r"%rd\d+", line) or [None]
            if access := re.search(r"\b(ld|st)\.global", line):
                if target in reached:
                    (loads if access[1] == "ld" else stores).append(place)
            elif f"_param_{pointer}]" in line or reached.intersection(sources):
                reached.add(target)
        chosen = [*loads, *stores] if number is None else [loads[number], stores[number]]
        assert chosen, f"nothing is accessed by parameter {pointer}"
        for place in chosen:
            lines[place], matches = re.subn(pattern, by, lines[place])
            assert matches, f"nothing in {lines[place]} is like {pattern}"
        return "\n".join(lines)

    return edit


def before_shared_memory(opcode: str) -> Callable[[str], str]:
    """Every such access 16 bytes before where it was; Triton's versions write an offset of 0 or none."""
    return replaced(rf"({opcode}\.shared.*\[\s*%r\d+)(?:\s*\+ 0)?\s*\]", r"\1+-16]")


BARRIER = r"bar\.sync\s+0;"
OUTSIDE = r"outside \w+_ptr"
ZERO = r"mov\.u(?:16 %rs\d+, %rs|32 %r\d+, %r)\d+;\n"
STORE = r"st\.global\.v4\.b32 \[ %rd\d+"

FAULTS = {
    "loads without masks": (FORWARD, replaced(r"@%p\d+ (ld\.global)", r"\1"), OUTSIDE),
    "stores without masks": (FORWARD, replaced(r"@%p\d+ (st\.global)", r"\1"), OUTSIDE),
    "loads without masks, odd channels": (ODD, replaced(r"@%p\d+ (ld\.global)", r"\1"), OUTSIDE),
    "a store 16 bytes on": (FORWARD, replaced(rf"({STORE}) \+ 0", r"\1 + 16", count=1), "outside|more than once"),
    "a store 2 bytes on": (FORWARD, replaced(rf"({STORE}) \+ 0", r"\1 + 2", count=1), "no multiple"),
    "a load before the tensor": (FORWARD, replaced(r"(ld\.global\.v4\.b32 .*) \+ 0", r"\1 + -16", count=1), "outside"),
    "a store left out": (FORWARD, replaced(rf"@%p\d+ {STORE}[^\n]*", "", count=1), "never written"),
    "a store done twice": (FORWARD, replaced(rf"(@%p\d+ {STORE}[^\n]*)", r"\1 \1", count=1), "more than once"),
    "an output that is read": (
        FORWARD,
        replaced(
            r"(@%p\d+) st(\.global\.v4\.b32) (\[ %rd\d+ \+ 0 \])", r"\1 ld.global.b32 %r1, \3; \1 st\2 \3", count=1
        ),
        "load of 4 bytes outside",
    ),
    "a mask that is negated": (FORWARD, replaced(rf"@(%p\d+ {STORE})", r"@!\1", count=1), "outside|never written"),
    "no barriers forward": (FORWARD, replaced(BARRIER, ""), "race"),
    "no barriers backward": (BACKWARD, replaced(BARRIER, ""), "race"),
    "no barriers in a reduction": (SUMS, replaced(BARRIER, ""), "race"),
    "a barrier for some threads": (FORWARD, replaced(BARRIER, "@%p1 bar.sync 0;", count=1), "barrier that not all"),
    "blocks that overlap": (
        FORWARD,
        replaced(r"(mul\.wide\.u32\s+%rd\d+, %r\d+), 1024;", r"\1, 512;"),
        "outside|race|once",
    ),
    "two splits with the same sums": (SUMS, replaced(r"%ctaid\.y", "0"), "race|more than once"),
    "a register that nothing writes": (FORWARD, replaced(r"mov\.u32\s+%r\d+, %tid\.x;", ""), "read before"),
    "loads without masks that end in another argument": (SUMS, edited_accesses(1, r"@%p\d+", ""), "outside c_prev_ptr"),
    "a gradient that is neither read nor written": (
        BACKWARD,
        edited_accesses(5, ".+", ""),
        "grad_c_ptr.*never written",
    ),
    "the first sum left out": (SUMS, edited_accesses(3, ".+", "", number=0), "sums_ptr.*never written"),
    "the last sum left out": (SUMS, edited_accesses(3, ".+", "", number=6), "sums_ptr.*never written"),
    "a sum in the row of one that is not wanted": (
        SUMS_OF_BIAS,
        edited_accesses(3, r"\+ 0 \]", "+ 68 ]", number=3),
        "outside sums_ptr",
    ),
    "a load without the zeros of what is masked": (SUMS, replaced(rf"{ZERO}(?=\s*@%p\d+ ld)", "", 1), "no value"),
    "loads without zeros behind the last row": (
        FORWARD,
        replaced(rf"{ZERO}(?=(\s*{ZERO})*\s*@%p\d+ ld)", ""),
        "no value",
    ),
    "stores before shared memory": (FORWARD, before_shared_memory("st"), "outside the .* shared"),
    "a load before shared memory": (FORWARD, before_shared_memory("ld"), "outside the .* shared"),
    "shared memory that is too small": (FORWARD, replaced(r"global_smem;", "4294967040;"), "shared memory"),
}


@pytest.mark.parametrize(("launch", "edit", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_found(launch: Launch, edit: Callable[[str], str], words: str):
    run = bind(launch, "cpu")
    with on_machine():
        run()  # as compiled it is right
    with on_machine(edit=edit), pytest.raises(Fault, match=words):
        run()


@pytest.mark.parametrize("pointer", [10, 11], ids=["grad_reset_h_ptr", "grad_reset_c_ptr"])
def test_sums_of_the_reset_states_gradients_are_written_for_each_sample_that_is_reset(pointer: int):
    problem = Problem.random(SMALL.but(steps=4, batch=3, masks=MASKS), torch.float32, 0)
    leave_out = edited_accesses(pointer, ".+", "")

    def edit(ptx: str) -> str:
        return leave_out(ptx) if "gates_backward_kernel" in ptx else ptx

    with on_machine(edit=edit), pytest.raises(Fault, match=r"grad_reset_._ptr.*never written"):
        problem.solve(by_operator(backend="triton"))


def test_a_pointer_that_is_taken_for_one_beside_it_shows_in_the_values():
    """Both reach the same cells but for the first and the last step's: no access is wrong."""

    def draw(seed: int) -> Problem:
        return Problem.random(SMALL, torch.float16, seed)

    def edit(ptx: str) -> str:
        return ptx.replace("[parameter_grads_kernel_param_1]", "[parameter_grads_kernel_param_2]")

    problem = draw(0)
    with on_machine(edit=edit):
        got = problem.solve(by_operator(backend="triton", **MODES["hoisted, recompute"]))
    oracle = problem.to(torch.float64).solve(by_reference)
    with pytest.raises(AssertionError, match="grad of peephole"):
        assert_all_within(got, oracle, growing_budgets(draw, torch.float16))


@pytest.mark.parametrize("launch", [FORWARD, BACKWARD, SUMS], ids=lambda launch: launch.kernel)
def test_a_kernel_that_is_launched_early_waits_before_its_first_access(launch: Launch):
    with use({launch.kernel: pick_config(launch.kernel, "sm_90", 2, launch.channels)._replace(launch_pdl=True)}):
        run = bind(launch, "cpu")
        with on_machine():
            run()
        with on_machine(edit=replaced(r"griddepcontrol\.wait\s*;", "")), pytest.raises(Fault, match="griddepcontrol"):
            run()


def test_a_grid_is_no_larger_than_a_gpu_allows():
    kernel, x = Kernel(apply_kernel, Device()), torch.zeros(1024)
    with pytest.raises(Fault, match="a grid of"):
        kernel[1, 2**16](x, torch.zeros_like(x), FUNCTION="tanh", BLOCK=1024, num_warps=4)


@pytest.mark.parametrize("name", ["ex2.approx.sat.f32", "sin.approx.f32", "add.rz.f32", "call.uni"])
def test_an_unknown_instruction_is_refused_by_name_before_anything_runs(name: str):
    run = bind(FORWARD, "cpu")
    edit = replaced(r"ex2\.approx\.(ftz\.)?f32", name, count=1)
    with on_machine(edit=edit), pytest.raises(Unsupported, match=f"does not know {name}"):
        run()
