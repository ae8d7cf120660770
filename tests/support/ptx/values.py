"""Registers hold bits: how PTX's types see them in NumPy, and bfloat16, which NumPy lacks."""

import numpy as np

WIDTHS = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2} | {
    f"{kind}{8 * size}": size for kind in "busf" for size in (4, 8)
}
"""Bytes of a value of each type. A predicate, "pred", is none of them."""

_KINDS = {"b": "u", "u": "u", "s": "i", "f": "f"}

DTYPES = {name: np.dtype(f"{_KINDS[name[0]]}{size}") for name, size in WIDTHS.items() if name != "bf16"}
DTYPES |= {"bf16": np.dtype(np.uint16), "pred": np.dtype(bool)}
"""As which dtype a type's bits are computed with."""

BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
"""As which dtype a register of so many bytes is kept."""


def bits(values: np.ndarray) -> np.ndarray:
    """Values as the bits that a register keeps."""
    return values if values.dtype == bool else values.view(BITS[values.dtype.itemsize])


def bf16_to_f32(halves: np.ndarray) -> np.ndarray:
    """float32 values from the bits of bfloat16."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values in bfloat16, rounded to nearest even; NaN becomes the canonical one."""
    raw = values.view(np.uint32)
    half = np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))
    rounded = ((raw + half) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def flushed(values: np.ndarray) -> np.ndarray:
    """float32 values with subnormal ones as zeros of their sign (.ftz)."""
    return np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(np.float32(0), values), values)


def immediate(text: str, type: str) -> np.ndarray:
    """A constant of an instruction as a scalar: 0f and 8 digits for float32, else an integer, which may end with U.

    Raises ValueError.
    """
    dtype = DTYPES[type]
    if type == "pred":
        return np.bool_(int(text, 0) != 0)
    if text.startswith("0f"):
        return np.array(int(text[2:], 16), np.uint32).view(dtype)[()]
    if dtype.kind == "f":
        raise ValueError(f"{text} where a number of {type} was expected")
    return np.array(int(text.removesuffix("U"), 0) % 2 ** (8 * dtype.itemsize), BITS[dtype.itemsize]).view(dtype)[()]
