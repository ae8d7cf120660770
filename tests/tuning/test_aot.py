"""Compiling ahead of time, as far as an interpreting process can go; tests/bench/test_codegen.py compiles."""

from tritonlstm import _launch
from tritonlstm.tuning import Config, aot, config
from tritonlstm.tuning.launches import Launch


def test_this_process_interprets():
    assert aot.interprets()


def test_a_compilation_that_fails_is_told_and_leaves_nothing_behind():
    kernel = _launch.gates_forward_kernel
    told = aot._measure((Launch("gates_forward", "bf16", 64), "sm_90", Config(128, 1)))
    assert "Error: " in told
    assert _launch.gates_forward_kernel is kernel
    assert config.pick_config("gates_forward", "sm_90", 2, 64) != Config(128, 1)


def test_a_launch_is_recorded_in_the_configuration_that_is_asked_for():
    with aot._recorded("gates_backward_kernel") as (_, recorder), config.use({"gates_backward": Config(128, 1)}):
        aot.bind(Launch("gates_backward", "fp32", 3, "strided"), "meta")()
    assert (recorder.arguments["BLOCK"], recorder.arguments["num_warps"]) == (128, 1)
    assert (recorder.arguments["C"], recorder.arguments["GRAD_OUTPUT"]) == (3, "strided")


def test_a_target_is_told_by_its_architecture():
    assert (aot.target("sm_100").arch, aot.target("sm_100").warp_size) == (100, 32)
    assert (aot.target("gfx942").backend, aot.target("gfx942").warp_size) == ("hip", 64)
