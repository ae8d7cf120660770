"""Marks of a sequence's steps: which samples are reset before a step, held at it, or have ended.

    RESET        before the step, the sample's state becomes the reset state
    HOLD         the step leaves the sample's state as it is; its output is the hidden state once more
    BLANK        its output is zero
    RESET_NEXT   the step after, in the order of the steps, has RESET: h is written as that step has to read it

Steps past a sample's length have HOLD and BLANK, and no RESET. The kernels read the same bits (kernels/marks.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_device, check_integer, check_shape, check_tensor, describe, is_integer

RESET, HOLD, BLANK, RESET_NEXT = 1, 2, 4, 8


class Marks(NamedTuple):
    """The marks of a call, and whether any of them may be RESET."""

    bits: Tensor  # (T, B), torch.uint8, without RESET_NEXT
    resets: bool


def make_marks(
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    hold: Tensor | None,
    steps: int,
    batch: int,
    device: torch.device,
) -> Marks | None:
    """The marks of `steps` steps of `batch` samples, from what the caller passed; None where that is nothing.

    lengths: steps of each sample (B), a tensor of integers or a sequence of ints; reset and hold: (T, B), torch.bool.

    Raises:
        TypeError, ValueError: that names the argument.
    """
    if lengths is None and reset is None and hold is None:
        return None
    bits = torch.zeros(steps, batch, dtype=torch.uint8, device=device)
    for name, mask, bit in (("reset", reset, RESET), ("hold", hold, HOLD)):
        if mask is not None:
            _check_mask(name, mask, steps, batch, device)
            bits = bits + mask.to(torch.uint8) * bit
    if lengths is not None:
        ends = _check_lengths(lengths, steps, batch, device)
        past = torch.arange(steps, device=device).unsqueeze(1) >= ends
        bits = torch.where(past, HOLD | BLANK, bits)
    return Marks(bits, reset is not None)


def with_next(bits: Tensor, reverse: bool) -> Tensor:
    """Marks with RESET_NEXT where the step after has RESET; with `reverse`, the steps go from the last to the first."""
    resets = (bits & RESET) * (RESET_NEXT // RESET)
    bits = bits.clone()
    if reverse:
        bits[1:] |= resets[:-1]
    else:
        bits[:-1] |= resets[1:]
    return bits


def has(bits: Tensor, mark: int, dims: int) -> Tensor:
    """Whether each sample of (…, B) has a mark: torch.bool, with so many dimensions of size 1 behind."""
    found = (bits & mark) != 0
    return found.view(*found.shape, *(1,) * dims)


def _check_mask(name: str, mask: object, steps: int, batch: int, device: torch.device) -> None:
    check_tensor(name, mask)
    check_shape(name, mask, (steps, batch), ("T", "B"))
    check_device(name, mask, device)
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected torch.bool, got {mask.dtype}")


def _check_lengths(lengths: object, steps: int, batch: int, device: torch.device) -> Tensor:
    """The lengths as a tensor on the device. Values are checked where they can be read at once."""
    if isinstance(lengths, Tensor):
        check_tensor("lengths", lengths)
        if lengths.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"lengths: expected torch.int64 or torch.int32, got {lengths.dtype}")
        check_shape("lengths", lengths, (batch,), ("B",))
        if _has_values(lengths):
            _check_range(lengths.tolist(), steps)
        return lengths.to(device)
    if not isinstance(lengths, Sequence) or isinstance(lengths, (str, bytes)) or not all(map(is_integer, lengths)):
        raise TypeError(f"lengths: expected a tensor or a sequence of integers, got {describe(lengths)}")
    if len(lengths) != batch:
        raise ValueError(f"lengths: expected one for each of B = {batch} samples, got {len(lengths)}")
    values = [check_integer("lengths", each, minimum=0) for each in lengths]
    _check_range(values, steps)
    return torch.tensor(values, dtype=torch.int64, device=device)


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read at once: it lies on a CPU, and neither a tracer nor a transform has it."""
    if torch.compiler.is_compiling() or type(tensor) is not Tensor or tensor.device.type != "cpu":
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _check_range(values: Sequence[int], steps: int) -> None:
    for value in values:
        if not 0 <= value <= steps:
            raise ValueError(f"lengths: expected 0 to T = {steps} for each sample, got {value}")
