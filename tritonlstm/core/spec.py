"""A layer's static options. A new option is a field of `Spec`, with a default that leaves everything as it was."""

import ast
import difflib
import functools
import inspect
import numbers
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

from .checks import check_bool, check_choice, check_integer, show


class Options(TypedDict, total=False):
    """The options that the functional forms and the modules take by keyword; their meaning stands at `Spec`."""

    activation: str
    recurrent_activation: str
    output_activation: str | None
    cell_clip: float | None
    backend: str
    memory: str
    schedule: str
    reverse: bool
    dilation: int | tuple[int, ...]
    padding_mode: str | tuple[str, ...]


ACTIVATIONS = ("tanh", "relu", "leaky_relu", "identity")
CHOICES = {
    "activation": ACTIVATIONS,
    "recurrent_activation": ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"),
    "output_activation": (None, *ACTIVATIONS),
    "backend": ("auto", "triton", "aten", "inductor", "torch"),
    "memory": ("save", "recompute"),
    "schedule": ("auto", "concat", "hoisted"),
}
FLAGS = ("reverse",)
RETURNS = ("sequence", "last", "cells")
POINTWISE = ("activation", "recurrent_activation", "output_activation", "cell_clip")
"""The options of the gates and the cell state, which lie between one convolution and the next."""

CELL_CLIPS = (2.0**-126, 2.0**127)
"""The range of a bound: normal numbers of float32, as which the gates compute."""

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


@dataclass(frozen=True)
class Spec:
    """How a layer computes.

    Args:
        activation: of the candidate g, and of c in the output: "tanh"; "relu"; "leaky_relu", whose slope below zero is
            PyTorch's default, 0.01; or "identity".
        recurrent_activation: of the gates i, f and o. "sigmoid"; "hard_sigmoid", relu6(x + 3) / 6, as in Keras 3 and
            PyTorch; or "hard_sigmoid_keras2", clip(0.2 x + 0.5, 0, 1), as in Keras 1 and 2.
        output_activation: of c in the output, h = o ∘ ψ(c), one of the same; None for the candidate's.
        cell_clip: the bound of c at every step, a positive number, as in TensorFlow's LSTM cells: c is f ∘ c + i ∘ g
            clipped to ±cell_clip, before the output gate and the output read it. NaN passes. Where c has reached the
            bound, its gradient is zero. None for no bound.
        backend: "auto" (the Triton kernels on a GPU, the same algorithm in ATen calls elsewhere and, on a CPU under
            torch.compile, compiled by Inductor), "triton", "aten" or "inductor" for one of these, or "torch":
            `tritonlstm.reference`, which can be differentiated twice.
        memory: what training keeps for the backward pass beside input, output and c. "save": the gates of every step.
            "recompute": nothing; the backward pass recomputes them, for about half the memory and one more convolution
            a step. Backend "torch" keeps what autograd does.
        schedule: "concat" (one convolution a step over input and hidden state), "hoisted" (the input's convolution for
            many steps at once, the hidden state's step by step), or "auto": what tuning measured to be faster, else
            "concat". Numbers differ by rounding. With an input kernel of a different size "auto" is "hoisted", and
            "concat" raises a ValueError. Without an input, and with backend "torch", it has no effect.
        reverse: whether a sequence is read from its last step to its first, as by the second direction of nn.LSTM. The
            output stays in the input's order: output[t] belongs to input[t], and the last state is that after t = 0.
            (Keras' `go_backwards` returns output.flip(0).) It costs nothing: no sequence is copied. A single step has
            no direction.
        dilation: pixels from one tap of the kernels to the next, for input and hidden state alike: an integer, or one
            for each spatial dimension. The padding preserves the image's size: dilation·(kernel - 1)/2 pixels on each
            side.
        padding_mode: what is around an image, as in nn.Conv2d: "zeros", "circular", "reflect" or "replicate", or one
            for each spatial dimension: ("zeros", "circular") joins the left and the right of an image, as on a globe.
            All but zeros are copied around the image before each convolution. An image must be at least as long as the
            padding for "circular", and longer for "reflect".
        returns: what a call returns, which each call says: "sequence", h at every step; "last", h at the last step
            alone; "cells", c at every step too. Not an option of the modules.

    Raises:
        TypeError, ValueError: that names the option.
    """

    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    output_activation: str | None = None
    cell_clip: float | None = None
    backend: str = "auto"
    memory: str = "save"
    schedule: str = "auto"
    reverse: bool = False
    dilation: int | tuple[int, ...] = 1
    padding_mode: str | tuple[str, ...] = "zeros"
    returns: str = "sequence"

    def __post_init__(self):
        for name in FLAGS:
            object.__setattr__(self, name, check_bool(name, getattr(self, name)))
        for name, choices in (*CHOICES.items(), ("returns", RETURNS)):
            value = getattr(self, name)
            check_choice(name, value, choices)
            # NumPy's strings and an enumeration's have a repr that `decode` could not read.
            if value.__class__ not in (str, type(None)):
                object.__setattr__(self, name, str.__str__(value))
        if self.cell_clip is not None:
            object.__setattr__(self, "cell_clip", _check_cell_clip(self.cell_clip))
        object.__setattr__(self, "dilation", _each("dilation", self.dilation, _check_dilation))
        object.__setattr__(self, "padding_mode", _each("padding_mode", self.padding_mode, _check_padding_mode))

    @property
    def activation_of_c(self) -> str:
        """ψ, the activation of c in the output."""
        return self.activation if self.output_activation is None else self.output_activation

    @functools.cached_property
    def pointwise(self) -> "Spec":
        """The spec of all layers with the same gates: every option that these do not depend on has its default."""
        options = {name: getattr(self, name) for name in POINTWISE}
        return Spec(**options | {"output_activation": self.activation_of_c})

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass recomputes the gates."""
        return self.memory == "recompute"

    def encode(self) -> str:
        """The options as the operators' one string: "activation='tanh', …"."""
        return ", ".join([f"{name}={getattr(self, name)!r}" for name in _NAMES])

    @staticmethod
    @functools.cache
    def decode(text: str) -> "Spec":
        """The inverse of `encode`. An option that the text lacks, since it is older, has its default."""
        call = ast.parse(f"Spec({text})", mode="eval").body
        values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        unknown = values.keys() - set(_NAMES)
        if unknown:
            raise ValueError(f"spec: unknown option {', '.join(sorted(unknown))}; a newer tritonlstm wrote {text!r}")
        return Spec(**values)


_NAMES = tuple(field.name for field in fields(Spec))
_KEYWORDS = tuple(Options.__annotations__)


def per_dimension(value: object, dims: int) -> tuple:
    """An option's value for each of `dims` spatial dimensions."""
    return value if isinstance(value, tuple) else (value,) * dims


def _each(name: str, value: object, check: Callable[[str, object], object]) -> object:
    """A value, or a tuple of one for each spatial dimension, each as `check` returns it."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return tuple(check(name, each) for each in value)
    return check(name, value)


def _check_cell_clip(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"cell_clip: expected None or a positive number, got {show(value)}")
    least, most = CELL_CLIPS
    if not least <= value <= most:
        raise ValueError(f"cell_clip: expected None or a positive number, {least:.2g} to {most:.2g}, got {show(value)}")
    return float(value)


def _check_dilation(name: str, value: object) -> int:
    return check_integer(name, value, minimum=1)


def _check_padding_mode(name: str, value: object) -> str:
    check_choice(name, value, PADDING_MODES)
    return str.__str__(value)


def check_keywords(
    caller: str, options: dict[str, object], *functions: Callable, excluded: Collection[str] = ()
) -> None:
    """Raise a TypeError for a keyword that is no option, in the name of the class or function that was called.

    Besides the options of `Spec`, the keywords of `functions` are valid, but for the excluded ones.
    """
    for name, value in options.items():
        if name not in _KEYWORDS:
            _check_keyword(caller, name, value, functions, excluded)


def _check_keyword(
    caller: str, name: str, value: object, functions: Collection[Callable], excluded: Collection[str]
) -> None:
    own = [each for function in functions for each in inspect.signature(function).parameters.values()]
    valid = dict.fromkeys([*(each.name for each in own if each.kind is not each.VAR_KEYWORD), *_KEYWORDS])
    valid = [each for each in valid if each != "self" and each not in excluded]
    if name in valid:
        return
    nearest = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise TypeError(f"{caller}: expected one of the keywords {', '.join(valid)}, got {name}={show(value)}{hint}")
