"""Compiling ahead of time, as far as an interpreting process can go; tests/bench/test_codegen.py compiles."""

import os

from tritonlstm.cells import triton as cell
from tritonlstm.launch import Config, config
from tritonlstm.tuning import aot
from tritonlstm.tuning.launches import Launch


def test_this_process_interprets():
    assert aot.interprets()


def test_a_compilation_that_fails_is_reported_and_leaves_nothing_behind():
    kernel = cell.gates_forward_kernel
    result = aot._measure((Launch("gates_forward", "bf16", 64), "sm_90", Config(128, 1)))
    assert "Error: " in result
    assert cell.gates_forward_kernel is kernel
    assert config.pick_config("gates_forward", "sm_90", 2, 64) != Config(128, 1)


def test_a_launch_is_recorded_in_the_configuration_that_is_asked_for():
    with aot._recorded("gates_backward_kernel") as (_, recorder), config.use({"gates_backward": Config(128, 1)}):
        aot.bind(Launch("gates_backward", "fp32", 3, "strided"), "meta")()
    assert (recorder.arguments["BLOCK"], recorder.arguments["num_warps"]) == (128, 1)
    assert (recorder.arguments["C"], recorder.arguments["GRAD_OUTPUT"]) == (3, "strided")


def test_the_target_of_an_architecture():
    assert (aot.target("sm_100").arch, aot.target("sm_100").warp_size) == (100, 32)
    assert (aot.target("gfx942").backend, aot.target("gfx942").warp_size) == ("hip", 64)


class Fatal(Launch):
    """A launch whose compiler ends its process, as one that crashes does."""

    def __reduce__(self):
        return os._exit, (3,)  # when the process takes it up


def test_a_compiler_that_ends_its_process_takes_no_other_with_it():
    good, count = (Launch("gates_forward", "bf16", 64), "sm_90", Config(128, 1)), []
    fatal = (Fatal("gates_forward", "bf16", 64), "sm_90", Config(128, 1))
    found = aot.measure([good, fatal, good, good, good, good], 1, lambda: count.append(1))
    assert found[1] == "BrokenProcessPool: the compiler ended its process"
    others = [found[0], *found[2:]]
    assert all("Error: " in each or each.registers for each in others) and len(count) == 6
