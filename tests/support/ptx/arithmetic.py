"""Instructions that compute one result from their sources, by full name. A name that is not here is not known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .fault import Fault
from .values import DTYPES, WIDTHS, bf16_to_f32, f32_to_bf16


@dataclass(frozen=True)
class Arithmetic:
    """Types of the result and of the sources, and the function between them, of NumPy arrays or scalars."""

    result: str
    sources: tuple[str, ...]
    compute: Callable[..., np.ndarray]


def _integers() -> dict[str, Arithmetic]:
    table = {}
    for size in (16, 32, 64):
        for kind in "us":
            type = f"{kind}{size}"
            for name, compute in {"add": np.add, "sub": np.subtract, "mul.lo": np.multiply}.items():
                table[f"{name}.{type}"] = Arithmetic(type, (type,) * 2, compute)
            for name, compute in {"min": np.minimum, "max": np.maximum}.items():
                table[f"{name}.{type}"] = Arithmetic(type, (type,) * 2, compute)
            table[f"mad.lo.{type}"] = Arithmetic(type, (type,) * 3, lambda a, b, c: a * b + c)
            table[f"mul.hi.{type}"] = Arithmetic(type, (type,) * 2, _high_signed if kind == "s" else _high)
            table[f"div.{type}"] = Arithmetic(type, (type,) * 2, _quotient)
            table[f"rem.{type}"] = Arithmetic(type, (type,) * 2, lambda a, b: a - _quotient(a, b) * b)
            table[f"shr.{type}"] = Arithmetic(type, (type, "u32"), _shift_right)
            if size < 64:
                wide = f"{kind}{2 * size}"
                table[f"mul.wide.{type}"] = Arithmetic(wide, (type, type), _wide(wide))
                table[f"mad.wide.{type}"] = Arithmetic(wide, (type, type, wide), _wide(wide))
        bits = f"b{size}"
        for name, compute in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
            table[f"{name}.{bits}"] = Arithmetic(bits, (bits,) * 2, compute)
        table[f"not.{bits}"] = Arithmetic(bits, (bits,), np.bitwise_not)
        table[f"shl.{bits}"] = Arithmetic(bits, (bits, "u32"), _shift_left)
        table[f"shr.{bits}"] = Arithmetic(bits, (bits, "u32"), _shift_right)
        table[f"neg.s{size}"] = Arithmetic(f"s{size}", (f"s{size}",), np.negative)
        table[f"abs.s{size}"] = Arithmetic(f"s{size}", (f"s{size}",), np.abs)
    table["bfe.u32"] = Arithmetic("u32", ("u32", "u32", "u32"), _extract)
    table["bfe.s32"] = Arithmetic("s32", ("s32", "u32", "u32"), _extract_signed)
    table["prmt.b32"] = Arithmetic("b32", ("b32",) * 3, _permute)
    return table


def _high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of an unsigned product."""
    if a.dtype.itemsize < 8:
        shift = np.uint64(8 * a.dtype.itemsize)
        return ((a.astype(np.uint64) * b.astype(np.uint64)) >> shift).astype(a.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & low, b >> half, b & low
    middle = a_high * b_low + ((a_low * b_low) >> half)
    other = a_low * b_high + (middle & low)
    return a_high * b_high + (middle >> half) + (other >> half)


def _high_signed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unsigned = DTYPES[f"u{8 * a.dtype.itemsize}"]
    high = _high(np.asarray(a).view(unsigned), np.asarray(b).view(unsigned)).view(a.dtype)
    return high - np.where(a < 0, b, a.dtype.type(0)) - np.where(b < 0, a, a.dtype.type(0))


def _wide(type: str) -> Callable[..., np.ndarray]:
    """a·b, or a·b + c, in the wider type."""
    dtype = DTYPES[type]

    def compute(a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        product = a.astype(dtype) * b.astype(dtype)
        return product if c is None else product + c

    return compute


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rounded towards zero, as in C."""
    if np.any(b == 0):
        raise Fault("division by zero")
    quotient = a // b
    if a.dtype.kind == "u":
        return quotient
    return quotient + ((quotient * b != a) & ((a < 0) != (b < 0))).astype(a.dtype)


def _shift_left(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Zero from the width on: PTX clamps the distance."""
    width = 8 * value.dtype.itemsize
    shifted = value << np.minimum(by, width - 1).astype(value.dtype)
    return np.where(by >= width, value.dtype.type(0), shifted)


def _shift_right(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Zero, or the sign, from the width on."""
    width = 8 * value.dtype.itemsize
    shifted = value >> np.minimum(by, width - 1).astype(value.dtype)
    return shifted if value.dtype.kind == "i" else np.where(by >= width, value.dtype.type(0), shifted)


def _extract(value: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    first, count = first & np.uint32(0xFF), count & np.uint32(0xFF)
    ones = ~_shift_left(np.broadcast_to(np.uint32(0xFFFFFFFF), np.shape(count)), count)
    return _shift_right(value, first) & ones


def _extract_signed(value: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The last of these bits is the sign; of none the result is 0."""
    first, count = first & np.uint32(0xFF), np.minimum(count & np.uint32(0xFF), np.uint32(32))
    above = np.uint32(32) - count
    shifted = _shift_left(_shift_right(value, first), above)
    return np.where(count == 0, np.int32(0), _shift_right(shifted, above))


def _permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """Four bytes of a, whose bytes are numbered 0 to 3, and b, 4 to 7: each by four bits of the selector, the lowest
    first. Where the highest of these is set, it is the byte's sign, eight times."""
    both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    result = np.uint32(0)
    for place in range(4):
        choice = (selector >> np.uint32(4 * place)) & np.uint32(0xF)
        byte = (both >> ((choice & np.uint32(7)).astype(np.uint64) * np.uint64(8))).astype(np.uint32) & np.uint32(0xFF)
        byte = np.where(choice & np.uint32(8), np.where(byte & np.uint32(0x80), np.uint32(0xFF), np.uint32(0)), byte)
        result = result | (byte.astype(np.uint32) << np.uint32(8 * place))
    return result


def _floats() -> dict[str, Arithmetic]:
    f32 = {
        "add.f32": np.add,
        "sub.f32": np.subtract,
        "mul.f32": np.multiply,
        "add.rn.f32": np.add,
        "sub.rn.f32": np.subtract,
        "mul.rn.f32": np.multiply,
        "abs.f32": np.abs,
        "neg.f32": np.negative,
        "fma.rn.f32": fused_multiply_add,
    }
    sources = {"abs.f32": 1, "neg.f32": 1, "fma.rn.f32": 3}
    return {name: Arithmetic("f32", ("f32",) * sources.get(name, 2), compute) for name, compute in f32.items()}


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a·b + c in float32, rounded once.

    The product is exact in float64, the sum is not: rounded to odd there, it is rounded right to float32 afterwards
    (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = np.asarray(product + addend)
    of_addend = total - product
    rest = (product - (total - of_addend)) + (addend - of_addend)  # exactly what the sum lost
    raw = total.view(np.int64).copy()
    inexact = (rest != 0) & np.isfinite(total) & (raw & 1 == 0)
    raw += np.where(inexact, np.where((rest > 0) == (total > 0), 1, -1), 0)
    return raw.view(np.float64).astype(np.float32)


def _comparisons() -> dict[str, Arithmetic]:
    compare = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    table = {}
    for name, function in compare.items():
        for size in (16, 32, 64):
            for kind in "us" if name not in ("eq", "ne") else "usb":
                table[f"setp.{name}.{kind}{size}"] = Arithmetic("pred", (f"{kind}{size}",) * 2, function)
        table[f"setp.{name}.f32"] = Arithmetic("pred", ("f32",) * 2, _ordered(function))
        table[f"setp.{name}u.f32"] = Arithmetic("pred", ("f32",) * 2, _unordered(function))
        for type, widen in {"f16": lambda a: a.astype(np.float32), "bf16": bf16_to_f32}.items():
            table[f"setp.{name}.{type}"] = Arithmetic("pred", (type,) * 2, _after(widen, _ordered(function)))
            table[f"setp.{name}u.{type}"] = Arithmetic("pred", (type,) * 2, _after(widen, _unordered(function)))
    table["setp.num.f32"] = Arithmetic("pred", ("f32",) * 2, lambda a, b: ~(np.isnan(a) | np.isnan(b)))
    table["setp.nan.f32"] = Arithmetic("pred", ("f32",) * 2, lambda a, b: np.isnan(a) | np.isnan(b))
    for type in ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32"):
        table[f"selp.{type}"] = Arithmetic(type, (type, type, "pred"), lambda a, b, p: np.where(p, a, b))
    for name, function in {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.items():
        table[f"{name}.pred"] = Arithmetic("pred", ("pred",) * 2, function)
    table["not.pred"] = Arithmetic("pred", ("pred",), np.logical_not)
    return table


def _ordered(compare: Callable) -> Callable:
    """False where an argument is NaN, "ne" too."""
    return lambda a, b: compare(a, b) & ~(np.isnan(a) | np.isnan(b))


def _after(widen: Callable, function: Callable) -> Callable:
    return lambda a, b: function(widen(a), widen(b))


def _unordered(compare: Callable) -> Callable:
    """True where an argument is NaN."""
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


def _conversions() -> dict[str, Arithmetic]:
    table = {
        "cvt.f32.bf16": Arithmetic("f32", ("bf16",), bf16_to_f32),
        "cvt.f32.f16": Arithmetic("f32", ("f16",), lambda a: a.astype(np.float32)),
        "cvt.rn.bf16.f32": Arithmetic("bf16", ("f32",), f32_to_bf16),
        "cvt.rn.f16.f32": Arithmetic("f16", ("f32",), lambda a: a.astype(np.float16)),
        # The first source goes to the upper half.
        "cvt.rn.bf16x2.f32": Arithmetic("b32", ("f32",) * 2, lambda a, b: _pair(f32_to_bf16(b), f32_to_bf16(a))),
        "cvt.rn.f16x2.f32": Arithmetic("b32", ("f32",) * 2, lambda a, b: _pair(_half_bits(b), _half_bits(a))),
    }
    for source in (f"{kind}{size}" for kind in "us" for size in (16, 32, 64)):
        for result in (f"{kind}{size}" for kind in "us" for size in (16, 32, 64)):
            if WIDTHS[source] != WIDTHS[result]:
                dtype = DTYPES[result]
                table[f"cvt.{result}.{source}"] = Arithmetic(result, (source,), lambda a, to=dtype: a.astype(to))
    return table


def _half_bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint16)


def _pair(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))


ARITHMETIC = _integers() | _floats() | _comparisons() | _conversions()
