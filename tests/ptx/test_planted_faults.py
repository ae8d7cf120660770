"""Faults planted in the compiled kernels, as a compiler or a kernel's author might make them: each is found."""

import re
from collections.abc import Callable

import pytest

from tests.support.ptx.fault import Fault, Unsupported
from tests.support.ptx.launch import on_machine
from tritonlstm.launch import pick_config
from tritonlstm.launch.config import use
from tritonlstm.tuning.launches import Launch, bind

FORWARD = Launch("gates_forward", "bf16", 64, "channel", batch=1, height=7, width=3)
BACKWARD = Launch("gates_backward", "bf16", 64, "channel", batch=1, height=7, width=3)
ODD = Launch("gates_forward", "fp32", 17, "full", batch=1, height=7, width=3)
SUMS = Launch("parameter_grads", "bf16", 17, "channel", batch=1, height=7, width=3)


def replaced(pattern: str, by: str, count: int = 0) -> Callable[[str], str]:
    """Every match replaced, or the first `count`; there must be one."""

    def edit(ptx: str) -> str:
        edited, matches = re.subn(pattern, by, ptx, count=count)
        assert matches, f"nothing in the PTX is like {pattern}"
        return edited

    return edit


BARRIER = r"bar\.sync\s+0;"
STORE = r"st\.global\.v4\.b32 \[ %rd\d+"

FAULTS = {
    "loads without masks": (FORWARD, replaced(r"@%p\d+ (ld\.global)", r"\1"), "outside the arguments"),
    "stores without masks": (FORWARD, replaced(r"@%p\d+ (st\.global)", r"\1"), "outside the arguments"),
    "loads without masks, odd channels": (ODD, replaced(r"@%p\d+ (ld\.global)", r"\1"), "outside the arguments"),
    "a store 16 bytes on": (FORWARD, replaced(rf"({STORE}) \+ 0", r"\1 + 16", count=1), "outside|more than once"),
    "a store 2 bytes on": (FORWARD, replaced(rf"({STORE}) \+ 0", r"\1 + 2", count=1), "no multiple"),
    "a load before the tensor": (FORWARD, replaced(r"(ld\.global\.v4\.b32 .*) \+ 0", r"\1 + -16", count=1), "outside"),
    "a store left out": (FORWARD, replaced(rf"@%p\d+ {STORE}[^\n]*", "", count=1), "never written"),
    "a store done twice": (FORWARD, replaced(rf"(@%p\d+ {STORE}[^\n]*)", r"\1 \1", count=1), "more than once"),
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
    "shared memory that is too small": (FORWARD, replaced(r"global_smem;", "4294967040;"), "shared memory"),
}


@pytest.mark.parametrize(("launch", "edit", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_found(launch: Launch, edit: Callable[[str], str], words: str):
    run = bind(launch, "cpu")
    with on_machine():
        run()  # as compiled it is right
    with on_machine(edit=edit), pytest.raises(Fault, match=words):
        run()


@pytest.mark.parametrize("launch", [FORWARD, BACKWARD, SUMS], ids=lambda launch: launch.kernel)
def test_a_kernel_that_is_launched_early_waits_before_its_first_access(launch: Launch):
    with use({launch.kernel: pick_config(launch.kernel, "sm_90", 2, launch.channels)._replace(launch_pdl=True)}):
        run = bind(launch, "cpu")
        with on_machine():
            run()
        with on_machine(edit=replaced(r"griddepcontrol\.wait\s*;", "")), pytest.raises(Fault, match="griddepcontrol"):
            run()


@pytest.mark.parametrize("name", ["ex2.approx.sat.f32", "sin.approx.f32", "add.rz.f32", "call.uni"])
def test_an_unknown_instruction_is_refused_by_name_before_anything_runs(name: str):
    run = bind(FORWARD, "cpu")
    edit = replaced(r"ex2\.approx\.(ftz\.)?f32", name, count=1)
    with on_machine(edit=edit), pytest.raises(Unsupported, match=f"does not know {name}"):
        run()
