"""PyTorch's settings of float32 precision: convolutions follow those of convolutions, products those of products."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import backends

from tests.support.problems import MODES, VECTORS, Problem, Shape, by_operator, by_reference
from tests.support.tolerances import assert_within, budget
from tritonlstm.core import devices
from tritonlstm.core.layout import Layout
from tritonlstm.linear import winograd
from tritonlstm.linear.convolution import Convolution
from tritonlstm.linear.product import Product
from tritonlstm.linear.winograd import Winograd

# Some versions of PyTorch warn of the older settings, which are tested here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings")


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """As in a new process, before each test and after it."""
    reset()
    yield
    reset()


def reset() -> None:
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    backends.fp32_precision = "none"
    for setting in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
        setting.fp32_precision = "none"


def to(place: object, value: object, name: str = "fp32_precision") -> Callable[[], None]:
    return lambda: setattr(place, name, value)


OF_CPU_PRODUCTS = {
    "set_float32_matmul_precision medium": lambda: torch.set_float32_matmul_precision("medium"),
    "set_float32_matmul_precision high": lambda: torch.set_float32_matmul_precision("high"),
    "mkldnn.matmul bf16": to(backends.mkldnn.matmul, "bf16"),
    "mkldnn.matmul tf32": to(backends.mkldnn.matmul, "tf32"),
}
OF_OTHERS = {
    "mkldnn.conv bf16": to(backends.mkldnn.conv, "bf16"),
    "mkldnn.conv tf32": to(backends.mkldnn.conv, "tf32"),
    "all bf16": to(backends, "bf16"),
    "all tf32": to(backends, "tf32"),
}
OF_GPUS = {
    "default": lambda: None,
    "cuda.matmul.allow_tf32": to(backends.cuda.matmul, True, "allow_tf32"),
    "cudnn.allow_tf32 off": to(backends.cudnn, False, "allow_tf32"),
    "cudnn.conv ieee": to(backends.cudnn.conv, "ieee"),
}
SETTINGS = OF_CPU_PRODUCTS | OF_OTHERS | OF_GPUS

IMAGES = {
    "filtered": Shape(steps=2, in_channels=24, channels=24, spatial=(24, 24), kernel=(5, 5)),
    "1×1": Shape(steps=2, in_channels=24, channels=24, spatial=(24, 24), kernel=(1, 1)),
    "no input": Shape(steps=2, in_channels=0, channels=24, spatial=(24, 24), kernel=(3, 3)),
}


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Minimal filtering from AVX2's bounds on, whatever this CPU; how often it was chosen."""
    made, make = [0], Winograd.__init__

    def count(self, *args) -> None:
        made[0] += 1
        make(self, *args)

    monkeypatch.setattr(Winograd, "__init__", count)
    monkeypatch.setattr(devices, "CPU_CAPABILITY", "AVX2")
    monkeypatch.setattr(winograd, "BOUNDS", {"AVX2": winograd.BOUNDS["AVX2"]})
    return lambda: made[0]


@pytest.mark.parametrize(
    ("name", "mode"), [("filtered", "hoisted, recompute"), *((name, "concat, save") for name in IMAGES)]
)
@pytest.mark.parametrize("setting", OF_CPU_PRODUCTS.values(), ids=OF_CPU_PRODUCTS)
def test_layers_of_images_follow_no_setting_of_matrix_products(
    filters, monkeypatch: pytest.MonkeyPatch, setting: Callable[[], None], name: str, mode: str
):
    """Every result and every gradient is that of PyTorch's convolutions, far within what bfloat16 would change."""
    problem, run = Problem.random(IMAGES[name], torch.float32), by_operator(**MODES[mode])
    with monkeypatch.context() as patch:
        patch.setattr("tritonlstm.linear.is_faster", lambda *_: False)
        expected = problem.solve(run)
    setting()
    got = problem.solve(run)
    assert filters() == 0
    for result in expected:
        allowed = 1e-5 * expected[result].abs().max().item()  # oneDNN's sums over pixels may change their order
        torch.testing.assert_close(got[result], expected[result], rtol=0, atol=allowed, msg=result)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_layer_errs_no_more_than_pytorch_under_the_same_settings(filters, setting: Callable[[], None]):
    problem = Problem.random(IMAGES["filtered"], torch.float32)
    oracle = problem.to(torch.float64).solve(by_reference)
    setting()
    plain = problem.solve(by_reference)
    for name, got in problem.solve(by_operator()).items():
        assert_within(name, got, oracle[name], budget(plain[name], oracle[name], torch.float32))
    assert (filters() > 0) == (setting in OF_GPUS.values()), "a GPU's settings are nothing to a CPU"


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_layers_of_vectors_follow_the_settings_of_matrix_products_as_linear_does(setting: Callable[[], None]):
    problem = Problem.random(VECTORS.but(batch=64, in_channels=48, channels=48), torch.float32)
    oracle = problem.to(torch.float64).solve(by_reference)
    setting()
    product, rows = Product(problem.weight, problem.bias), torch.cat([problem.input[0], problem.h0], 1)
    assert torch.equal(product.forward(rows), torch.nn.functional.linear(rows, problem.weight, problem.bias))
    plain = problem.solve(by_reference)
    for name, got in problem.solve(by_operator()).items():
        assert_within(name, got, oracle[name], budget(plain[name], oracle[name], torch.float32))


OF_CUDNN = {
    "default": True,
    "cudnn.allow_tf32 off": False,
    "cudnn.conv ieee": False,
    **dict.fromkeys(OF_CPU_PRODUCTS, True),
    "cuda.matmul.allow_tf32": True,
}


@pytest.mark.parametrize(("name", "is_tf32"), OF_CUDNN.items(), ids=OF_CUDNN)
def test_cudnn_uses_tf32_where_pytorchs_convolutions_may(monkeypatch: pytest.MonkeyPatch, name: str, is_tf32: bool):
    seen = []
    monkeypatch.setattr(torch, "cudnn_convolution", lambda *args, out: seen.append(args[-1]))
    layout, images = Layout(1, 2, (5, 6), in_channels=3, channels=2, multiple=1), torch.empty(2, 5, 5, 6)
    SETTINGS[name]()
    Convolution(layout, torch.empty(8, 5, 3, 3), None)._convolve_by_cudnn(images, torch.empty(2, 8, 5, 6))
    assert seen == [is_tf32]
