"""Random problems for one layer, and the implementations that solve them."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from tests.support.tolerances import budget
from tritonlstm import Spec, ops, reference
from tritonlstm.core.arguments import UNMARKED, Arguments, Results
from tritonlstm.core.dtypes import cell_dtype
from tritonlstm.core.layout import Layout, from_rows, to_rows
from tritonlstm.core.marks import make_marks
from tritonlstm.tuning.random_layers import normal, random_layer

ARGUMENTS, RESULTS = Arguments._fields, Results._fields


DEFAULTS = Spec()


@dataclass(frozen=True)
class Shape:
    """The sizes and options of a problem.

    `kernel` and `spatial` are () for a layer of vectors; `input_kernel` is there where the input's has another size;
    without `state` the layer starts from zero. With `preact` the input is its part of the pre-activations, for which
    `in_channels` is 0.
    """

    steps: int = 4
    batch: int = 2
    in_channels: int = 3
    channels: int = 5
    spatial: tuple[int, ...] = (6, 7)
    kernel: tuple[int, ...] = (3, 5)
    input_kernel: tuple[int, ...] | None = None
    preact: bool = False
    state: bool = True
    bias: bool = True
    peephole: str = "channel"
    masks: tuple[str, ...] = ()
    """Which of `MASKS` mark samples."""
    spec: Spec = DEFAULTS
    """The options of the equations; how a problem is solved is said by who solves it."""

    def but(self, **changes: object) -> "Shape":
        """The same shape but for these fields."""
        return replace(self, **changes)


MASKS = "lengths", "reset", "hold"

VECTORS = Shape(spatial=(), kernel=(), batch=7)

SHAPES = {
    "base": Shape(),
    "relu": Shape(spec=Spec(activation="relu")),
    "leaky relu, tanh of c": Shape(spec=Spec(activation="leaky_relu", output_activation="tanh")),
    "identity, tanh of c": Shape(peephole="none", spec=Spec(activation="identity", output_activation="tanh")),
    "clipped": Shape(spec=Spec(cell_clip=0.75)),
    "identity, clipped, full peephole, reversed": Shape(
        peephole="full", spec=Spec(activation="identity", output_activation="leaky_relu", cell_clip=2.0, reverse=True)
    ),
    "identity, hard sigmoid": Shape(spec=Spec(activation="identity", recurrent_activation="hard_sigmoid")),
    "hard sigmoid of Keras 2": Shape(peephole="full", spec=Spec(recurrent_activation="hard_sigmoid_keras2")),
    "no peephole": Shape(peephole="none"),
    "full peephole": Shape(peephole="full"),
    "relu, full peephole": Shape(peephole="full", spec=Spec(activation="relu")),
    "no bias": Shape(bias=False),
    "no bias, no peephole": Shape(bias=False, peephole="none"),
    "no bias, full peephole": Shape(bias=False, peephole="full"),
    "one step": Shape(steps=1),
    "many steps": Shape(steps=13, spatial=(3, 3)),
    "one image": Shape(batch=1),
    "no image": Shape(batch=0),
    "one pixel": Shape(spatial=(1, 1)),
    "one pixel, full peephole": Shape(spatial=(1, 1), peephole="full"),
    "one row": Shape(spatial=(1, 9)),
    "one channel": Shape(in_channels=1, channels=1),
    "17 channels": Shape(in_channels=2, channels=17, steps=3, spatial=(4, 3)),
    "64 channels": Shape(in_channels=1, channels=64, steps=2, spatial=(5, 5), kernel=(3, 3)),
    "96 channels": Shape(in_channels=1, channels=96, steps=2, spatial=(3, 5), kernel=(1, 1)),
    "130 channels": Shape(in_channels=4, channels=130, steps=2, spatial=(3, 3), kernel=(3, 3)),
    "state alone": Shape(in_channels=0),
    "no state": Shape(state=False),
    "no state, no peephole": Shape(state=False, peephole="none", bias=False),
    "no state, one step": Shape(state=False, steps=1),
    "input kernel": Shape(input_kernel=(5, 1)),
    "input kernel, no state, full peephole": Shape(input_kernel=(1, 1), kernel=(3, 3), state=False, peephole="full"),
    "pre-activations": Shape(in_channels=0, preact=True),
    "pre-activations, no state, no bias": Shape(in_channels=0, preact=True, state=False, bias=False),
    "pre-activations, circular": Shape(in_channels=0, preact=True, spec=Spec(padding_mode="circular")),
    "pre-activations, reversed": Shape(in_channels=0, preact=True, spec=Spec(reverse=True)),
    "pre-activations, reversed, many steps, every c": Shape(
        steps=13, spatial=(3, 3), in_channels=0, preact=True, state=False, spec=Spec(reverse=True, returns="cells")
    ),
    "pre-activations, last step": Shape(in_channels=0, preact=True, spec=Spec(returns="last")),
    "reversed, circular, dilation": Shape(spec=Spec(reverse=True, padding_mode="circular", dilation=2)),
    "pre-activations of vectors": VECTORS.but(in_channels=0, preact=True, state=False),
    "dilation": Shape(spec=Spec(dilation=2)),
    "dilation in W": Shape(spec=Spec(dilation=(1, 3)), spatial=(3, 7), kernel=(3, 3)),
    "circular in W": Shape(spec=Spec(padding_mode=("zeros", "circular"))),
    "reflect, replicate": Shape(spec=Spec(padding_mode=("reflect", "replicate"), dilation=(2, 1))),
    "circular, input kernel": Shape(input_kernel=(1, 3), spec=Spec(padding_mode="circular")),
    "replicate, kernel larger than the image": Shape(
        spatial=(2, 1), kernel=(5, 3), spec=Spec(padding_mode="replicate"), state=False
    ),
    "signals, circular, state alone": Shape(
        spatial=(5,), kernel=(5,), in_channels=0, spec=Spec(padding_mode="circular")
    ),
    "volumes, all modes": Shape(
        spatial=(3, 3, 2), kernel=(3,) * 3, spec=Spec(padding_mode=("circular", "reflect", "replicate"))
    ),
    "1×1 kernel": Shape(kernel=(1, 1)),
    "kernel larger than the image": Shape(spatial=(2, 2), kernel=(5, 5)),
    "reversed": Shape(spec=Spec(reverse=True)),
    "reversed, many steps": Shape(steps=13, spatial=(3, 3), spec=Spec(reverse=True)),
    "reversed, no state": Shape(steps=3, state=False, spec=Spec(reverse=True)),
    "reversed, input kernel, full peephole": Shape(input_kernel=(5, 1), peephole="full", spec=Spec(reverse=True)),
    "reversed, state alone": Shape(in_channels=0, spec=Spec(reverse=True)),
    "reversed, last step": Shape(spec=Spec(reverse=True, returns="last")),
    "reversed, every c": Shape(steps=9, spatial=(3, 3), spec=Spec(reverse=True, returns="cells")),
    "last step": Shape(spec=Spec(returns="last")),
    "last step, one step": Shape(steps=1, spec=Spec(returns="last")),
    "last step, no state, input kernel": Shape(input_kernel=(1, 1), state=False, spec=Spec(returns="last")),
    "every c": Shape(spec=Spec(returns="cells")),
    "every c, no state": Shape(state=False, peephole="none", spec=Spec(returns="cells")),
    "every c, no image": Shape(batch=0, spec=Spec(returns="cells")),
    "signals": Shape(spatial=(9,), kernel=(3,)),
    "signals, input kernel, no state, full peephole": Shape(
        spatial=(6,), kernel=(3,), input_kernel=(5,), state=False, peephole="full"
    ),
    "volumes": Shape(spatial=(3, 2, 4), kernel=(3, 1, 5)),
    "volumes, full peephole": Shape(spatial=(2, 3, 2), kernel=(1, 3, 1), peephole="full"),
    "volumes, state alone, no peephole": Shape(spatial=(3, 3, 4), kernel=(3,) * 3, in_channels=0, peephole="none"),
    "lengths": Shape(batch=3, masks=("lengths",)),
    "lengths, reversed, no state": Shape(batch=3, masks=("lengths",), state=False, spec=Spec(reverse=True)),
    "lengths, last step": Shape(batch=3, masks=("lengths",), peephole="full", spec=Spec(returns="last")),
    "reset": Shape(steps=5, masks=("reset",)),
    "reset, no state, input kernel, every c": Shape(
        masks=("reset",), state=False, input_kernel=(1, 3), spec=Spec(returns="cells")
    ),
    "hold, no peephole, no bias": Shape(masks=("hold",), peephole="none", bias=False),
    "all masks": Shape(steps=6, batch=3, masks=MASKS),
    "all masks, reversed, full peephole, every c": Shape(
        steps=6, batch=3, spatial=(3, 2), masks=MASKS, peephole="full", spec=Spec(reverse=True, returns="cells")
    ),
    "all masks, pre-activations": Shape(steps=5, in_channels=0, preact=True, masks=MASKS),
    "all masks, state alone": Shape(in_channels=0, masks=MASKS),
    "all masks, one step": Shape(steps=1, batch=4, masks=MASKS),
    "all masks, no image": Shape(batch=0, masks=MASKS),
    "all masks, relu, circular": Shape(masks=MASKS, spec=Spec(activation="relu", padding_mode="circular")),
    "all masks, many steps, volumes": Shape(
        steps=13, batch=3, spatial=(2, 1, 3), kernel=(1, 3, 3), masks=MASKS, state=False
    ),
    "vectors": VECTORS,
    "vectors, all masks": VECTORS.but(masks=MASKS),
    "vectors, lengths, reversed, last step": VECTORS.but(masks=("lengths",), spec=Spec(reverse=True, returns="last")),
    "vectors, reversed": VECTORS.but(spec=Spec(reverse=True)),
    "vectors, last step": VECTORS.but(spec=Spec(returns="last")),
    "vectors, reversed, every c": VECTORS.but(spec=Spec(reverse=True, returns="cells")),
    "vectors, no peephole": VECTORS.but(peephole="none"),
    "vectors, no state": VECTORS.but(state=False),
    "vectors, one step": VECTORS.but(steps=1, batch=1),
    "vectors, state alone": VECTORS.but(in_channels=0, bias=False),
}

SOME_SHAPES = [
    "base",
    "no bias, no peephole",
    "full peephole",
    "one step",
    "one image",
    "no image",
    "state alone",
    "no state",
    "input kernel",
    "pre-activations",
    "circular in W",
    "dilation",
    "signals",
    "volumes",
    "vectors",
    "reversed, every c",
    "last step",
    "lengths",
    "lengths, last step",
    "all masks",
    "all masks, reversed, full peephole, every c",
    "vectors, all masks",
]
"""One of each kind, where every shape would take too long."""


@dataclass
class Problem:
    """Leaf tensors for one layer, and cotangents for its results."""

    shape: Shape
    input: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    weight: Tensor
    input_weight: Tensor | None
    bias: Tensor | None
    peephole: Tensor | None
    marks: Tensor | None = None
    reset_h: Tensor | None = None
    reset_c: Tensor | None = None
    cotangents: dict[str, Tensor | None] = field(default_factory=dict)

    @classmethod
    def random(cls, shape: Shape, dtype: torch.dtype, seed: int = 0) -> "Problem":
        """Tensors in `dtype` that `seed` decides; c0 and the cotangent of c_n in the dtype of the cell state."""
        generator = torch.Generator().manual_seed(seed)
        draw = partial(normal, generator, dtype=dtype)
        steps, batch, channels, cell = shape.steps, shape.batch, shape.channels, cell_dtype(dtype)
        state = (batch, channels, *shape.spatial)
        width = 4 * channels if shape.preact else shape.in_channels
        input = draw(steps, batch, width, *shape.spatial) if width else None
        h0, c0 = (draw(*state, scale=0.5), draw(*state, dtype=cell)) if shape.state else (None, None)
        parameters = random_layer(
            generator,
            dtype,
            shape.in_channels,
            channels,
            shape.kernel,
            input_kernel=shape.input_kernel,
            bias=shape.bias,
            peephole={"none": None, "channel": (1,) * len(shape.spatial), "full": shape.spatial}[shape.peephole],
        )
        of_output = state if shape.spec.returns == "last" else (steps, *state)
        of_c = (steps, *state) if shape.spec.returns == "cells" else state
        cotangents = {"output": draw(*of_output), "h_n": draw(*state), "c_n": draw(*of_c, dtype=cell)}
        problem = cls(shape, input, h0, c0, **parameters._asdict(), cotangents=cotangents)
        problem._mark(generator, draw)
        problem._keep_away_from_kinks()
        return problem

    def _mark(self, generator: torch.Generator, draw: Callable[..., Tensor]) -> None:
        """Marks that are there for some samples and steps, one of which has a reset and a hold, and a reset state."""
        shape, masks = self.shape, self.shape.masks
        if not masks:
            return
        size = shape.steps, shape.batch
        of_call = {name: torch.rand(size, generator=generator) < 0.3 for name in ("reset", "hold") if name in masks}
        for mask in of_call.values():
            mask.view(-1)[shape.steps * shape.batch // 2 :: 7] = True
        lengths = None
        if "lengths" in masks:  # the first sample's is the whole, and the last one's nothing
            lengths = [shape.steps - index * shape.steps // max(1, shape.batch - 1) for index in range(shape.batch)]
        self.marks, resets = make_marks(
            lengths, of_call.get("reset"), of_call.get("hold"), *size, device=torch.device("cpu")
        )
        if resets:
            state = shape.batch, shape.channels, *shape.spatial
            self.reset_h = draw(*state, scale=0.5)
            self.reset_c = draw(*state, dtype=cell_dtype(self.weight.dtype))

    def _keep_away_from_kinks(self) -> None:
        """Give what an activation with a kink sees a value far from it, another one for each channel.

        There a rounding decides whether a gradient is there or not: no error at all. The arguments of relu and
        leaky_relu, g or c, get a sign; those of a hard sigmoid, which has two kinks, lie below both, between them, or
        above. Where c is clipped, it goes far beyond the bound at each step in every fourth channel, and stays far from
        it in the others.
        """
        spec, channels = self.shape.spec, torch.arange(self.shape.channels)
        bound, has_sign = spec.cell_clip, bool({"relu", "leaky_relu"} & {spec.activation, spec.activation_of_c})
        signs, biases, scale_of_g, size = 1.0 - 2.0 * (channels % 2), {}, torch.full(channels.shape, 0.25), 1.0
        if has_sign:
            biases[2] = 2 * signs
        if spec.recurrent_activation.startswith("hard"):
            biases |= {gate: 8.0 * ((channels + gate) % 3 - 1) for gate in (0, 1, 3)}
            if self.peephole is not None:
                self.peephole *= 0.25
        if bound is not None:
            beyond = channels % 4 == 0
            if not has_sign:
                signs = torch.where(channels % 8 == 4, -1.0, 1.0)
            biases[2] = torch.where(beyond, 3.0 * max(bound, 1.0), 0.1 * bound) * signs
            biases[0] = torch.where(beyond, 8.0, biases.get(0, torch.zeros(channels.shape)))
            scale_of_g, size = torch.where(beyond, 0.25, 0.01 * bound), torch.where(beyond, bound, 0.05 * bound)
        sizes_of_c = (size * signs).view(-1, *(1 for _ in self.shape.spatial))
        for name in ("c0", "reset_c"):
            if (c := getattr(self, name)) is not None and 2 in biases:
                setattr(self, name, (c.abs() + 0.5) * sizes_of_c.to(c.dtype))
        for gate, bias in biases.items() if self.bias is not None else ():
            self.bias.chunk(4)[gate].copy_(bias)
            for weight in (self.weight, self.input_weight):
                if weight is not None:
                    scale = scale_of_g.view(-1, *[1] * (weight.dim() - 1)).to(weight.dtype) if gate == 2 else 0.25
                    weight.chunk(4)[gate].mul_(scale)

    def tensors(self) -> dict[str, Tensor]:
        """The arguments that are there and may learn, by name."""
        named = {name: getattr(self, name) for name in ARGUMENTS if name != "marks"}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, *target: torch.dtype | torch.device | str) -> "Problem":
        """The same problem with every tensor, c0 and the cotangents included, in another dtype, on a device, or both.

        `target` is what `Tensor.to` takes: a device, a dtype, or the two in this order.
        """

        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            moved = tensor.to(*target)
            return moved if tensor.is_floating_point() else moved.to(tensor.dtype)

        return replace(
            self,
            **{name: move(getattr(self, name)) for name in ARGUMENTS},
            cotangents={name: move(tensor) for name, tensor in self.cotangents.items()},
        )

    def solve(
        self,
        run: Callable[["Problem"], Results],
        learning: Collection[str] = ARGUMENTS,
    ) -> dict[str, Tensor]:
        """All results of `run` and the gradients of the arguments in `learning`, by name.

        Cotangents that are None are left out of the loss.
        """
        leaves = {name: tensor.detach().requires_grad_(name in learning) for name, tensor in self.tensors().items()}
        results = dict(zip(RESULTS, run(replace(self, **leaves)), strict=True))
        leaves = {name: leaf for name, leaf in leaves.items() if name in learning}
        used = [name for name in RESULTS if self.cotangents[name] is not None]
        grads = torch.autograd.grad(
            [results[name] for name in used],
            list(leaves.values()),
            [self.cotangents[name] for name in used],
            materialize_grads=True,
        )
        named = {f"grad of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
        return {name: tensor.detach() for name, tensor in {**results, **named}.items()}


def by_operator(**options: str) -> Callable[[Problem], Results]:
    """Solve with the sequence operator with these options, by default its gates in ATen calls and "concat, save".

    The schedule is "hoisted" where nothing else is possible, too.
    """

    def run(problem: Problem) -> Results:
        *tensors, steps, spec = operator_arguments(problem, **options)
        return ops.sequence(Arguments(*tensors), steps, Spec.decode(spec))

    return run


def arguments(problem: Problem) -> Arguments:
    """The tensors of a problem as the operators take them; those that are not there are None."""
    return Arguments(*(getattr(problem, name) for name in ARGUMENTS))


def spec_of(problem: Problem, **options: str) -> Spec:
    """The resolved options with which an operator solves a problem."""
    shape = problem.shape
    spec = replace(shape.spec, **{"backend": "aten", "schedule": "concat"} | options)
    if shape.in_channels == 0:
        return replace(spec, schedule="concat")
    return spec if shape.input_kernel is None else replace(spec, schedule="hoisted")


def operator_arguments(problem: Problem, **options: str) -> tuple:
    """The arguments of the operators that run forward, with marks or without."""
    given = arguments(problem)
    given = given[:UNMARKED] if problem.marks is None else given
    return (*given, problem.shape.steps, spec_of(problem, **options).encode())


def by_reference(problem: Problem) -> Results:
    """Solve with the oracle's equations, in the problem's dtype."""
    shape, given = problem.shape, arguments(problem)
    if not shape.state:
        zeros = problem.weight.new_zeros(shape.batch, shape.channels, *shape.spatial)
        given = given._replace(h0=zeros, c0=zeros)
    return Results(*reference.sequence(**given._asdict(), steps=shape.steps, spec=shape.spec))


def in_channels_last(problem: Problem, multiple: int = 1) -> Results:
    """`by_reference`, with images and weight in channels last, the memory format that the layer computes in.

    An input gets channels of zeros until the convolution over it and the hidden state has as many as the layer's, whose
    rows are padded to this multiple.
    """
    images = {
        name: None if each is None else from_rows(to_rows(each).contiguous())
        for name, each in (("h0", problem.h0), ("c0", problem.c0), ("weight", problem.weight))
    }
    input, weight, inputs = problem.input, images["weight"], problem.shape.in_channels
    width = Layout(1, 1, (), inputs, problem.shape.channels, multiple).width
    if inputs and problem.input_weight is None and (zeros := width - weight.shape[1]):
        input = torch.cat([input, input.new_zeros(*input.shape[:2], zeros, *input.shape[3:])], 2)
        parts = weight[:, :inputs], weight.new_zeros(len(weight), zeros, *weight.shape[2:]), weight[:, inputs:]
        images["weight"] = from_rows(to_rows(torch.cat(parts, 1)).contiguous())
    input = None if input is None else from_rows(to_rows(input, channel_dim=2).contiguous(), channel_dim=2)
    return by_reference(replace(problem, input=input, **images))


def _draws(problem: Problem) -> int:
    """How many problems of one shape make its budget: the more, the fewer numbers each has.

    On a dozen numbers of bfloat16 one problem alone made a third of a percent of right answers look wrong, though their
    errors were on average two thirds of PyTorch's.
    """
    shape = problem.shape
    return min(40, max(5, 512 // max(1, shape.batch * shape.channels * math.prod(shape.spatial))))


def growing_budgets(
    draw: Callable[[int], Problem],
    dtype: torch.dtype,
    learning: Collection[str] = ARGUMENTS,
    device: str = "cpu",
    plain: Callable[[Problem], Results] = by_reference,
) -> Iterator[dict[str, float]]:
    """The budget of each result by name: the largest over one, then two, and so on up to a few problems of one shape.

    `draw` makes a problem from its seed, and `plain` solves it with PyTorch, whose errors make the budgets.
    """
    largest = {}
    for seed in range(_draws(draw(0))):
        problem = draw(seed)
        reference = problem.to(device, dtype).solve(plain, learning)
        oracle = problem.to(torch.float64).solve(by_reference, learning)
        for name in oracle:
            largest[name] = max(largest.get(name, 0.0), budget(reference[name].cpu(), oracle[name], dtype))
        yield dict(largest)


PATHS = {"aten": {"backend": "aten"}, "triton": {"backend": "triton"}}
"""Two implementations of the gates. On a CPU, "triton" is interpreted."""

ALL_PATHS = {**PATHS, "inductor": {"backend": "inductor"}}
"""With the one that is compiled, which takes seconds for each choice of options: for tests of the default ones."""

MODES = {
    "concat, save": {},
    "concat, recompute": {"memory": "recompute"},
    "hoisted, save": {"schedule": "hoisted"},
    "hoisted, recompute": {"schedule": "hoisted", "memory": "recompute"},
}
"""The schedules and what they keep."""


def modes_of(shape: Shape) -> list[str]:
    """The modes that differ for a shape: one schedule is all there is with an input kernel, and without an input."""
    if shape.input_kernel is None and shape.in_channels:
        return list(MODES)
    return [name for name in MODES if name.startswith("concat")]
