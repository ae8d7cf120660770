"""ONNX for any number of time steps: each layer becomes one `Scan`.

    with tritonlstm.onnx.scan() as table:
        torch.onnx.export(model, (frames,), "model.onnx", dynamo=True, dynamic_shapes=…, custom_translation_table=table)

Without it `torch.onnx.export` unrolls the equations over the T of its example. Needs onnxscript, as the exporter does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Sequence  # noqa: UP035 (onnxscript takes the other for a class on Python 3.10)

import torch
from onnx_ir import DataType
from onnxscript import graph, script, values
from onnxscript import opset18 as op
from onnxscript.onnx_types import TensorType

from .core.backend import as_operator_in_onnx
from .core.spec import Spec, per_dimension

ACTIVATIONS = ["tanh", "relu", "leaky_relu", "identity"]
"""By the numbers that stand for them below. The slope of ONNX's LeakyRelu is 0.01 by default, too."""

SCALES = {"sigmoid": 0.0, "hard_sigmoid": 1 / 6, "hard_sigmoid_keras2": 0.2}
"""Of ONNX's HardSigmoid; 0 for the logistic function."""


@script(values.Opset("tritonlstm", 1))
def conv_lstm(
    input,
    h0,
    c0,
    weight,
    bias,
    w_ci,
    w_cf,
    w_co,
    activation: int,
    output_activation: int,
    scale: float,
    bound: float,
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[TensorType, TensorType, TensorType]:
    """`reference.sequence` for images, as a Scan over the input's first dimension."""

    @graph()
    def step(h, c, x):
        convolved = op.Conv(op.Concat(x, h, axis=1), weight, bias, pads=pads, dilations=dilations)
        a_i, a_f, a_g, a_o = op.Split(op.CastLike(convolved, c), axis=1, num_outputs=4)
        if scale == 0.0:
            i = op.Sigmoid(a_i + w_ci * c)
            f = op.Sigmoid(a_f + w_cf * c)
        else:
            i = op.HardSigmoid(a_i + w_ci * c, alpha=scale)
            f = op.HardSigmoid(a_f + w_cf * c, alpha=scale)
        if activation == 0:
            g = op.Tanh(a_g)
        else:
            if activation == 1:
                g = op.Relu(a_g)
            else:
                if activation == 2:
                    g = op.LeakyRelu(a_g)
                else:
                    g = op.Identity(a_g)
        if bound > 0.0:
            c_next = op.Clip(f * c + i * g, op.CastLike(-bound, c), op.CastLike(bound, c))
        else:
            c_next = f * c + i * g
        if scale == 0.0:
            o = op.Sigmoid(a_o + w_co * c_next)
        else:
            o = op.HardSigmoid(a_o + w_co * c_next, alpha=scale)
        if output_activation == 0:
            squashed = op.Tanh(c_next)
        else:
            if output_activation == 1:
                squashed = op.Relu(c_next)
            else:
                if output_activation == 2:
                    squashed = op.LeakyRelu(c_next)
                else:
                    squashed = op.Identity(c_next)
        h_next = op.CastLike(o * squashed, h)
        output = op.Identity(h_next)
        return h_next, c_next, output

    h_n, c_n, output = op.Scan(h0, c0, input, body=step, num_scan_inputs=1)
    return output, h_n, c_n


def _translate(input, h0, c0, weight, input_weight, bias, peephole, steps, spec):
    """`tritonlstm::inference` in ONNX; absent states and parameters are zeros, and vectors are images of one pixel."""
    channels, dims, spec = weight.shape[0] // 4, len(weight.shape) - 2, Spec.decode(spec)
    _check_is_translated(input, weight, input_weight, spec)
    kernels = [each.shape[2:] for each in (weight, input_weight) if each is not None]
    kernel = [max(sizes) for sizes in zip(*kernels)] or [1, 1]  # vectors are images of one pixel
    dilations = per_dimension(spec.dilation, dims) or (1, 1)
    pads = [each * (size // 2) for each, size in zip(dilations, kernel)]
    if h0 is None:
        batch, spatial = op.Shape(input, start=1, end=2), op.Shape(input, start=3)
        h0 = _zeros(weight, op.Concat(batch, op.Constant(value_ints=[channels]), spatial, axis=0))
        c0 = h0 if weight.dtype == DataType.DOUBLE else op.Cast(h0, to=DataType.FLOAT)
    if input_weight is not None:
        weight = _in_one_kernel(input_weight, weight)
    if bias is None:
        bias = _zeros(weight, [4 * channels])
    if peephole is None:
        peephole = _zeros(c0, [3] + [1] * (1 + dims))
    if input is None:
        # A Scan must have something to scan: frames without channels.
        steps = op.Constant(value_ints=[steps]) if isinstance(steps, int) else op.Reshape(steps, [1])
        batch, none, spatial = op.Shape(h0, start=0, end=1), op.Constant(value_ints=[0]), op.Shape(h0, start=2)
        input = _zeros(h0, op.Concat(steps, batch, none, spatial, axis=0))
    if dims == 0:
        input, h0, c0, weight, peephole = (op.Unsqueeze(each, [-1, -2]) for each in (input, h0, c0, weight, peephole))
    peepholes = (op.Gather(op.CastLike(peephole, c0), index, axis=0) for index in range(3))
    options = {"activation": ACTIVATIONS.index(spec.activation), "scale": SCALES[spec.recurrent_activation]}
    options |= {"output_activation": ACTIVATIONS.index(spec.activation_of_c), "bound": spec.cell_clip or 0.0}
    options |= {"pads": pads * 2, "dilations": list(dilations)}
    if spec.reverse:
        input = _flip(input)
    output, h_n, c_n = conv_lstm(input, h0, c0, weight, op.CastLike(bias, weight), *peepholes, **options)
    if spec.returns == "last":
        output = op.Unsqueeze(h_n, [0])
    elif spec.reverse:
        output = _flip(output)
    results = output, h_n, c_n
    return results if dims else tuple(op.Squeeze(result, [-1, -2]) for result in results)


def _refuse_marks(input, h0, c0, weight, input_weight, bias, peephole, marks, reset_h, reset_c, steps, spec):
    """`tritonlstm::marked_inference`."""
    _refuse("lengths, reset and hold")


def _flip(sequence):
    """The last step first."""
    return op.Slice(sequence, [-1], [-(2**31)], [0], [-1])


def _check_is_translated(input, weight, input_weight, spec: Spec) -> None:
    """Refuses, by name, what has no translation here."""
    refused = []
    if spec.returns == "cells":
        refused.append("return_cells=True")
    if set(per_dimension(spec.padding_mode, 1)) != {"zeros"}:
        refused.append(f"padding_mode={spec.padding_mode!r}")
    if input is not None and input_weight is None and weight.shape[1] == weight.shape[0] // 4:
        refused.append("input_preact")
    if refused:
        _refuse(", ".join(refused))


def _refuse(what: str) -> None:
    raise NotImplementedError(
        f"tritonlstm.onnx.scan: {what} cannot be exported as a Scan; export without scan(), which unrolls the time"
        " steps of the example"
    )


def _in_one_kernel(input_weight, weight):
    """Two weights side by side, their kernels with zeros around them up to the larger size."""
    sizes = [*map(max, input_weight.shape[2:], weight.shape[2:])]
    padded = []
    for each in (input_weight, weight):
        margins = [(size - own) // 2 for size, own in zip(sizes, each.shape[2:])]
        padded.append(op.Pad(each, op.Constant(value_ints=[0, 0, *margins, 0, 0, *margins])))
    return op.Concat(*padded, axis=1)


def _zeros(like, shape):
    return op.Expand(op.CastLike(0.0, like), shape)


@contextmanager
def scan() -> Iterator[dict[Callable, Callable]]:
    """Export layers as operators; the table that this gives tells the exporter how to write each as a Scan."""
    with as_operator_in_onnx():
        yield {
            torch.ops.tritonlstm.inference.default: _translate,
            torch.ops.tritonlstm.marked_inference.default: _refuse_marks,
        }
