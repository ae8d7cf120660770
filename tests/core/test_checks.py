"""Wrong calls: each raises before anything is computed, names the argument, and leaves the layer as it was."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonlstm import (
    ConvLSTM1d,
    ConvLSTM1dCell,
    ConvLSTM2d,
    ConvLSTM2dCell,
    ConvLSTM3d,
    LSTMState,
    PeepholeLSTM,
    PeepholeLSTMCell,
    functional,
)
from tritonlstm.core.marks import make_marks
from tritonlstm.data import moving_mnist
from tritonlstm.models import EncoderForecaster


@dataclass(frozen=True)
class Wrong:
    """A wrong call, its exception, and what the message must contain: the argument, what was wanted, what came."""

    call: Callable
    error: type[Exception]
    message: tuple[str, ...]
    runs_layers_below: bool = False  # a stack reads no parameters: each cell checks its own when its turn comes


V, T = ValueError, TypeError

CONSTRUCTORS = {
    "negative in_channels": Wrong(lambda: ConvLSTM2d(-1, 4, 3), V, ("in_channels", "at least 0", "-1")),
    "no hidden channels": Wrong(lambda: ConvLSTM2d(2, 0, 3), V, ("hidden_channels", "at least 1", "0")),
    "float channels": Wrong(lambda: ConvLSTM2d(2, 4.0, 3), T, ("hidden_channels", "integer", "4.0")),
    "bool channels": Wrong(lambda: ConvLSTM2d(True, 4, 3), T, ("in_channels", "integer", "True")),
    "even kernel": Wrong(lambda: ConvLSTM2d(2, 4, 4), V, ("kernel_size", "odd", "(4, 4)")),
    "half even kernel": Wrong(lambda: ConvLSTM2d(2, 4, (3, 2)), V, ("kernel_size", "odd", "(3, 2)")),
    "kernel triple": Wrong(lambda: ConvLSTM2d(2, 4, (3, 3, 3)), T, ("kernel_size", "pair", "(3, 3, 3)")),
    "signals, kernel pair": Wrong(lambda: ConvLSTM1d(2, 4, (3, 3)), T, ("kernel_size", "a tuple of one", "(3, 3)")),
    "signals, even kernel": Wrong(lambda: ConvLSTM1d(2, 4, 2), V, ("kernel_size", "odd", "(2,)")),
    "signals, full without size": Wrong(
        lambda: ConvLSTM1d(2, 4, 3, peephole="full"), V, ("spatial_size", "(L)", "None")
    ),
    "cell of signals, an image's size": Wrong(
        lambda: ConvLSTM1dCell(2, 4, 3, peephole="full", spatial_size=(8, 8)), T, ("spatial_size", "one", "(8, 8)")
    ),
    "volumes, kernel pair": Wrong(lambda: ConvLSTM3d(2, 4, (3, 3)), T, ("kernel_size", "triple", "(3, 3)")),
    "volumes, even kernel": Wrong(lambda: ConvLSTM3d(2, 4, (3, 3, 4)), V, ("kernel_size", "odd", "(3, 3, 4)")),
    "volumes, a list that could be a triple": Wrong(
        lambda: ConvLSTM3d(2, 4, [5, 3, 1]),
        V,
        ("kernel_size", "[[5, 3, 1]] or num_layers=1", "num_layers=3 for three layers", "got [5, 3, 1]"),
    ),
    "volumes, a list of three for two layers": Wrong(
        lambda: ConvLSTM3d(2, 4, [5, 3, 1], 2), V, ("kernel_size", "or 2, one for each", "[5, 3, 1]", "a triple for")
    ),
    "volumes, full without size": Wrong(
        lambda: ConvLSTM3d(2, 4, 3, peephole="full"), V, ("spatial_size", "(D, H, W)", "None")
    ),
    "volumes, images": Wrong(
        lambda: ConvLSTM3d(2, 4, 3)(torch.zeros(3, 2, 5, 4)), V, ("input", "(T, B, Cin, D, H, W)", "(3, 2, 5, 4)")
    ),
    "negative kernel": Wrong(lambda: ConvLSTM2d(2, 4, -3), V, ("kernel_size", "at least 1", "-3")),
    "layers a bool": Wrong(lambda: ConvLSTM2d(2, 4, 3, True), T, ("num_layers", "integer", "True")),
    "no layers": Wrong(lambda: ConvLSTM2d(2, 4, 3, 0), V, ("num_layers", "at least 1", "0")),
    "lists of two lengths": Wrong(
        lambda: ConvLSTM2d(2, [4, 4], [3, 3, 3]), V, ("num_layers", "one length", "hidden_channels", "3")
    ),
    "list too short": Wrong(lambda: ConvLSTM2d(2, [4, 4], 3, 3), V, ("hidden_channels", "3", "[4, 4]")),
    "empty list": Wrong(lambda: ConvLSTM2d(2, [], 3), V, ("num_layers", "at least 1", "0")),
    "bias a number": Wrong(lambda: ConvLSTM2d(2, 4, 3, bias=1), T, ("bias", "bool", "1")),
    "unknown peephole": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole="all"), V, ("peephole", "'channel'", "'all'")),
    "unhashable peephole": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole=[]), V, ("peephole", "'channel'", "[]")),
    "full without size": Wrong(lambda: ConvLSTM2d(2, 4, 3, peephole="full"), V, ("spatial_size", "(H, W)", "None")),
    "size without full": Wrong(lambda: ConvLSTM2d(2, 4, 3, spatial_size=(8, 8)), V, ("spatial_size", "None", "(8, 8)")),
    "size with zero": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, peephole="full", spatial_size=(0, 8)), V, ("spatial_size", "at least 1", "0")
    ),
    "unknown activation": Wrong(lambda: ConvLSTM2d(2, 4, 3, activation="gelu"), V, ("activation", "'relu'", "'gelu'")),
    "unknown output activation": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, output_activation="sigmoid"), V, ("output_activation", "None, 'tanh'", "'sigmoid'")
    ),
    "output activation a module": Wrong(
        lambda: PeepholeLSTM(2, 4, output_activation=torch.nn.Tanh()), V, ("output_activation", "'tanh'", "Tanh()")
    ),
    "cell_clip zero": Wrong(lambda: ConvLSTM2d(2, 4, 3, cell_clip=0), V, ("cell_clip", "None or a positive", "got 0")),
    "cell_clip negative": Wrong(lambda: ConvLSTM2dCell(2, 4, 3, cell_clip=-1.5), V, ("cell_clip", "positive", "-1.5")),
    "cell_clip infinite": Wrong(lambda: ConvLSTM2d(2, 4, 3, cell_clip=float("inf")), V, ("cell_clip", "e+38", "inf")),
    "cell_clip NaN": Wrong(lambda: PeepholeLSTM(2, 4, cell_clip=float("nan")), V, ("cell_clip", "positive", "nan")),
    "cell_clip no float32": Wrong(lambda: ConvLSTM2d(2, 4, 3, cell_clip=1e300), V, ("cell_clip", "e+38", "1e+300")),
    "cell_clip a bool": Wrong(lambda: ConvLSTM2d(2, 4, 3, cell_clip=True), T, ("cell_clip", "number", "True")),
    "cell_clip a pair": Wrong(lambda: ConvLSTM2d(2, 4, 3, cell_clip=(-1, 1)), T, ("cell_clip", "number", "(-1, 1)")),
    "misspelt cell_clip": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, cellclip=1.0), T, ("ConvLSTM2d:", "cellclip=1.0", "did you mean 'cell_clip'?")
    ),
    "unknown backend": Wrong(lambda: ConvLSTM2d(2, 4, 3, backend="cudnn"), V, ("backend", "'auto'", "'cudnn'")),
    "unknown memory": Wrong(lambda: ConvLSTM2d(2, 4, 3, memory="less"), V, ("memory", "'recompute'", "'less'")),
    "unknown schedule": Wrong(lambda: ConvLSTM2d(2, 4, 3, schedule="x"), V, ("schedule", "'hoisted'", "'x'")),
    "unknown schedule of vectors": Wrong(lambda: PeepholeLSTM(2, 4, schedule="x"), V, ("schedule", "'auto'", "'x'")),
    "even input kernel": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size=2), V, ("input_kernel_size", "odd", "(2, 2)")
    ),
    "input kernel a string": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size="3"), T, ("input_kernel_size", "pair", "'3'")
    ),
    "two input kernels for three layers": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, 3, input_kernel_size=[3, 5]), V, ("input_kernel_size", "3", "[3, 5]")
    ),
    "two kernels in one convolution": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size=5, schedule="concat"), V, ("schedule", "input_kernel_size", "5")
    ),
    "forecaster, input kernels": Wrong(
        lambda: EncoderForecaster(1, [2, 2], 3, input_kernel_size=[3, 5]), T, ("input_kernel_size", "one", "[3, 5]")
    ),
    "forget_bias a string": Wrong(lambda: ConvLSTM2d(2, 4, 3, forget_bias="1"), T, ("forget_bias", "number", "'1'")),
    "batch_first a number": Wrong(lambda: ConvLSTM2d(2, 4, 3, batch_first=1), T, ("batch_first", "bool", "1")),
    "integer dtype": Wrong(lambda: ConvLSTM2d(2, 4, 3, dtype=torch.int32), T, ("dtype", "float32", "int32")),
    "cell, even kernel": Wrong(lambda: ConvLSTM2dCell(2, 4, 2), V, ("kernel_size", "odd", "(2, 2)")),
    "negative input_size": Wrong(lambda: PeepholeLSTM(-2, 4), V, ("input_size", "at least 0", "-2")),
    "hidden_size a string": Wrong(lambda: PeepholeLSTMCell(2, "4"), T, ("hidden_size", "integer", "'4'")),
    "peephole a string": Wrong(lambda: PeepholeLSTM(2, 4, peephole="full"), T, ("peephole", "bool", "'full'")),
    "no dilation": Wrong(lambda: ConvLSTM2d(2, 4, 3, dilation=0), V, ("dilation", "at least 1", "0")),
    "dilation a float": Wrong(lambda: ConvLSTM2d(2, 4, 3, dilation=2.0), T, ("dilation", "integer", "2.0")),
    "dilation a bool": Wrong(lambda: ConvLSTM2dCell(2, 4, 3, dilation=True), T, ("dilation", "integer", "True")),
    "dilation of three dimensions": Wrong(
        lambda: ConvLSTM2dCell(2, 4, 3, dilation=(1, 2, 1)), V, ("dilation", "each of H, W", "(1, 2, 1)")
    ),
    "dilation a triple for a stack": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, dilation=(1, 2, 1)), T, ("dilation", "pair", "(1, 2, 1)")
    ),
    "dilation a list that could be a pair": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, dilation=[1, 2]),
        V,
        ("dilation", "with a dilation of 1×2", "dilations of 1×1 and 2×2", "got [1, 2]"),
    ),
    "dilation of three layers for two": Wrong(
        lambda: ConvLSTM2d(2, [4, 4], 3, 2, dilation=[1, 2, 1]), V, ("dilation", "2, one for each", "[1, 2, 1]")
    ),
    "dilation of vectors": Wrong(lambda: PeepholeLSTM(2, 4, dilation=2), V, ("dilation", "1 for vectors", "2")),
    "padding of vectors": Wrong(
        lambda: PeepholeLSTMCell(2, 4, padding_mode="circular"), V, ("padding_mode", "'zeros' for vectors", "'circ")
    ),
    "unknown padding mode": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, padding_mode="wrap"), V, ("padding_mode", "'circular'", "'wrap'")
    ),
    "unknown padding mode in W": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, padding_mode=("zeros", "same")), V, ("padding_mode", "'reflect'", "'same'")
    ),
    "padding modes of three dimensions": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, padding_mode=("zeros",) * 3), V, ("padding_mode", "each of H, W", "'zeros', 'zer")
    ),
    "padding mode a number": Wrong(lambda: ConvLSTM1d(2, 4, 3, padding_mode=0), V, ("padding_mode", "'zeros'", "0")),
    "forecaster, batch_first": Wrong(
        lambda: EncoderForecaster(1, [4], 3, batch_first=True), T, ("batch_first", "(T, B, …)", "True")
    ),
    "forecaster, num_layers": Wrong(
        lambda: EncoderForecaster(1, [4], 3, num_layers=1), T, ("num_layers", "hidden_channels", "1")
    ),
    "forecaster, two dilations": Wrong(
        lambda: EncoderForecaster(1, [4, 4], 3, dilation=[1, 2]), T, ("dilation", "one for all", "[1, 2]")
    ),
    "forecaster, one width": Wrong(lambda: EncoderForecaster(1, 4, 3), T, ("hidden_channels", "list", "4")),
    "forecaster, two kernels": Wrong(
        lambda: EncoderForecaster(1, [4, 4], [3, 5]), T, ("kernel_size", "one for all", "[3, 5]")
    ),
    "a list that could be a pair": Wrong(
        lambda: ConvLSTM2d(2, 4, [5, 3]), V, ("kernel_size", "[[5, 3]] or num_layers=1", "[[5, 5], [3, 3]]", "[5, 3]")
    ),
    "an input's list that could be a pair": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_kernel_size=[1, 1]), V, ("input_kernel_size", "num_layers=2", "got [1, 1]")
    ),
    "a list of two for three layers": Wrong(
        lambda: ConvLSTM2d(2, 4, [5, 3], 3), V, ("kernel_size", "or 3, one for each", "[5, 3]", "a tuple of two")
    ),
    "kernel a string of two": Wrong(lambda: ConvLSTM2d(2, 4, "53"), T, ("kernel_size", "pair", "'53'")),
    "kernel of bytes": Wrong(lambda: ConvLSTM2d(2, 4, b"53"), T, ("kernel_size", "pair", "b'53'")),
    "kernel a tensor": Wrong(lambda: ConvLSTM2d(2, 4, torch.tensor(3)), T, ("kernel_size", "pair", "tensor(3)")),
    "kernel with a float": Wrong(lambda: ConvLSTM2d(2, 4, (3.0, 3)), T, ("kernel_size", "pair", "(3.0, 3)")),
    "kernel an empty tuple": Wrong(lambda: ConvLSTM2d(2, 4, ()), T, ("kernel_size", "pair", "()")),
    "kernel a bool": Wrong(lambda: ConvLSTM2d(2, 4, True), T, ("kernel_size", "integer", "True")),
    "kernel None": Wrong(lambda: ConvLSTM2d(2, 4, None, 2), T, ("kernel_size", "integer", "None")),
    "kernel with a zero": Wrong(lambda: ConvLSTM2d(2, 4, [[3, 0]]), V, ("kernel_size", "at least 1", "0")),
    "second layer's even kernel": Wrong(lambda: ConvLSTM2d(2, 4, [3, 4], 2), V, ("kernel_size", "odd", "(4, 4)")),
    "widths with a float": Wrong(lambda: ConvLSTM2d(2, (4, 2.5), 3), T, ("hidden_channels", "integer", "2.5")),
    "widths with a zero": Wrong(lambda: ConvLSTM2d(2, (4, 0), 3), V, ("hidden_channels", "at least 1", "0")),
    "width a string": Wrong(lambda: ConvLSTM2d(2, "44", 3), T, ("hidden_channels", "integer", "'44'")),
    "width NumPy's bool": Wrong(lambda: ConvLSTM2d(2, np.bool_(True), 3), T, ("hidden_channels", "integer", "True")),
    "input a float": Wrong(lambda: ConvLSTM2d(2.0, 4, 3), T, ("in_channels", "integer", "2.0")),
    "layers NumPy's float": Wrong(lambda: PeepholeLSTM(2, 4, np.float64(2)), T, ("num_layers", "integer", "2.0")),
    "hidden_size too short": Wrong(lambda: PeepholeLSTM(2, (4, 4), 3), V, ("hidden_size", "3", "[4, 4]")),
    "no hidden_size": Wrong(lambda: PeepholeLSTM(2, []), V, ("num_layers", "at least 1", "0")),
    "size a string": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, peephole="full", spatial_size="88"), T, ("spatial_size", "pair", "'88'")
    ),
    "size a triple": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, peephole="full", spatial_size=[8, 8, 8]), T, ("spatial_size", "pair", "[8, 8, 8]")
    ),
    "activation an array": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, activation=np.array(["tanh", "relu"])), V, ("activation", "'relu'", "array(")
    ),
    "activation a large array": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, activation=np.zeros((50, 50))), V, ("activation", "'relu'", "array([[0.")
    ),
    "activation a function": Wrong(
        lambda: PeepholeLSTMCell(2, 4, activation=torch.tanh), V, ("activation", "'tanh'", "<built-in method tanh")
    ),
    "recurrent activation a list": Wrong(
        lambda: PeepholeLSTM(2, 4, recurrent_activation=["sigmoid"]), V, ("recurrent_activation", "'hard_", "['sig")
    ),
    "backend a dictionary": Wrong(lambda: ConvLSTM2d(2, 4, 3, backend={}), V, ("backend", "'torch'", "{}")),
    "bias a string": Wrong(lambda: PeepholeLSTM(2, 4, bias="no"), T, ("bias", "bool", "'no'")),
    "bias a tensor": Wrong(lambda: ConvLSTM2dCell(2, 4, 3, bias=torch.tensor(True)), T, ("bias", "bool", "tensor(")),
    "batch_first None": Wrong(lambda: PeepholeLSTM(2, 4, batch_first=None), T, ("batch_first", "bool", "None")),
    "forget_bias nan": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, forget_bias=float("nan")), V, ("forget_bias", "finite number", "nan")
    ),
    "forget_bias infinite": Wrong(
        lambda: PeepholeLSTM(2, 4, forget_bias=float("-inf")), V, ("forget_bias", "finite number", "-inf")
    ),
    "forget_bias NumPy's nan": Wrong(
        lambda: PeepholeLSTMCell(2, 4, forget_bias=np.float32("nan")), V, ("forget_bias", "finite number", "nan")
    ),
    "forget_bias larger than any float": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, forget_bias=10**400), V, ("forget_bias", "finite number", "1000000")
    ),
    "forget_bias that Python cannot write": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, forget_bias=10**5000), V, ("forget_bias", "finite number", "got int")
    ),
    "forget_bias larger than the dtype's": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, forget_bias=7e4, dtype=torch.float16), V, ("forget_bias", "at most 65504", "70000")
    ),
    "forget_bias a bool": Wrong(lambda: ConvLSTM2d(2, 4, 3, forget_bias=True), T, ("forget_bias", "number", "True")),
    "forget_bias complex": Wrong(lambda: ConvLSTM2d(2, 4, 3, forget_bias=1j), T, ("forget_bias", "number", "1j")),
    "dtype an array": Wrong(lambda: ConvLSTM2d(2, 4, 3, dtype=np.ones(2)), T, ("dtype", "torch.float32", "array(")),
    "dtype NumPy's": Wrong(
        lambda: PeepholeLSTM(2, 4, dtype=np.float32), T, ("dtype", "torch.float32", "numpy.float32")
    ),
    "dtype complex": Wrong(
        lambda: ConvLSTM2dCell(2, 4, 3, dtype=torch.complex64), T, ("dtype", "torch.float32", "complex64")
    ),
    "misspelt option": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, activaton="relu"),
        T,
        ("ConvLSTM2d:", "schedule", "activaton='relu'; did you mean 'acti"),
    ),
    "misspelt keyword": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, num_layer=2), T, ("ConvLSTM2d:", "num_layers", "num_layer=2; did you mean 'num_l")
    ),
    "unknown option": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, attention=1), T, ("ConvLSTM2d:", "forget_bias, batch_first", "attention=1")
    ),
    "cell, misspelt option": Wrong(
        lambda: ConvLSTM2dCell(2, 4, 3, backnd="aten"), T, ("ConvLSTM2dCell:", "input_kernel_size", "mean 'backend'?")
    ),
    "vectors, an option of images": Wrong(
        lambda: PeepholeLSTM(2, 4, kernel_size=3), T, ("PeepholeLSTM:", "input_size, hidden_size", "kernel_size=3")
    ),
    "cell of vectors, an option of images": Wrong(
        lambda: PeepholeLSTMCell(2, 4, spatial_size=3), T, ("PeepholeLSTMCell:", "forget_bias", "spatial_size=3")
    ),
    "forecaster, misspelt option": Wrong(
        lambda: EncoderForecaster(1, [4], 3, peepholes="full"), T, ("EncoderForecaster:", "out_channels", "'peephole'?")
    ),
    "subclass, misspelt option": Wrong(
        lambda: type("Mine", (ConvLSTM2d,), {})(2, 4, 3, memry=1),
        T,
        ("Mine:", "memory", "memry=1; did you mean 'memory'"),
    ),
    "reverse a number": Wrong(lambda: ConvLSTM2d(2, 4, 3, reverse=1), T, ("reverse", "bool", "1")),
    "reverse beside both directions": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, reverse=True, bidirectional=True), V, ("reverse", "bidirectional=True", "True")
    ),
    "bidirectional a number": Wrong(lambda: PeepholeLSTM(2, 4, bidirectional=2), T, ("bidirectional", "bool", "2")),
    "dropout a string": Wrong(lambda: PeepholeLSTM(2, 4, 2, dropout="0.1"), T, ("dropout", "number", "'0.1'")),
    "dropout of more than 1": Wrong(lambda: ConvLSTM2d(2, [4, 4], 3, dropout=1.5), V, ("dropout", "0 and 1", "1.5")),
    "negative dropout": Wrong(lambda: PeepholeLSTM(2, 4, 2, dropout=-0.1), V, ("dropout", "0 and 1", "-0.1")),
    "input_dropout nan": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, input_dropout=float("nan")), V, ("input_dropout", "finite number", "nan")
    ),
    "recurrent_dropout a bool": Wrong(
        lambda: PeepholeLSTMCell(2, 4, recurrent_dropout=True), T, ("recurrent_dropout", "number", "True")
    ),
    "zoneout of more than 1": Wrong(lambda: ConvLSTM2d(2, 4, 3, zoneout=(0.1, 2)), V, ("zoneout", "0 and 1", "2")),
    "zoneout of three": Wrong(lambda: ConvLSTM2d(2, 4, 3, zoneout=[0.1] * 3), T, ("zoneout", "h and c", "[0.1, 0.1")),
    "zoneout a string": Wrong(lambda: PeepholeLSTM(2, 4, zoneout="0.1"), T, ("zoneout", "number", "'0.1'")),
    "norm a module": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, norm=torch.nn.GroupNorm(1, 16)), T, ("norm", "lambda channels", "GroupNorm")
    ),
    "norm a string": Wrong(lambda: ConvLSTM2d(2, 4, 3, norm="group"), T, ("norm", "function", "'group'")),
    "norm that makes no module": Wrong(
        lambda: PeepholeLSTM(2, 4, norm=lambda channels: channels), T, ("norm", "torch.nn.Module", "int")
    ),
    "norm, recomputed": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, norm=torch.nn.BatchNorm2d, memory="recompute"), V, ("memory", "norm", "recompute")
    ),
    "norm of a projection": Wrong(
        lambda: PeepholeLSTM(2, 4, proj_size=2, norm=torch.nn.LayerNorm), V, ("proj_size", "norm", "2")
    ),
    "zoneout of a projection": Wrong(
        lambda: PeepholeLSTM(2, 4, proj_size=2, zoneout=0.1), V, ("proj_size", "zoneout", "2")
    ),
    "what a call returns, in the constructor": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, returns="last"), T, ("ConvLSTM2d:", "bidirectional", "returns='last'")
    ),
    "proj_size too large": Wrong(
        lambda: PeepholeLSTM(2, 4, proj_size=4), V, ("proj_size", "less than hidden_size = 4", "4")
    ),
    "proj_size negative": Wrong(lambda: PeepholeLSTMCell(2, 4, proj_size=-1), V, ("proj_size", "at least 0", "-1")),
    "proj_size a float": Wrong(lambda: PeepholeLSTM(2, 4, proj_size=2.0), T, ("proj_size", "integer", "2.0")),
    "proj_size of images": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, proj_size=2), T, ("ConvLSTM2d:", "forget_bias", "proj_size=2")
    ),
    "forecaster, bidirectional": Wrong(
        lambda: EncoderForecaster(1, [4], 3, bidirectional=True), T, ("bidirectional", "forward in time", "True")
    ),
    "forecaster, reverse": Wrong(
        lambda: EncoderForecaster(1, [4], 3, reverse=True), T, ("reverse", "forward in time", "True")
    ),
    "forecaster, dropout": Wrong(lambda: EncoderForecaster(1, [4], 3, dropout=0.5), T, ("dropout", "one by", "0.5")),
    "forecaster, no input": Wrong(lambda: EncoderForecaster(0, [4], 3), V, ("in_channels", "at least 1", "0")),
    "forecaster, no layers": Wrong(lambda: EncoderForecaster(1, [], 3), V, ("hidden_channels", "at least 1", "0")),
    "forecaster, a string": Wrong(lambda: EncoderForecaster(1, "44", 3), T, ("hidden_channels", "list", "'44'")),
    "forecaster, no width": Wrong(lambda: EncoderForecaster(1, (4, 0), 3), V, ("hidden_channels", "at least 1", "0")),
    "forecaster, even kernel": Wrong(lambda: EncoderForecaster(1, [4], [3, 4]), V, ("kernel_size", "odd", "(3, 4)")),
    "forecaster, two pairs": Wrong(
        lambda: EncoderForecaster(1, [4, 4], [[3, 3], [5, 5]]), T, ("kernel_size", "one for all", "[[3, 3], [5, 5]]")
    ),
    "forecaster, output a float": Wrong(
        lambda: EncoderForecaster(1, [4], 3, 1.0), T, ("out_channels", "integer", "1.0")
    ),
    "forecaster, no output": Wrong(lambda: EncoderForecaster(1, [4], 3, 0), V, ("out_channels", "at least 1", "0")),
}

STEPS, BATCH, SIZE = 3, 2, (5, 4)


def layer() -> ConvLSTM2d:
    return ConvLSTM2d(2, [4, 3], 3, peephole="full", spatial_size=SIZE)


def frames(*shape: int) -> torch.Tensor:
    return torch.ones(*(shape or (STEPS, BATCH, 2, *SIZE)))


def state(*, first: int = 4, second: int = 3, batch: int = BATCH, size: tuple[int, ...] = SIZE) -> list:
    return [tuple(torch.zeros(batch, channels, *size) for _ in range(2)) for channels in (first, second)]


def replaced(pairs: list, index: int, pair: object) -> list:
    return [*pairs[:index], pair, *pairs[index + 1 :]]


H = torch.zeros(BATCH, 4, *SIZE)
RESET = torch.ones(STEPS, BATCH, dtype=torch.bool)


def with_foreign_cell() -> ConvLSTM2d:
    model = layer()
    model.layers[1] = torch.nn.Sequential(model.layers[1])
    return model


def equal_layers(state: object, **options: object) -> object:
    """Two layers of one width, with a state."""
    return ConvLSTM2d(2, [4, 4], 3)(frames(), state, **options)


def with_weight(module: ConvLSTM2d, index: int, name: str, *shape: int) -> object:
    """A copy of the layer in which a parameter of one cell is replaced, called."""
    module = copy.deepcopy(module)
    setattr(module.layers[index], name, torch.nn.Parameter(torch.zeros(shape)))
    return module(frames())


def packed(channels: int) -> torch.nn.utils.rnn.PackedSequence:
    """Two sequences, of three and two images."""
    return torch.nn.utils.rnn.pack_sequence([torch.ones(n, channels, *SIZE) for n in (3, 2)])


def without_layers(module: ConvLSTM2d) -> ConvLSTM2d:
    module = copy.deepcopy(module)
    module.layers = torch.nn.ModuleList()
    return module


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor(list(frames()), layout=torch.jagged)


CALLS = {
    "input without channels": Wrong(lambda m: m(frames(3, 5, 4)), V, ("input", "(T, B, Cin, H, W)", "(3, 5, 4)")),
    "input of six dimensions": Wrong(lambda m: m(frames(1, 1, 1, 2, 5, 4)), V, ("input", "(T, B, Cin, H, W)", "(1, 1")),
    "wrong channels": Wrong(lambda m: m(frames(3, 2, 3, 5, 4)), V, ("input", "Cin = 2", "(3, 2, 3, 5, 4)")),
    "no time steps": Wrong(lambda m: m(frames(0, 2, 2, 5, 4)), V, ("input", "at least one", "(0, 2, 2, 5, 4)")),
    "double input": Wrong(lambda m: m(frames().double()), T, ("input", "float32", "float64")),
    "half input": Wrong(lambda m: m(frames().bfloat16()), T, ("input", "float32", "bfloat16")),
    "integer input": Wrong(lambda m: m(frames().long()), T, ("input", "float32", "int64")),
    "an array": Wrong(lambda m: m(np.ones((3, 2, 2, 5, 4))), T, ("input", "Tensor", "ndarray")),
    "another device": Wrong(lambda m: m(frames().to("meta")), V, ("input", "cpu", "meta")),
    "no input": Wrong(lambda m: m(None, steps=3), V, ("input", "2 channels", "None")),
    "steps that disagree": Wrong(lambda m: m(frames(), steps=4), V, ("steps", "3", "4")),
    "no steps": Wrong(lambda m: m(frames(), steps=0), V, ("steps", "at least 1", "0")),
    "negative steps": Wrong(lambda m: m(frames(), steps=-3), V, ("steps", "at least 1", "-3")),
    "steps a float": Wrong(lambda m: m(frames(), steps=3.0), T, ("steps", "integer", "3.0")),
    "steps a bool": Wrong(lambda m: m(frames(1, 2, 2, 5, 4), steps=True), T, ("steps", "integer", "True")),
    "another image size": Wrong(lambda m: m(frames(3, 2, 2, 6, 4)), V, ("layers[0].peephole", "(5, 4)", "(6, 4)")),
    "state a tensor": Wrong(lambda m: m(frames(), H), T, ("state", "2 layers", "Tensor")),
    "state of one layer": Wrong(lambda m: m(frames(), state()[:1]), T, ("state", "2 layers", "length 1")),
    "state without c": Wrong(lambda m: m(frames(), replaced(state(), 1, (H,))), T, ("state[1]", "(h, c)", "length 1")),
    "state of None": Wrong(
        lambda m: m(frames(), replaced(state(), 0, (None, H))), T, ("state[0][0]", "Tensor", "None")
    ),
    "state of another batch": Wrong(
        lambda m: m(frames(), state(batch=3)), V, ("state[0][0]", "(2, 4, 5, 4)", "(3, 4, 5, 4)")
    ),
    "second state's channels": Wrong(
        lambda m: m(frames(), state(second=4)), V, ("state[1][0]", "(2, 3, 5, 4)", "(2, 4, 5, 4)")
    ),
    "state of another size": Wrong(
        lambda m: m(frames(), state(size=(5, 5))), V, ("state[0][0]", "(2, 4, 5, 4)", "(2, 4, 5, 5)")
    ),
    "unbatched state": Wrong(
        lambda m: m(frames(), [(h[0], c[0]) for h, c in state()]), V, ("state[0][0]", "(2, 4, 5, 4)", "(4, 5, 4)")
    ),
    "double h": Wrong(
        lambda m: m(frames(), [(h.double(), c) for h, c in state()]), T, ("state[0][0] (h)", "float32", "float64")
    ),
    "half c": Wrong(
        lambda m: m(frames(), [(h, c.half()) for h, c in state()]), T, ("state[0][1] (c)", "float32", "float16")
    ),
    "state on another device": Wrong(
        lambda m: m(frames(), [(h, c.to("meta")) for h, c in state()]), V, ("state[0][1]", "cpu", "meta")
    ),
    "step with a sequence": Wrong(lambda m: m.step(frames()), V, ("frame", "(B, Cin, H, W)", "(3, 2, 2, 5, 4)")),
    "step with wrong channels": Wrong(lambda m: m.step(frames(2, 1, 5, 4)), V, ("frame", "Cin = 2", "(2, 1, 5, 4)")),
    "step without a frame": Wrong(lambda m: m.step(None, state()), V, ("frame", "2 channels", "None")),
    "cell without tensors in its state": Wrong(
        lambda m: m.layers[0](frames(2, 5, 4), (None, None)), T, ("state[0]", "Tensor", "NoneType")
    ),
    "sparse input": Wrong(lambda m: m(frames().to_sparse()), T, ("input", "dense", "torch.sparse_coo")),
    "sparse frame": Wrong(lambda m: m.step(frames()[0].to_sparse()), T, ("frame", "dense", "torch.sparse_coo")),
    "MKLDNN input": Wrong(lambda m: m(frames().to_mkldnn()), T, ("input", "dense", "torch._mkldnn")),
    "nested input": Wrong(lambda m: m(nested()), T, ("input", "dense", "a nested tensor")),
    "nested input of a cell": Wrong(lambda m: m.layers[0](nested()), T, ("input", "dense", "a nested tensor")),
    "sparse h": Wrong(
        lambda m: m(frames(), replaced(state(), 1, (torch.zeros(2, 3, 5, 4).to_sparse(), torch.zeros(2, 3, 5, 4)))),
        T,
        ("state[1][0]", "dense", "torch.sparse_coo"),
    ),
    "MKLDNN c": Wrong(
        lambda m: m(frames(), replaced(state(), 0, (H, H.to_mkldnn()))), T, ("state[0][1]", "dense", "torch._mkldnn")
    ),
    "sparse c of a cell": Wrong(
        lambda m: m.layers[0](frames(2, 2, 5, 4), (H, H.to_sparse())), T, ("state[1]", "dense", "torch.sparse_coo")
    ),
    "complex input": Wrong(lambda m: m(frames().cfloat()), T, ("input", "float32", "complex64")),
    "byte input beside a state": Wrong(lambda m: m(frames().byte(), state()), T, ("input", "float32", "uint8")),
    "double input beside a state": Wrong(lambda m: m(frames().double(), state()), T, ("input", "float32", "float64")),
    "frame of bytes beside a state": Wrong(
        lambda m: m.step(frames()[0].byte(), state()), T, ("frame", "float32", "uint8")
    ),
    "input on another device beside a state": Wrong(
        lambda m: m(frames().to("meta"), state()), V, ("input", "cpu", "meta")
    ),
    "bytes of a cell beside a state": Wrong(
        lambda m: m.layers[0](frames()[0].byte(), (H, H)), T, ("input", "float32", "uint8")
    ),
    "wrong channels beside a wrong state": Wrong(
        lambda m: m(frames(3, 2, 3, 5, 4), "state"), V, ("input", "Cin = 2", "(3, 2, 3, 5, 4)")
    ),
    "state a number": Wrong(lambda m: m(frames(), 1.0), T, ("state", "2 layers", "float")),
    "state a tensor without dimensions": Wrong(
        lambda m: m(frames(), torch.tensor(1.0)), T, ("state", "2 layers", "Tensor of shape ()")
    ),
    "state a type": Wrong(lambda m: m(frames(), LSTMState), T, ("state", "2 layers", "the class LSTMState")),
    "state a string": Wrong(lambda m: m(frames(), "ab"), T, ("state", "2 layers", "str of length 2")),
    "state an iterator": Wrong(lambda m: m(frames(), iter(state())), T, ("state", "2 layers", "list_iterator")),
    "state of too many layers": Wrong(
        lambda m: m(frames(), [*state(), *state()]), T, ("state", "2 layers", "list of length 4")
    ),
    "pair a type": Wrong(
        lambda m: m(frames(), replaced(state(), 0, list)), T, ("state[0]", "(h, c)", "the class list")
    ),
    "pair a tensor": Wrong(
        lambda m: m(frames(), replaced(state(), 0, torch.tensor(1.0))), T, ("state[0]", "(h, c)", "Tensor of shape ()")
    ),
    "state of one pair": Wrong(lambda m: m(frames(), LSTMState(H, H)), T, ("state", "[(h, c)]", "two tensors")),
    "nn.LSTM's state": Wrong(
        lambda m: equal_layers((H.expand(2, *H.shape),) * 2), T, ("state", "list(zip(h_n, c_n))", "(2, 2, 4, 5, 4)")
    ),
    "nn.LSTM's order": Wrong(
        lambda m: m(frames(), tuple(zip(*state()))), T, ("state", "(h, c) for each of 2", "nn.LSTM's order")
    ),
    "lists in nn.LSTM's order or ours": Wrong(
        lambda m: equal_layers(([H, H], [H, H])), V, ("state", "[[h0, c0], [h1, c1]]", "[[h0, h1], [c0, c1]]")
    ),
    "cell, state of a stack": Wrong(
        lambda m: m.layers[0](frames(2, 2, 5, 4), [(H, H)]), T, ("state", "(h, c)", "list of length 1")
    ),
    "cell, states of a stack": Wrong(
        lambda m: m.layers[0](frames(2, 2, 5, 4), state()), T, ("state[0]", "Tensor", "tuple")
    ),
    "first weight's width replaced": Wrong(
        lambda m: with_weight(m, 0, "weight", 20, 7, 3, 3), V, ("layers[0].weight", "(16, 6, …)", "(20, 7, 3, 3)")
    ),
    "first weight's input replaced": Wrong(
        lambda m: with_weight(m, 0, "weight", 16, 7, 3, 3), V, ("layers[0].weight", "Cin = 2", "(16, 7, 3, 3)")
    ),
    "last weight's width replaced": Wrong(
        lambda m: with_weight(m, 1, "weight", 16, 8, 3, 3),
        V,
        ("layers[1].weight", "(12, 7, …)", "(16, 8, 3, 3)"),
        runs_layers_below=True,
    ),
    "bias replaced": Wrong(
        lambda m: with_weight(m, 1, "bias", 16), V, ("layers[1].bias", "(12,)", "(16,)"), runs_layers_below=True
    ),
    "peephole replaced": Wrong(
        lambda m: with_weight(m, 1, "peephole", 3, 3, 5, 5),
        V,
        ("layers[1].peephole", "(5, 5)", "(5, 4)"),
        runs_layers_below=True,
    ),
    "kernel replaced by an even one": Wrong(
        lambda m: with_weight(m, 1, "weight", 12, 7, 2, 2),
        V,
        ("layers[1].weight", "odd", "(2, 2)"),
        runs_layers_below=True,
    ),
    "all layers removed": Wrong(lambda m: without_layers(m)(frames()), V, ("layers", "at least one", "empty")),
    "step on an image without pixels": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3).step(frames(2, 2, 0, 4)), V, ("frame", "at least one pixel", "(2, 2, 0, 4)")
    ),
    "all layers removed, a step": Wrong(
        lambda m: without_layers(m).step(frames()[0]), V, ("layers", "at least one", "empty")
    ),
    "unknown returns": Wrong(lambda m: m(frames(), returns="all"), V, ("returns", "'layers'", "'all'")),
    "returns None": Wrong(lambda m: m(frames(), returns=None), V, ("returns", "'last'", "None")),
    "returns cells": Wrong(lambda m: m(frames(), returns="cells"), V, ("returns", "'last'", "'cells'")),
    "return_cells a number": Wrong(lambda m: m(frames(), return_cells=1), T, ("return_cells", "bool", "1")),
    "every c of the last step": Wrong(
        lambda m: m(frames(), returns="last", return_cells=True), V, ("return_cells", 'returns="last"', "True")
    ),
    "generator a seed": Wrong(lambda m: m(frames(), generator=7), T, ("generator", "torch.Generator", "7")),
    "lengths a float tensor": Wrong(
        lambda m: m(frames(), lengths=torch.ones(2)), T, ("lengths", "torch.int64", "float32")
    ),
    "lengths of floats": Wrong(lambda m: m(frames(), lengths=[1.0, 2.0]), T, ("lengths", "integers", "list")),
    "lengths one number": Wrong(lambda m: m(frames(), lengths=3), T, ("lengths", "sequence of integers", "int")),
    "lengths of three samples": Wrong(lambda m: m(frames(), lengths=[1, 2, 3]), V, ("lengths", "B = 2", "3")),
    "a tensor of three lengths": Wrong(
        lambda m: m(frames(), lengths=torch.tensor([1, 2, 3])), V, ("lengths", "(2,)", "(3,)")
    ),
    "a length of more than T": Wrong(lambda m: m(frames(), lengths=[3, 4]), V, ("lengths", "0 to T = 3", "4")),
    "a tensor with a negative length": Wrong(
        lambda m: m(frames(), lengths=torch.tensor([3, -1])), V, ("lengths", "0 to T = 3", "-1")
    ),
    "a list with a negative length": Wrong(lambda m: m(frames(), lengths=[3, -1]), V, ("lengths", "at least 0", "-1")),
    "lengths without a batch": Wrong(lambda m: m(frames()[:, 0], lengths=[3]), V, ("lengths", "batch dimension")),
    "lengths beside a PackedSequence": Wrong(
        lambda m: m(packed(2), lengths=[1, 1]), V, ("lengths", "None beside a PackedSequence", "list of length 2")
    ),
    "reset of numbers": Wrong(lambda m: m(frames(), reset=torch.ones(3, 2)), T, ("reset", "torch.bool", "float32")),
    "reset a list": Wrong(lambda m: m(frames(), reset=[True] * 3), T, ("reset", "Tensor", "list")),
    "reset of another size": Wrong(
        lambda m: m(frames(), reset=torch.ones(2, 3).bool()), V, ("reset", "(T, B) = (3, 2)", "(2, 3)")
    ),
    "reset without a batch": Wrong(
        lambda m: m(frames()[:, 0], reset=torch.ones(3, 1).bool()), V, ("reset", "(T) = (3,)", "(3, 1)")
    ),
    "reset on another device": Wrong(
        lambda m: m(frames(), reset=torch.ones(3, 2, device="meta").bool()), V, ("reset", "cpu", "meta")
    ),
    "hold of integers": Wrong(lambda m: m(frames(), hold=torch.ones(3, 2).int()), T, ("hold", "torch.bool", "int32")),
    "hold of pixels": Wrong(
        lambda m: m(frames(), hold=torch.ones(3, 2, 1, 5, 4).bool()), V, ("hold", "(3, 2)", "(3, 2, 1, 5, 4)")
    ),
    "hold beside a PackedSequence": Wrong(
        lambda m: m(packed(2), hold=torch.ones(1, 2).bool()), V, ("hold", "PackedSequence", "(1, 2)")
    ),
    "reset_state without reset": Wrong(
        lambda m: m(frames(), reset_state=state()), V, ("reset_state", "None without reset", "list of length 2")
    ),
    "reset_state of one layer": Wrong(
        lambda m: m(frames(), reset=RESET, reset_state=state()[:1]), T, ("reset_state", "2 layers", "list of length 1")
    ),
    "reset_state in nn.LSTM's order": Wrong(
        lambda m: equal_layers(None, reset=RESET, reset_state=[[H, H], [H, H]]), V, ("reset_state", "tuples", "lists")
    ),
    "reset_state of another batch": Wrong(
        lambda m: m(frames(), reset=RESET, reset_state=state(batch=3)),
        V,
        ("reset_state[0][0]", "(B or 1, C, H, W) = (2, 4, 5, 4)", "(3, 4, 5, 4)"),
    ),
    "second layer's reset_state": Wrong(
        lambda m: m(frames(), reset=RESET, reset_state=state(second=4)),
        V,
        ("reset_state[1][0]", "(2, 3, 5, 4)", "(2, 4, 5, 4)"),
    ),
    "double reset_state": Wrong(
        lambda m: m(frames(), reset=RESET, reset_state=[tuple(each.double() for each in pair) for pair in state()]),
        T,
        ("reset_state[0][0] (h)", "float32", "float64"),
    ),
    "reset of both directions": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3, bidirectional=True)(frames(), reset=RESET), V, ("reset", "bidirectional=True")
    ),
    "lengths of a projection": Wrong(
        lambda m: PeepholeLSTM(2, 4, proj_size=2)(torch.zeros(3, 2, 2), lengths=[1, 3]),
        V,
        ("proj_size", "lengths, reset and hold", "PackedSequence"),
    ),
    "lengths of a foreign cell": Wrong(
        lambda m: with_foreign_cell()(frames(), lengths=[1, 3]),
        V,
        ("lengths", "not tritonlstm's", "Sequential", "list"),
    ),
    "cell, marks of a step": Wrong(
        lambda m: m.layers[0](frames()[0], marks=make_marks([1, 3], None, None, 3, 2, torch.device("cpu"))),
        V,
        ("marks", "None for one step", "pass steps"),
    ),
    "cell, marks a string": Wrong(
        lambda m: m.layers[0](frames(), None, STEPS, marks="x"), T, ("marks", "Marks", "str of length 1")
    ),
    "cell, a reset state without marks": Wrong(
        lambda m: m.layers[0](frames(), None, STEPS, reset_state=(H, H)), V, ("reset_state", "without marks", "tuple")
    ),
    "cell, unknown returns": Wrong(
        lambda m: m.layers[0](frames(), None, STEPS, returns="layers"), V, ("returns", "'cells'", "'layers'")
    ),
    "a step of both directions": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3, bidirectional=True).step(frames()[0]), V, ("bidirectional", "whole sequence")
    ),
    "state of one direction": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3, bidirectional=True)(frames(), [(H, H)]),
        T,
        ("state", "2 layers' directions", "list of length 1"),
    ),
    "a step with masks for all steps": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3, recurrent_dropout=0.5).step(frames()[0]),
        V,
        ("recurrent_dropout", "eval()", "whole sequence"),
    ),
    "packed, with masks for all steps": Wrong(
        lambda m: ConvLSTM2d(2, 4, 3, input_dropout=0.5)(packed(2)), V, ("input", "PackedSequence", "pad it")
    ),
    "packed, with steps": Wrong(lambda m: m(packed(2), steps=3), V, ("steps", "None beside a PackedSequence", "3")),
    "packed, wrong channels": Wrong(lambda m: m(packed(3)), V, ("input", "Cin = 2", "(1, 2, 3, 5, 4)")),
    "packed, state of another batch": Wrong(
        lambda m: m(packed(2), state(batch=3)), V, ("state[0][0]", "(2, 4, 5, 4)", "(3, 4, 5, 4)")
    ),
    "packed, a step": Wrong(lambda m: m.step(packed(2)), T, ("frame", "Tensor", "PackedSequence")),
    "packed, double": Wrong(lambda m: m(packed(2).double()), T, ("input", "float32", "float64")),
    "steps NumPy's float": Wrong(lambda m: m(frames(), steps=np.float64(3)), T, ("steps", "integer", "3.0")),
    "steps a tensor": Wrong(lambda m: m(frames(), steps=torch.tensor(3)), T, ("steps", "integer", "tensor(3)")),
    "cell with a sequence": Wrong(lambda m: m.layers[0](frames()), V, ("input", "(B, Cin, H, W)", "(3, 2, 2, 5, 4)")),
    "cell with a wrong state": Wrong(
        lambda m: m.layers[0](frames(2, 2, 5, 4), (H, H[:1])), V, ("state[1]", "(2, 4, 5, 4)", "(1, 4, 5, 4)")
    ),
}

WEIGHT = torch.zeros(16, 6, 3, 3)
SEQUENCE = torch.zeros(3, 2, 2, 5, 4)
PREACT = torch.zeros(3, 2, 16, 5, 4)


def conv_lstm(weight: torch.Tensor = WEIGHT, *args: object, **options: object) -> object:
    return functional.conv_lstm(SEQUENCE, None, weight, *args, **options)


def apart(input_weight: object, **options: object) -> object:
    return conv_lstm(WEIGHT[:, 2:], input_weight=input_weight, **options)


def bfloat16_layer(h: torch.Tensor, c: torch.Tensor) -> object:
    return ConvLSTM2d(2, 4, 3, dtype=torch.bfloat16)(SEQUENCE.bfloat16(), [(h, c)])


def layer_alone(input: torch.Tensor | None, pairs: list | None, **options: object) -> object:
    return ConvLSTM2d(0, [4, 3], 3)(input, pairs, **options)


def gates(**options: object) -> object:
    return functional.lstm_gates(**{"preact": torch.zeros(2, 16), "c": torch.zeros(2, 4), **options})


def movie(**options: object) -> object:
    options = {"digits": torch.zeros(1, 3, 3), "count": 2, "size": 8, "generator": torch.Generator(), **options}
    return moving_mnist(options.pop("digits"), options.pop("count"), **options)


def projected(projection: object, weight: torch.Tensor = torch.zeros(16, 5), **options: object) -> object:  # noqa: B008
    return functional.peephole_lstm(torch.zeros(3, 2, 2), None, weight, projection=projection, **options)


def alone(**options: object) -> object:
    return functional.conv_lstm(None, options.pop("state", None), torch.zeros(16, 4, 3, 3), **options)


FUNCTIONS = {
    "weight of two dimensions": Wrong(
        lambda: conv_lstm(WEIGHT[:, :, 0, 0]), V, ("weight", "3 to 5 dimensions", "(16, 6)")
    ),
    "weight of six dimensions": Wrong(
        lambda: conv_lstm(torch.zeros(16, 6, 1, 1, 1, 1)), V, ("weight", "3 to 5 dimensions", "(16, 6, 1, 1, 1, 1)")
    ),
    "weight of signals for images": Wrong(
        lambda: conv_lstm(WEIGHT[..., 0]), V, ("input", "(T, B, Cin, L)", "(3, 2, 2, 5, 4)")
    ),
    "weight of volumes for images": Wrong(
        lambda: conv_lstm(WEIGHT[..., None]), V, ("input", "(T, B, Cin, D, H, W)", "(3, 2, 2, 5, 4)")
    ),
    "weight not of four gates": Wrong(lambda: conv_lstm(WEIGHT[:15]), V, ("weight", "4·C", "(15, 6, 3, 3)")),
    "weight too narrow": Wrong(lambda: conv_lstm(WEIGHT[:, :3]), V, ("weight", "at least C = 4", "(16, 3, 3, 3)")),
    "weight's even kernel": Wrong(lambda: conv_lstm(WEIGHT[..., :2]), V, ("weight", "odd", "(3, 2)")),
    "integer weight": Wrong(lambda: conv_lstm(WEIGHT.long()), T, ("weight", "float32", "int64")),
    "weight not a tensor": Wrong(lambda: conv_lstm([1.0]), T, ("weight", "Tensor", "list")),
    "bias too long": Wrong(lambda: conv_lstm(WEIGHT, torch.zeros(17)), V, ("bias", "(16,)", "(17,)")),
    "double bias": Wrong(lambda: conv_lstm(WEIGHT, torch.zeros(16).double()), T, ("bias", "float32", "float64")),
    "double peephole": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4, 1, 1).double()), T, ("peephole", "float32", "float64")
    ),
    "peephole of two gates": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(2, 4, 1, 1)), V, ("peephole", "(3, 4", "(2, 4, 1, 1)")
    ),
    "flat peephole": Wrong(lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4)), V, ("peephole", "(3, 4", "(3, 4)")),
    "peephole of another size": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4, 5, 5)), V, ("peephole", "(5, 5)", "(5, 4)")
    ),
    "peephole of more elements than 32 bits count": Wrong(
        lambda: functional.conv_lstm(
            torch.empty(1, 1, 1, 2**16, 2**15, device="meta"),
            None,
            torch.empty(4, 2, 1, 1, device="meta"),
            None,
            torch.empty(3, 1, 2**16, 2**15, device="meta"),
            backend="triton",
        ),
        V,
        ("peephole", "1073741824", "(3, 1, 65536, 32768)"),
    ),
    "input_weight beside a whole weight": Wrong(
        lambda: conv_lstm(input_weight=torch.zeros(16, 2, 5, 5)), V, ("weight", "4 columns", "(16, 6, 3, 3)")
    ),
    "input_weight of other rows": Wrong(lambda: apart(torch.zeros(12, 2, 5, 5)), V, ("input_weight", "16", "(12, 2")),
    "input_weight of vectors": Wrong(lambda: apart(torch.zeros(16, 2)), V, ("input_weight", "4 dimensions", "(16, 2)")),
    "input_weight without channels": Wrong(
        lambda: apart(torch.zeros(16, 0, 5, 5)), V, ("input_weight", "at least 1", "(16, 0")
    ),
    "even input_weight": Wrong(lambda: apart(torch.zeros(16, 2, 5, 4)), V, ("input_weight", "odd", "(5, 4)")),
    "double input_weight": Wrong(
        lambda: apart(torch.zeros(16, 2, 5, 5).double()), T, ("input_weight", "float32", "float64")
    ),
    "input_weight not a tensor": Wrong(lambda: apart([1.0]), T, ("input_weight", "Tensor", "list")),
    "input_weight for other frames": Wrong(
        lambda: apart(torch.zeros(16, 3, 5, 5)), V, ("input", "Cin = 3", "(3, 2, 2")
    ),
    "two kernels in one convolution, as a function": Wrong(
        lambda: apart(torch.zeros(16, 2, 5, 5), schedule="concat"),
        V,
        ("schedule", "input_weight (16, 2, 5, 5)", "auto"),
    ),
    "input_weight a list, in one convolution": Wrong(
        lambda: conv_lstm(input_weight=[1], schedule="concat"), T, ("input_weight", "Tensor", "list")
    ),
    "reset_state of a function without reset": Wrong(
        lambda: conv_lstm(hold=torch.ones(3, 2).bool(), reset_state=(PREACT[0, :, :4],) * 2),
        V,
        ("reset_state", "None without reset", "tuple of length 2"),
    ),
    "reset_state a tensor": Wrong(
        lambda: conv_lstm(reset=torch.ones(3, 2).bool(), reset_state=PREACT[0, :, :4]),
        T,
        ("reset_state", "pair (h, c)", "Tensor"),
    ),
    "lengths of a function, none for a sample": Wrong(
        lambda: conv_lstm(lengths=[3]), V, ("lengths", "B = 2 samples", "1")
    ),
    "hold of a projected function": Wrong(
        lambda: projected(torch.zeros(2, 4), torch.zeros(16, 4), hold=torch.ones(3, 2).bool()),
        V,
        ("hold", "beside a projection", "(3, 2)"),
    ),
    "pre-activations beside an input": Wrong(
        lambda: conv_lstm(WEIGHT[:, 2:], input_preact=PREACT),
        V,
        ("input", "None beside input_preact", "(3, 2, 2, 5, 4)"),
    ),
    "pre-activations beside an input_weight": Wrong(
        lambda: alone(input_preact=PREACT, input_weight=torch.zeros(16, 2, 5, 5)),
        V,
        ("input_weight", "None beside input_preact", "(16, 2, 5, 5)"),
    ),
    "pre-activations beside a whole weight": Wrong(
        lambda: functional.conv_lstm(None, None, WEIGHT, input_preact=PREACT),
        V,
        ("weight", "C = 4 columns beside input_preact", "(16, 6, 3, 3)"),
    ),
    "pre-activations of three gates": Wrong(
        lambda: alone(input_preact=PREACT[:, :, :12]), V, ("input_preact", "4·C = 16", "(3, 2, 12, 5, 4)")
    ),
    "pre-activations of one step": Wrong(
        lambda: alone(input_preact=PREACT[0]), V, ("input_preact", "(T, B, 4·C, H, W)", "(2, 16, 5, 4)")
    ),
    "no pre-activations": Wrong(lambda: alone(input_preact=PREACT[:0]), V, ("input_preact", "at least one", "(0, 2")),
    "double pre-activations": Wrong(
        lambda: alone(input_preact=PREACT.double()), T, ("input_preact", "float32", "float64")
    ),
    "pre-activations a list": Wrong(lambda: alone(input_preact=[1]), T, ("input_preact", "Tensor", "list")),
    "pre-activations on another device": Wrong(
        lambda: alone(input_preact=PREACT.to("meta")), V, ("input_preact", "cpu", "meta")
    ),
    "steps that disagree with pre-activations": Wrong(
        lambda: alone(input_preact=PREACT, steps=4), V, ("steps", "3", "4")
    ),
    "pre-activations and a state of another size": Wrong(
        lambda: alone(input_preact=PREACT, state=(H[..., :3], H[..., :3])),
        V,
        ("state[0]", "(2, 4, 5, 4)", "(2, 4, 5, 3)"),
    ),
    "pre-activations of vectors": Wrong(
        lambda: functional.peephole_lstm(None, None, torch.zeros(16, 4), input_preact=torch.zeros(3, 2, 12)),
        V,
        ("input_preact", "(T, B, 4·C)", "(3, 2, 12)"),
    ),
    "an input without columns of the weight": Wrong(
        lambda: functional.conv_lstm(PREACT, None, WEIGHT[:, 2:]), V, ("input", "Cin = 0", "(3, 2, 16, 5, 4)")
    ),
    "dilation of vectors, as a function": Wrong(
        lambda: functional.peephole_lstm(torch.zeros(3, 2, 2), None, torch.zeros(16, 6), dilation=2),
        V,
        ("dilation", "1 for vectors", "2"),
    ),
    "dilation of three dimensions, as a function": Wrong(
        lambda: conv_lstm(dilation=(1, 1, 2)), V, ("dilation", "each of H, W", "(1, 1, 2)")
    ),
    "circular image shorter than its padding": Wrong(
        lambda: conv_lstm(dilation=5, padding_mode="circular"),
        V,
        ("padding_mode", 'W of at least 5 for "circ', "got 4"),
    ),
    "reflected image as short as its padding": Wrong(
        lambda: conv_lstm(dilation=(1, 4), padding_mode="reflect"),
        V,
        ("padding_mode", 'W of at least 5 for "refl', "4"),
    ),
    "reflected image shorter than the input's padding": Wrong(
        lambda: apart(torch.zeros(16, 2, 3, 9), padding_mode="reflect"), V, ("padding_mode", "W of at least 5", "got 4")
    ),
    "no pixel to replicate": Wrong(
        lambda: functional.conv_lstm(SEQUENCE[..., :0], None, WEIGHT, padding_mode="replicate"),
        V,
        ("padding_mode", "W of at least 1", "got 0"),
    ),
    "step of an image shorter than its padding": Wrong(
        lambda: ConvLSTM2d(2, 4, 3, dilation=5, padding_mode="circular").step(SEQUENCE[0]),
        V,
        ("padding_mode", "W of at least 5", "got 4"),
    ),
    "bias a list": Wrong(lambda: conv_lstm(WEIGHT, [1]), T, ("bias", "Tensor", "list")),
    "peephole a number": Wrong(lambda: conv_lstm(WEIGHT, None, 1.0), T, ("peephole", "Tensor", "float")),
    "sparse weight": Wrong(lambda: conv_lstm(WEIGHT.to_sparse()), T, ("weight", "dense", "torch.sparse_coo")),
    "MKLDNN weight": Wrong(lambda: conv_lstm(WEIGHT.to_mkldnn()), T, ("weight", "dense", "torch._mkldnn")),
    "sparse input_weight": Wrong(
        lambda: apart(torch.zeros(16, 2, 5, 5).to_sparse()), T, ("input_weight", "dense", "torch.sparse_coo")
    ),
    "sparse bias": Wrong(lambda: conv_lstm(WEIGHT, torch.zeros(16).to_sparse()), T, ("bias", "dense", "sparse_coo")),
    "sparse peephole": Wrong(
        lambda: conv_lstm(WEIGHT, None, torch.zeros(3, 4, 1, 1).to_sparse()), T, ("peephole", "dense", "sparse_coo")
    ),
    "activation an array": Wrong(lambda: conv_lstm(activation=np.ones(2)), V, ("activation", "'tanh'", "array(")),
    "misspelt option": Wrong(
        lambda: conv_lstm(activaton="relu"), T, ("conv_lstm:", "input_preact, steps", "did you mean 'activation'?")
    ),
    "misspelt option of vectors": Wrong(
        lambda: functional.peephole_lstm(SEQUENCE, None, WEIGHT, backnd="aten"),
        T,
        ("peephole_lstm:", "schedule", "backnd"),
    ),
    "an option of images": Wrong(
        lambda: functional.peephole_lstm(SEQUENCE, None, WEIGHT, input_weight=WEIGHT),
        T,
        ("peephole_lstm:", "weight, bias, peephole", "got input_weight="),
    ),
    "gates, misspelt option": Wrong(
        lambda: gates(activaton="relu"), T, ("lstm_gates:", "preact, c, bias, peephole", "did you mean 'activation'?")
    ),
    "gates, sparse pre-activations": Wrong(
        lambda: gates(preact=torch.zeros(2, 16).to_sparse()), T, ("preact", "dense", "torch.sparse_coo")
    ),
    "gates, sparse c": Wrong(lambda: gates(c=torch.zeros(2, 4).to_sparse()), T, ("c:", "dense", "torch.sparse_coo")),
    "gates, c of another size": Wrong(lambda: gates(c=torch.zeros(2, 5)), V, ("c", "(B, C) = (2, 4)", "(2, 5)")),
    "gates, cell_clip a tensor": Wrong(
        lambda: gates(cell_clip=torch.ones(())), T, ("cell_clip", "number", "tensor(1.)")
    ),
    "gates, activation an array": Wrong(lambda: gates(activation=np.ones(2)), V, ("activation", "'tanh'", "array(")),
    "state a tensor": Wrong(
        lambda: functional.conv_lstm(SEQUENCE, H, WEIGHT), T, ("state", "(h, c)", "Tensor of shape (2, 4, 5, 4)")
    ),
    "state a type": Wrong(lambda: functional.conv_lstm(SEQUENCE, H.__class__, WEIGHT), T, ("state", "(h, c)", "class")),
    "bytes beside a state": Wrong(
        lambda: functional.conv_lstm(SEQUENCE.byte(), (H, H), WEIGHT), T, ("input", "float32", "uint8")
    ),
    "an image without pixels in plain operations": Wrong(
        lambda: functional.conv_lstm(SEQUENCE[..., :0], None, WEIGHT, backend="torch"),
        V,
        ("input", "at least one pixel", "(3, 2, 2, 5, 0)"),
    ),
    "unknown returns": Wrong(lambda: conv_lstm(returns="layers"), V, ("returns", "'cells'", "'layers'")),
    "reverse a string": Wrong(lambda: conv_lstm(reverse="yes"), T, ("reverse", "bool", "'yes'")),
    "projection of other channels": Wrong(
        lambda: projected(torch.zeros(3, 5)), V, ("projection", "(1 … 5, 4)", "(3, 5)")
    ),
    "projection of images": Wrong(
        lambda: projected(torch.zeros(3, 4, 1, 1)), V, ("projection", "(P, C)", "(3, 4, 1, 1)")
    ),
    "projection wider than the weight": Wrong(
        lambda: projected(torch.zeros(6, 4)), V, ("projection", "(16, 5)", "(6, 4)")
    ),
    "projection of doubles": Wrong(
        lambda: projected(torch.zeros(3, 4).double()), T, ("projection", "float32", "float64")
    ),
    "projection a list": Wrong(lambda: projected([1]), T, ("projection", "Tensor", "list")),
    "projection on another device": Wrong(
        lambda: projected(torch.zeros(3, 4, device="meta")), V, ("projection", "cpu", "meta")
    ),
    "projected, c in the place of h": Wrong(
        lambda: functional.peephole_lstm(
            torch.zeros(3, 2, 2), (torch.zeros(2, 4),) * 2, torch.zeros(16, 5), projection=torch.zeros(3, 4)
        ),
        V,
        ("state[0]", "(2, 3)", "(2, 4)"),
    ),
    "steps of a forecast a float": Wrong(
        lambda: EncoderForecaster(1, [2], 3)(torch.zeros(2, 1, 1, 4, 4), 1.5), T, ("steps", "integer", "1.5")
    ),
    "unknown memory": Wrong(lambda: conv_lstm(memory="none"), V, ("memory", "'save'", "'none'")),
    "unknown schedule": Wrong(lambda: conv_lstm(schedule=None), V, ("schedule", "'auto'", "None")),
    "unknown backend": Wrong(lambda: conv_lstm(backend="gpu"), V, ("backend", "'triton'", "'gpu'")),
    "unknown activation": Wrong(lambda: conv_lstm(activation="sin"), V, ("activation", "'tanh'", "'sin'")),
    "double in Triton": Wrong(
        lambda: functional.conv_lstm(SEQUENCE.double(), None, WEIGHT.double(), backend="triton"),
        V,
        ("backend", "float32", "float64"),
    ),
    "no steps": Wrong(lambda: alone(state=(H, H)), V, ("steps", "number of time steps", "None")),
    "zero steps": Wrong(lambda: alone(state=(H, H), steps=0), V, ("steps", "at least 1", "0")),
    "negative steps": Wrong(lambda: alone(state=(H, H), steps=-2), V, ("steps", "at least 1", "-2")),
    "steps a float": Wrong(lambda: alone(state=(H, H), steps=2.0), T, ("steps", "integer", "2.0")),
    "neither input nor state": Wrong(lambda: alone(steps=2), V, ("state", "(h, c)", "None")),
    "c of a bfloat16 layer": Wrong(
        lambda: bfloat16_layer(H.bfloat16(), H.bfloat16()), T, ("state[0][1] (c)", "float32", "bfloat16")
    ),
    "h of a bfloat16 layer": Wrong(lambda: bfloat16_layer(H, H), T, ("state[0][0] (h)", "bfloat16", "float32")),
    "input of a layer without": Wrong(
        lambda: layer_alone(SEQUENCE, state()), V, ("input", "Cin = 0", "(3, 2, 2, 5, 4)")
    ),
    "layer alone without steps": Wrong(lambda: layer_alone(None, state()), V, ("steps", "number of", "None")),
    "layer alone without state": Wrong(lambda: layer_alone(None, None, steps=2), V, ("state", "(h, c)", "None")),
    "layer alone, later state": Wrong(
        lambda: layer_alone(None, state(second=4), steps=2), V, ("state[1][0]", "(2, 3, 5, 4)", "(2, 4, 5, 4)")
    ),
    "vectors as images": Wrong(
        lambda: functional.peephole_lstm(SEQUENCE, None, torch.zeros(16, 6)), V, ("input", "(T, B, Cin)", "(3, 2, 2")
    ),
    "steps of a forecast": Wrong(
        lambda: EncoderForecaster(1, [2], 3)(torch.zeros(2, 1, 1, 4, 4), 0), V, ("steps", "at least 1", "0")
    ),
    "one sequence to forecast": Wrong(
        lambda: EncoderForecaster(1, [2], 3)(torch.zeros(2, 1, 4, 4), 1), V, ("input", "(T, B, Cin, H, W)", "(2, 1, 4")
    ),
    "no digits": Wrong(
        lambda: moving_mnist(torch.zeros(0, 3, 3), 1, generator=torch.Generator()), V, ("digits", "N", "(0, 3, 3)")
    ),
    "frame's size a float": Wrong(
        lambda: moving_mnist(torch.zeros(1, 3, 3), 1, size=8.0, generator=torch.Generator()), T, ("size", "int", "8.0")
    ),
    "speed nan": Wrong(lambda: movie(speed=float("nan")), V, ("speed", "finite number", "nan")),
    "speed infinite": Wrong(lambda: movie(speed=float("inf")), V, ("speed", "finite number", "inf")),
    "speed larger than any float": Wrong(lambda: movie(speed=10**400), V, ("speed", "finite number", "1000000")),
    "speed too high to follow": Wrong(lambda: movie(speed=1e300), V, ("speed", "at most 1e+09", "1e+300")),
    "speed a string": Wrong(lambda: movie(speed="fast"), T, ("speed", "number", "'fast'")),
    "negative count": Wrong(lambda: movie(count=-1), V, ("count", "at least 0", "-1")),
    "no frames": Wrong(lambda: movie(frames=0), V, ("frames", "at least 1", "0")),
    "digits a float": Wrong(lambda: movie(digits_per_sequence=2.0), T, ("digits_per_sequence", "integer", "2.0")),
    "no generator": Wrong(lambda: movie(generator=None), T, ("generator", "torch.Generator", "None")),
    "sparse digits": Wrong(
        lambda: movie(digits=torch.zeros(1, 3, 3).to_sparse()), T, ("digits", "dense", "torch.sparse_coo")
    ),
    "digits larger than the frame": Wrong(
        lambda: moving_mnist(torch.zeros(3, 28, 28), 1, size=28, generator=torch.Generator()),
        V,
        ("digits", "size = 28", "(3, 28, 28)"),
    ),
}


def check(wrong: Wrong, *args: object) -> None:
    with pytest.raises(wrong.error) as raised:
        wrong.call(*args)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith(wrong.message[0]), message
    for part in wrong.message:
        assert part in message, f"{part!r} is not in: {message}"


class Recorder(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


TABLE = {
    **{f"constructor: {name}": wrong for name, wrong in CONSTRUCTORS.items()},
    **{f"call: {name}": wrong for name, wrong in CALLS.items()},
    **{f"function: {name}": wrong for name, wrong in FUNCTIONS.items()},
}


@pytest.fixture(scope="module")
def shared() -> tuple[ConvLSTM2d, torch.Tensor, dict[str, torch.Tensor]]:
    """One layer for the whole table, with its output and its parameters as they were before."""
    module = layer()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module, module(frames())[0], {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("name", "wrong"), TABLE.items(), ids=TABLE.keys())
def test_a_wrong_call_says_what_is_wrong_computes_nothing_and_leaves_the_layer_as_it_was(
    shared, name: str, wrong: Wrong
):
    module, output, parameters = shared
    with Recorder() as recorder:
        check(wrong, *([module] if name.startswith("call") else []))
    computed = [each for each in recorder.names if "tritonlstm" in each or "convolution" in each]
    assert wrong.runs_layers_below or not computed
    assert torch.equal(module(frames())[0], output)
    assert module.state_dict().keys() == parameters.keys()
    for each, tensor in module.state_dict().items():
        assert torch.equal(tensor, parameters[each])


@pytest.mark.parametrize(("backend", "name"), [("auto", "tritonlstm"), ("torch", "convolution")])
def test_a_right_call_is_recorded(backend: str, name: str):
    with Recorder() as recorder:
        ConvLSTM2d(2, 4, 3, backend=backend)(frames())
    assert any(name in each for each in recorder.names)


def test_the_table_is_long_enough():
    assert len(TABLE) >= 120


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, torch.Tensor.to_mkldnn, torch.Tensor.double])
@pytest.mark.parametrize("place", ["frame", "h", "c"])
def test_a_right_step_before_does_not_let_a_wrong_one_of_the_same_sizes_pass(change: Callable, place: str):
    module = ConvLSTM2d(2, 4, 3)
    tensors = {"frame": frames()[0], "h": H, "c": H}

    def step(frame: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> object:
        module.layers[0](frame, (h, c))
        return module.step(frame, [(h, c)])

    step(**tensors)
    wrong = {**tensors, place: change(tensors[place])}
    for call in (lambda: step(**wrong), lambda: module.step(wrong["frame"], [(wrong["h"], wrong["c"])])):
        with pytest.raises(TypeError, match=r"^(input|frame|state)\b"):
            call()
