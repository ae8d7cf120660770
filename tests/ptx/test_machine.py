"""Instructions whose meaning is in the machine itself, in programs of a few lines."""

import numpy as np
import pytest
import torch

from tests.support.ptx.fault import Fault
from tests.support.ptx.machine import Blocks, Machine
from tests.support.ptx.memory import GlobalMemory
from tests.support.ptx.parser import parse


def run(ptx: str, *tensors: torch.Tensor, shared_bytes: int = 0) -> None:
    """Run a program in one block on its parameters, of which the last is written."""
    program = parse(ptx)
    given = dict(zip(program.parameters, tensors, strict=True))
    memory = GlobalMemory(given, {program.parameters[-1]: [tensors[-1]]}, program.threads)
    Machine(program, memory.addresses, memory, shared_bytes).run(Blocks(np.zeros((1, 3), int), 0))
    memory.check()


PAIRS = """
.visible .entry pairs(
	.param .u64 pairs_param_0, .param .u64 pairs_param_1, .param .u64 pairs_param_2
)
.reqntid 32
{{
	.reg .pred %p<3>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<8>;
	ld.param.b64 %rd1, [pairs_param_0];
	ld.param.b64 %rd2, [pairs_param_1];
	ld.param.b64 %rd3, [pairs_param_2];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd4, %r1, 4;
	add.s64 %rd5, %rd1, %rd4;
	add.s64 %rd6, %rd2, %rd4;
	add.s64 %rd7, %rd3, %rd4;
	ld.global.b32 %r2, [%rd5];
	ld.global.b32 %r3, [%rd6];
	{comparison} %p1|%p2, %r2, %r3;
	selp.b32 %r4, 1, 0, %p1;
	selp.b32 %r5, 65536, 0, %p2;
	or.b32 %r6, %r4, %r5;
	st.global.b32 [%rd7], %r6;
	ret;

}}
"""

COMPARE = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge}


@pytest.mark.parametrize(("type", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("name", [*COMPARE, *(f"{name}u" for name in COMPARE)])
def test_two_halves_are_compared_at_once_the_lower_for_the_first_predicate(name: str, type: str, dtype: torch.dtype):
    values = torch.tensor([0.0, -0.0, 1.0, -2.0, torch.inf, torch.nan, 1.5, -torch.inf])
    a, b = (part.flatten().to(dtype) for part in torch.meshgrid(values, values, indexing="ij"))
    found = torch.zeros(len(a), dtype=torch.int16)
    run(PAIRS.format(comparison=f"setp.{name}.{type}x2"), a, b, found)
    # A comparison with NaN is false, of "ne" too; an unordered one is true.
    nan = a.isnan() | b.isnan()
    expected = COMPARE[name.removesuffix("u")](a, b)
    expected = expected | nan if name.endswith("u") else expected & ~nan
    assert torch.equal(found.bool(), expected)


MATRICES = """
.visible .entry matrices(
	.param .u64 matrices_param_0, .param .u64 matrices_param_1
)
.reqntid 64
{
	.reg .b32 %r<16>;
	.reg .b64 %rd<8>;
	ld.param.b64 %rd1, [matrices_param_0];
	ld.param.b64 %rd2, [matrices_param_1];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd3, %r1, 16;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd4];
	shl.b32 %r6, %r1, 4;
	stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r6], {%r2, %r3, %r4, %r5};
	bar.sync 0;
	ld.shared::cta.v4.b32 {%r7, %r8, %r9, %r10}, [%r6];
	ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%r11, %r12, %r13, %r14}, [%r6];
	st.global.v4.b32 [%rd5], {%r7, %r8, %r9, %r10};
	ret;

}
"""


def run_matrices(ptx: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What each of 64 threads loads in four words, and what it reads of shared memory after stmatrix."""
    given = torch.arange(256, dtype=torch.int32).view(2, 32, 4)
    found = torch.zeros_like(given)
    run(ptx, given, found, shared_bytes=1024)
    return given, found


def test_stmatrix_spreads_each_lanes_neighbours_over_the_rows_of_four_matrices():
    """Row r of matrix i lies where lane 8i + r says, here in the order of the lanes; its words are those of lanes 4r to
    4r + 3 in register i."""
    given, found = run_matrices(MATRICES)
    expected = given.view(2, 8, 4, 4).permute(0, 3, 1, 2).reshape(2, 32, 4)
    assert torch.equal(found, expected)


MATRICES_LOADED = MATRICES.replace("{%r7, %r8, %r9, %r10};\n\tret", "{%r11, %r12, %r13, %r14};\n\tret")


@pytest.mark.parametrize("ptx", [MATRICES_LOADED, MATRICES_LOADED.replace(".x4.", ".x4.trans.")])
def test_ldmatrix_undoes_stmatrix(ptx: str):
    given, found = run_matrices(ptx)
    assert torch.equal(found, given)


def test_ldmatrix_transposes_each_matrix():
    given, found = run_matrices(
        MATRICES_LOADED.replace("ldmatrix.sync.aligned.m8n8.x4.", "ldmatrix.sync.aligned.m8n8.x4.trans.")
    )

    def matrices(words: torch.Tensor) -> torch.Tensor:
        """The halves (warp, matrix, row, column) of each lane's words."""
        return words.view(torch.int16).view(2, 8, 4, 4, 2).permute(0, 3, 1, 2, 4).reshape(2, 4, 8, 8)

    assert torch.equal(matrices(found), matrices(given).mT)


def test_stmatrix_transposes_each_matrix():
    given, found = run_matrices(
        MATRICES.replace("stmatrix.sync.aligned.m8n8.x4.", "stmatrix.sync.aligned.m8n8.x4.trans.")
    )
    halves = given.view(torch.int16).view(2, 8, 4, 4, 2)  # warp, column, pair of rows, matrix, row of the pair
    expected = halves.permute(0, 3, 2, 4, 1).reshape(2, 32, 8)  # row 8i + r of all matrices, its eight columns
    assert torch.equal(found.view(torch.int16), expected)


@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_two_matrices_take_their_rows_from_the_first_sixteen_lanes(transposed: str):
    """What the others hold as an address is no matter."""
    ptx = MATRICES_LOADED.replace(".x4.", f".x2{transposed}.").replace(
        "{%r2, %r3, %r4, %r5};\n\tbar", "{%r2, %r3};\n\tbar"
    )
    ptx = ptx.replace("{%r11, %r12, %r13, %r14}, [%r6]", "{%r11, %r12}, [%r6]")
    ptx = ptx.replace("shl.b32 %r6, %r1, 4;", ODD_ADDRESSES).replace(
        "{%r11, %r12, %r13, %r14};", "{%r11, %r12, %r11, %r12};"
    )
    ptx = ptx.replace("\tld.shared::cta.v4.b32 {%r7, %r8, %r9, %r10}, [%r6];\n", "")
    given, found = run_matrices(ptx)
    assert torch.equal(found[..., :2], given[..., :2])


ODD_ADDRESSES = """
	shl.b32 %r6, %r1, 4;
	and.b32 %r15, %r1, 16;
	add.s32 %r6, %r6, %r15;
	shr.u32 %r15, %r15, 4;
	add.s32 %r6, %r6, %r15;
"""
"""Lane l's, 16·l, but from the sixteenth lane on no multiple of 16."""


def test_a_matrix_that_is_read_with_no_barrier_behind_its_store_is_a_race():
    with pytest.raises(Fault, match="race"):
        run_matrices(MATRICES.replace("bar.sync 0;", ""))


HALF_LOADED = """
.visible .entry half(
	.param .u64 half_param_0, .param .u64 half_param_1
)
.reqntid 32
{{
	.reg .pred %p<4>;
	.reg .b16 %rs<2>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<8>;
	ld.param.b64 %rd1, [half_param_0];
	ld.param.b64 %rd2, [half_param_1];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd3, %r1, 4;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	setp.lt.u32 %p1, %r1, 16;
	@%p1 ld.global.b32 %r2, [%rd4];
	{use}
	st.global.b32 [%rd5], %r4;
	ret;

}}
"""
"""Half of the threads have a value in %r2."""

USES = {
    "stored": "mov.b32 %r4, %r2;",
    "computed with": "mul.lo.s32 %r3, %r2, 0; add.s32 %r4, %r3, %r1;",
    "a half of two": "cvt.u16.u32 %rs1, %r2; mov.b32 %r4, {%rs1, %rs1};",
    "an address": "mul.wide.u32 %rd6, %r2, 4; add.s64 %rd6, %rd6, %rd1; ld.global.b32 %r4, [%rd6];",
    "a guard": "setp.eq.s32 %p2, %r2, 0; mov.b32 %r4, 0; @%p2 mov.b32 %r4, 1;",
    "a divisor": "div.u32 %r4, 7, %r2;",
    "of another lane": "shfl.sync.bfly.b32 %r4, %r2, 16, 31, -1;",
    "chosen": "selp.b32 %r4, 7, %r2, %p1;",
    "what chooses": "setp.eq.s32 %p2, %r2, 0; selp.b32 %r4, 7, 8, %p2;",
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_register_is_not_used_in_a_thread_that_never_wrote_it(use: str):
    given, found = torch.ones(32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    ptx = HALF_LOADED.format(use=use)
    with pytest.raises(Fault, match="in 16 threads that have no value"):
        run(ptx, given, found)
    run(ptx.replace("@%p1 ld", "mov.b32 %r2, 1; @%p1 ld"), given, found)


def test_what_a_thread_computes_without_a_value_is_no_fault_where_nothing_takes_it():
    given, found = torch.arange(32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    run(HALF_LOADED.format(use="add.s32 %r3, %r2, 5; selp.b32 %r4, %r3, 9, %p1;"), given, found)
    assert found.tolist() == [*range(5, 21), *[9] * 16]
