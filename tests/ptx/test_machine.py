"""Instructions whose meaning is in the machine itself, in programs of a few lines."""

import numpy as np
import pytest
import torch

from tests.support.ptx.machine import Blocks, Machine
from tests.support.ptx.memory import GlobalMemory
from tests.support.ptx.parser import parse

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
    tensors = {f"pairs_param_{index}": tensor for index, tensor in enumerate((a, b, found))}
    program = parse(PAIRS.format(comparison=f"setp.{name}.{type}x2"))
    memory = GlobalMemory(tensors, {"pairs_param_2": False}, program.threads)
    addresses = {parameter: tensor.data_ptr() for parameter, tensor in tensors.items()}
    Machine(program, addresses, memory, 0).run(Blocks(np.zeros((1, 3), int), 0))
    memory.check()
    # A comparison with NaN is false, of "ne" too; an unordered one is true.
    nan = a.isnan() | b.isnan()
    expected = COMPARE[name.removesuffix("u")](a, b)
    expected = expected | nan if name.endswith("u") else expected & ~nan
    assert torch.equal(found.bool(), expected)
