"""The geometry of a layer's convolutions, by dimension: dilation, and the padding that preserves the image's size."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .spec import Spec, per_dimension


class Geometry(NamedTuple):
    """Of one convolution, with stride 1 and one value for each spatial dimension."""

    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    """Pixels on each side."""
    modes: tuple[str, ...]
    """What the padding is filled with, as `Spec.padding_mode`."""

    @classmethod
    def of(cls, weight: Tensor, spec: Spec) -> "Geometry":
        """Of a weight (O, K, *kernel) in a layer with these options."""
        kernel = weight.shape[2:]
        dilation = per_dimension(spec.dilation, len(kernel))
        padding = tuple(each * (size // 2) for each, size in zip(dilation, kernel))
        return cls(dilation, padding, per_dimension(spec.padding_mode, len(kernel)))

    @property
    def is_plain(self) -> bool:
        """Whether it is that of the default options."""
        return all(each == 1 for each in self.dilation) and not self.filled

    @property
    def zeros(self) -> tuple[int, ...]:
        """Pixels of zeros on each side, which a convolution adds as it reads."""
        return tuple(size if mode == "zeros" else 0 for size, mode in zip(self.padding, self.modes))

    @property
    def margins(self) -> tuple[int, ...]:
        """Pixels on each side that are filled with pixels of the image, before a convolution."""
        return tuple(size - zeros for size, zeros in zip(self.padding, self.zeros))

    @property
    def filled(self) -> tuple[tuple[int, int, str], ...]:
        """(dimension, pixels on each side, mode) of each of the `margins` that has pixels."""
        return tuple((dim, size, self.modes[dim]) for dim, size in enumerate(self.margins) if size)


def check_dimensions(spec: Spec, dims: Sequence[str]) -> None:
    """That dilation and padding modes suit spatial dimensions of these names."""
    for name, value in (("dilation", spec.dilation), ("padding_mode", spec.padding_mode)):
        default = getattr(Spec, name)
        if not dims and value != default:
            raise ValueError(f"{name}: expected {default!r} for vectors, which have no dimension for it, got {value!r}")
        if isinstance(value, tuple) and len(value) != len(dims):
            raise ValueError(f"{name}: expected one value, or one for each of {', '.join(dims)}, got {value!r}")


def check_margins(spec: Spec, weights: Sequence[Tensor | None], spatial: Sequence[int], dims: Sequence[str]) -> None:
    """That an image is not too small for the margins of its own pixels."""
    if spec.padding_mode == "zeros":
        return
    for weight in weights:
        for dim, size, mode in () if weight is None else Geometry.of(weight, spec).filled:
            least = size + 1 if mode == "reflect" else size if mode == "circular" else 1
            if spatial[dim] < least:
                raise ValueError(
                    f'padding_mode: expected {dims[dim]} of at least {least} for "{mode}" with'
                    f" {size} pixels on each side (dilation·(kernel - 1)/2), got {spatial[dim]}"
                )
