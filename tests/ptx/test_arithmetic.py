"""Each kind of instruction against Python's exact numbers, or PyTorch's conversions."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from tests.support.ptx.approximate import APPROXIMATIONS
from tests.support.ptx.arithmetic import ARITHMETIC
from tests.support.ptx.fault import Fault
from tests.support.ptx.values import DTYPES, f32_to_bf16


def integers(type: str) -> np.ndarray:
    """The ends of the range, small numbers, and random ones."""
    dtype = DTYPES[type]
    info, generator = np.iinfo(dtype), np.random.default_rng(0)
    edges = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100]
    edges += [-1, -2, -7] if info.min else []
    return np.array([*edges, *generator.integers(info.min, info.max, 30, dtype=dtype)], dtype)


def wrapped(value: int, type: str) -> int:
    info = np.iinfo(DTYPES[type])
    return (value - int(info.min)) % (int(info.max) - int(info.min) + 1) + int(info.min)


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": truncated,
    "rem": lambda a, b: a - truncated(a, b) * b,
}


@pytest.mark.parametrize("type", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integers(type: str):
    values = integers(type)
    a, b = (part.reshape(-1) for part in np.meshgrid(values, values))
    for name, exact in EXACT.items():
        divisor = np.where((b == 0) | (b == -1), 5, b).astype(b.dtype) if name in ("div", "rem") else b
        got = ARITHMETIC[f"{name}.{type}"].compute(a, divisor)
        assert got.tolist() == [wrapped(exact(x, y), type) for x, y in zip(a.tolist(), divisor.tolist())], name
    width = 8 * a.dtype.itemsize
    high = ARITHMETIC[f"mul.hi.{type}"].compute(a, b)
    assert high.tolist() == [wrapped((x * y) >> width, type) for x, y in zip(a.tolist(), b.tolist())]
    low = ARITHMETIC[f"mad.lo.{type}"].compute(a, b, a)
    assert low.tolist() == [wrapped(x * y + x, type) for x, y in zip(a.tolist(), b.tolist())]
    by = np.arange(len(a), dtype=np.uint32) % 70
    right = ARITHMETIC[f"shr.{type}"].compute(a, by)
    assert right.tolist() == [x >> y for x, y in zip(a.tolist(), by.tolist())]
    if width < 64:
        product = ARITHMETIC[f"mul.wide.{type}"].compute(a, b)
        assert product.tolist() == [x * y for x, y in zip(a.tolist(), b.tolist())]
        assert product.dtype.itemsize == 2 * a.dtype.itemsize


@pytest.mark.parametrize("width", [16, 32, 64])
def test_bits(width: int):
    a = integers(f"u{width}")
    by = np.arange(len(a), dtype=np.uint32) * 2
    left = ARITHMETIC[f"shl.b{width}"].compute(a, by)
    assert left.tolist() == [x << y & 2**width - 1 for x, y in zip(a.tolist(), by.tolist())]
    assert ARITHMETIC[f"not.b{width}"].compute(a).tolist() == [x ^ 2**width - 1 for x in a.tolist()]


def extracted(value: int, first: int, count: int, signed: bool) -> int:
    """Bit by bit, as the PTX ISA says: bits beyond the highest, and those above the count, are the sign."""
    sign = (value >> min(first + count - 1, 31)) & 1 if signed and count else 0
    bits = [(value >> first + place) & 1 if place < count and first + place < 32 else sign for place in range(32)]
    return sum(bit << place for place, bit in enumerate(bits)) - (2**32 if signed and bits[31] else 0)


@pytest.mark.parametrize("type", ["u32", "s32"])
def test_bits_are_extracted(type: str):
    a = integers(type)
    for first, count in ((0, 0), (0, 32), (3, 4), (31, 5), (8, 24), (0, 1), (5, 1), (40, 3), (4, 255)):
        arguments = np.full(len(a), first, np.uint32), np.full(len(a), count, np.uint32)
        got = ARITHMETIC[f"bfe.{type}"].compute(a, *arguments)
        assert got.tolist() == [extracted(x, first, count, type == "s32") for x in a.tolist()]


def test_division_by_zero_is_a_fault():
    with pytest.raises(Fault, match="division by zero"):
        ARITHMETIC["div.s32"].compute(np.array([1], np.int32), np.array([0], np.int32))


def test_conversions_of_integers():
    for source in ("u16", "s16", "u32", "s32", "u64", "s64"):
        for result in ("u16", "s16", "u32", "s32", "u64", "s64"):
            if source[1:] != result[1:]:
                values = integers(source)
                got = ARITHMETIC[f"cvt.{result}.{source}"].compute(values)
                assert got.tolist() == [wrapped(value, result) for value in values.tolist()]


def floats() -> np.ndarray:
    """Bit patterns of every kind: normal, subnormal, halves between two numbers of bfloat16, zeros, infinities, NaN."""
    generator = np.random.default_rng(0)
    edges = [
        0,
        1,
        0x7FFFFF,
        0x800000,
        0x3F800000,
        0x3F808000,
        0x3F818000,
        0x7F7FFFFF,
        0x7F800000,
        0x7FC00000,
        0x33000000,
    ]
    raw = np.array(edges + [edge | 0x80000000 for edge in edges], np.uint32)
    return np.concatenate([raw, generator.integers(0, 2**32, 2000, dtype=np.uint32)]).view(np.float32)


@pytest.mark.parametrize(("type", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_half_types_round_as_pytorch_does(type: str, dtype: torch.dtype):
    values = floats()
    with np.errstate(all="ignore"):
        got = ARITHMETIC[f"cvt.rn.{type}.f32"].compute(values).view(np.uint16)
        pairs = ARITHMETIC[f"cvt.rn.{type}x2.f32"].compute(values, values[::-1].copy())
        back = ARITHMETIC[f"cvt.f32.{type}"].compute(got.view(DTYPES[type]))
    expected = torch.from_numpy(values).to(dtype)
    torch.testing.assert_close(torch.from_numpy(got).view(dtype), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(torch.from_numpy(back), expected.float(), rtol=0, atol=0, equal_nan=True)
    assert ((pairs >> 16) == got).all() and ((pairs & 0xFFFF) == got[::-1]).all()  # the first is the upper half


def test_fused_multiply_add_rounds_once():
    generator = np.random.default_rng(0)
    a, b, c = generator.standard_normal((3, 3000)).astype(np.float32)
    c[:1000] = -(a * b)[:1000]  # all that is left is the product's rounding
    c[1000:2000] *= np.float32(2.0**-30)
    a[2000:2100] *= np.float32(2.0**-120)  # subnormal results
    b[2000:2100] *= np.float32(2.0**-20)
    c[2000:2100] *= np.float32(2.0**-140)
    # A tie in float32 that float64 makes of what lies beside it.
    a[0], b[0], c[0] = np.float32(1 + 2.0**-12), np.float32(1 + 2.0**-12), np.float32(2.0**-60)
    got = ARITHMETIC["fma.rn.f32"].compute(a, b, c)
    lower, upper = np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))
    for row in zip(a, b, c, got, lower, upper):
        x, y, z, value, below, above = map(Fraction, map(float, row))
        exact = x * y + z
        distance = abs(value - exact)
        assert distance <= min(abs(below - exact), abs(above - exact)), row
        if distance in (abs(below - exact), abs(above - exact)):
            assert row[3].view(np.uint32) % 2 == 0, row


def test_bytes_are_chosen_in_any_order_and_as_signs():
    def permute(selector: int) -> str:
        words = (np.uint32(each) for each in (0x83020100, 0x07860504, selector))
        return f"{int(ARITHMETIC['prmt.b32'].compute(*words)):08x}"

    assert permute(0x3210) == "83020100" and permute(0x7654) == "07860504"
    assert permute(0x3340) == "83830400" and permute(0x0167) == "00018607"
    assert permute(0x89BE) == "0000ffff"  # signs, of bytes 0, 1, 3 and 6


def test_comparisons_with_nan():
    nan, one = np.array([np.nan], np.float32), np.array([1], np.float32)
    narrow = {"f32": lambda a: a, "f16": lambda a: a.astype(np.float16), "bf16": f32_to_bf16}
    for name, type in product(("eq", "ne", "lt", "le", "gt", "ge"), narrow):
        operands = narrow[type](nan), narrow[type](one)
        assert not ARITHMETIC[f"setp.{name}.{type}"].compute(*operands)
        assert ARITHMETIC[f"setp.{name}u.{type}"].compute(*operands)
    assert ARITHMETIC["setp.nan.f32"].compute(nan, one) and not ARITHMETIC["setp.num.f32"].compute(nan, one)


def exact_value(name: str, *sources: np.ndarray) -> np.ndarray:
    function = {"ex2": np.exp2, "rcp": np.reciprocal, "div": np.divide, "tanh": np.tanh}.get(name.split(".")[0])
    return (function or (lambda x: 1 / np.sqrt(x)))(*(source.astype(np.float64) for source in sources))


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_approximations_err_as_much_as_they_are_documented_to(name: str, shift: float):
    known, generator = APPROXIMATIONS[name], np.random.default_rng(0)
    sources = [generator.uniform(0.5, 30.0, 1000).astype(np.float32) for _ in range(known.sources)]
    error = known(shift, *sources) / exact_value(name, *sources) - 1
    assert np.abs(error).max() <= known.error * (1 + 1e-6)
    assert (error * shift).max() >= 0.6 * known.error * abs(shift)


def test_flushing_and_the_ends_of_the_range():
    def of(name: str, *sources: float) -> float:
        with np.errstate(all="ignore"):
            return float(APPROXIMATIONS[name](0.0, *(np.array([each], np.float32) for each in sources))[0])

    infinity, huge = float("inf"), 1.5 * 2.0**126
    assert of("ex2.approx.ftz.f32", -127.0) == 0 and of("ex2.approx.f32", -127.0) == 2.0**-127
    assert of("ex2.approx.ftz.f32", 128.0) == infinity and of("ex2.approx.ftz.f32", -infinity) == 0
    assert of("rcp.approx.ftz.f32", infinity) == 0 and of("rcp.approx.ftz.f32", 2.0**-130) == infinity
    assert of("div.approx.ftz.f32", 1.0, huge) == 0 and np.isnan(of("div.approx.f32", infinity, huge))
    assert of("div.full.f32", huge, huge) == 1
    assert np.isnan(of("ex2.approx.ftz.f32", float("nan")))
