"""The device that these tests run on.

`python -m tests.gpu` runs them on CUDA. In a usual run they go over the interpreted kernels on CPU tensors, a few small
cases of each, so that the check itself is checked. `python -m tests.ptx` compiles them for a GPU and executes the PTX.
"""

import os
from contextlib import nullcontext

import pytest
import torch

from tests.gpu.limits import register
from tests.support.ptx import ON_PTX
from tests.support.ptx.launch import on_machine
from tritonlstm.tuning.check import full_precision

ON_CUDA = os.environ.get("TRITON_INTERPRET") == "0" and torch.cuda.is_available()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a GPU")
    register(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") and not ON_CUDA:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: make gpu-check"))


@pytest.fixture
def device() -> str:
    return "cuda" if ON_CUDA else "cpu"


@pytest.fixture
def backend() -> str:
    """The kernels, whatever the device."""
    return "auto" if ON_CUDA else "triton"


@pytest.fixture(autouse=True)
def _machine():
    """With `make ptx-check` the kernels are compiled, and their PTX is executed."""
    with on_machine() if ON_PTX else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _full_precision():
    """TF32 has a test of its own."""
    with full_precision():
        yield


@pytest.fixture
def repeatable():
    """cuDNN's weight gradient repeats its bits only where it is told to."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture(autouse=True)
def _free_memory():
    yield
    if ON_CUDA:
        torch.cuda.empty_cache()
