"""When cuDNN's own operator convolves, and what it is told: on tensors that are taken for a GPU's."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from tritonlstm.core import devices
from tritonlstm.core.layout import Layout
from tritonlstm.linear import convolution
from tritonlstm.linear.convolution import Convolution
from tritonlstm.tuning.check import full_precision

LAYOUT = Layout(2, 2, (5, 6), in_channels=3, channels=2, multiple=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Each convolution's name, the dtype of its argument, and what cuDNN's operator got beside tensors."""
    seen, conv2d = [], torch.conv2d
    monkeypatch.setattr(devices, "is_nvidia", lambda device: True)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(devices, "cudnn_has_bfloat16", lambda device: True)
    monkeypatch.setattr(torch, "cudnn_convolution", lambda *args, out: seen.append(("cudnn", args[0].dtype, args[2:])))
    monkeypatch.setattr(torch, "conv2d", lambda *args: seen.append(("conv2d", args[0].dtype)) or conv2d(*args))
    return seen


def gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Without memory, which large tensors would take."""
    return torch.empty(shape, dtype=dtype, device="meta")


def test_it_writes_where_it_is_told(calls: list):
    out = gpu(2, 5, 6, 8)
    assert Convolution(LAYOUT, gpu(8, 5, 3, 3), None).forward(gpu(2, 5, 6, 5), out) is out
    assert calls == [("cudnn", torch.bfloat16, ((1, 1), [1, 1], (1, 1), 1, False, False, True))]


@pytest.mark.parametrize("case", ["bias", "float64", "switched off", "nowhere to write"])
def test_else_pytorch_convolves(calls: list, case: str, monkeypatch: pytest.MonkeyPatch):
    if case == "switched off":
        monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    dtype = torch.float64 if case == "float64" else torch.float32
    out = None if case == "nowhere to write" else gpu(2, 5, 6, 8, dtype=dtype)
    bias = gpu(8, dtype=dtype) if case == "bias" else None
    Convolution(LAYOUT, gpu(8, 5, 3, 3, dtype=dtype), bias).forward(gpu(2, 5, 6, 5, dtype=dtype), out)
    assert calls == [("conv2d", dtype)]


def test_the_switches_are_read_once_for_all_steps(calls: list, monkeypatch: pytest.MonkeyPatch):
    reads, read = [], convolution._Switches.read
    monkeypatch.setattr(convolution._Switches, "read", lambda: reads.append(1) or read())
    map, rows, out = Convolution(LAYOUT, gpu(8, 5, 3, 3), None), gpu(2, 5, 6, 5), gpu(2, 5, 6, 8)
    for _ in range(5):
        map.forward(rows, out)
    assert len(calls) == 5 and len(reads) == 1


def test_deterministic_algorithms_are_deterministic_ones_of_cudnn(calls: list, monkeypatch: pytest.MonkeyPatch):
    def is_deterministic() -> bool:
        Convolution(LAYOUT, gpu(8, 5, 3, 3), None).forward(gpu(2, 5, 6, 5), gpu(2, 5, 6, 8))
        return calls[-1][2][-2]

    assert not is_deterministic()
    torch.use_deterministic_algorithms(True)
    try:
        assert is_deterministic()
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert is_deterministic()


@pytest.mark.parametrize(("height", "expected"), [(2**13 - 1, "cudnn"), (2**13, "conv2d")])
def test_a_step_of_2_to_the_31_elements_is_pytorchs(calls: list, height: int, expected: str):
    """M·4C of this size; cuDNN's operator counts 32 bits."""
    out = gpu(1, height, 2**10, 256)
    result = Convolution(LAYOUT, gpu(256, 72, 3, 3), None).forward(gpu(1, height, 2**10, 72), out)
    assert [name for name, *_ in calls] == [expected]
    assert result.shape == out.shape and (out.numel() < 2**31) == (expected == "cudnn")


def test_bfloat16_is_convolved_in_float32_where_cudnn_lacks_it(calls: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "cudnn_has_bfloat16", lambda device: False)
    map, rows, grad = Convolution(LAYOUT, gpu(8, 5, 3, 3), None), gpu(2, 5, 6, 5), gpu(2, 5, 6, 8)
    assert map.forward(rows, gpu(2, 5, 6, 8)).dtype == map.input_grad(grad).dtype == torch.bfloat16
    assert calls == [("conv2d", torch.float32)]
    total = map.weight_grad()
    total.add(rows, grad)
    assert total.result().dtype == torch.float32
    half = torch.float16
    Convolution(LAYOUT, gpu(8, 5, 3, 3, dtype=half), None).forward(
        gpu(2, 5, 6, 5, dtype=half), gpu(2, 5, 6, 8, dtype=half)
    )
    assert calls[1:] == [("cudnn", half, calls[1][2])]


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        (torch.bfloat16, full_precision, [6]),
        (torch.float16, full_precision, [6]),
        (torch.float32, nullcontext, [6]),  # TF32 is PyTorch's default
        (torch.float32, full_precision, [2, 2, 2]),
        (torch.float64, full_precision, [6]),
    ],
)
def test_a_weight_gradient_in_full_float32_sums_step_by_step_as_pytorchs(
    calls: list, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, precision: Callable, expected: list[int]
):
    images, backward = [], Convolution._backward
    monkeypatch.setattr(
        Convolution, "_backward", lambda *args, **kwargs: images.append(len(args[1])) or backward(*args, **kwargs)
    )
    total = Convolution(LAYOUT, gpu(8, 5, 3, 3, dtype=dtype), None).weight_grad()
    with precision():
        total.add(gpu(6, 5, 6, 5, dtype=dtype), gpu(6, 5, 6, 8, dtype=dtype))
    assert images == expected
    assert total.result().shape == (8, 5, 3, 3)


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cudnn_has_bfloat16_from_compute_capability_8_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has: bool
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.cudnn_has_bfloat16(torch.device("cuda")) == has


def test_what_is_nvidias(monkeypatch: pytest.MonkeyPatch):
    assert devices.is_nvidia(torch.device("cuda", 1)) and not devices.is_nvidia(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not devices.is_nvidia(torch.device("cuda", 1))
