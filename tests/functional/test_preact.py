"""The input's part of the pre-activations from the caller, in place of the input."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tritonlstm.functional import conv_lstm, peephole_lstm

T, B, CIN, C, H, W = 4, 2, 3, 5, 6, 7
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")


class Layer(nn.Module):
    """Whose input is convolved with a stride of 2 and normalised, as no layer of the package does."""

    def __init__(self, **options: object):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv2d(CIN, 4 * C, 4, stride=2, padding=1), nn.GroupNorm(4, 4 * C))
        self.weight, self.options = nn.Parameter(torch.randn(4 * C, C, 3, 3) / 7), options

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        preact = self.conv(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        output, (h, c) = conv_lstm(None, None, self.weight, input_preact=preact, **self.options)
        return output, h, c


def everything(run, layer: nn.Module, frames: Tensor) -> list[Tensor]:
    frames = frames.detach().requires_grad_()
    output, h, c = run(frames)
    loss = output.square().sum() + h.sum() + c.square().sum()
    return [output, h, c, *torch.autograd.grad(loss, [frames, *layer.parameters()])]


def frames(steps: int = T, batch: int = B) -> Tensor:
    return torch.randn(steps, batch, CIN, 2 * H, 2 * W)


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_any_module_may_make_them(backend: str, memory: str, format: torch.memory_format):
    layer, plain = Layer(backend=backend, memory=memory).to(memory_format=format), Layer(backend="torch")
    input = frames()
    got, expected = everything(layer, layer, input), everything(plain, plain, input)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(input), plain(input), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
@pytest.mark.parametrize("has_state", [False, True])
def test_equal_the_layer_that_convolves_its_input_and_are_not_written_to(backend: str, has_state: bool):
    input, input_weight = torch.randn(T, B, CIN, H, W), torch.randn(4 * C, CIN, 5, 5) / 9
    weight, bias, peephole = torch.randn(4 * C, C, 3, 3) / 7, torch.randn(4 * C), torch.randn(3, C, 1, 1)
    state = (torch.randn(B, C, H, W), torch.randn(B, C, H, W)) if has_state else None
    preact = nn.functional.conv2d(input.flatten(0, 1), input_weight, padding=2)
    preact = preact.contiguous(memory_format=torch.channels_last).unflatten(0, (T, B))
    before = preact.clone()
    got = conv_lstm(None, state, weight, bias, peephole, input_preact=preact, backend=backend)
    expected = conv_lstm(input, state, weight, bias, peephole, input_weight=input_weight, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(preact, before)


def test_vectors():
    input, weight, bias = torch.randn(T, B, CIN), torch.randn(4 * C, CIN + C), torch.randn(4 * C)
    preact = input @ weight[:, :CIN].t() + bias
    got = peephole_lstm(None, None, weight[:, CIN:], input_preact=preact)
    torch.testing.assert_close(got, peephole_lstm(input, None, weight, bias))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's compiler
def test_compiled_in_one_graph_for_any_sizes():
    layer = Layer(backend="aten")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for sizes in ((3, 2), (5, 4), (4, 7)):
        input = frames(*sizes)
        got, expected = everything(compiled, layer, input), everything(layer, layer, input)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_exported_for_any_t_and_b():
    layer = Layer()
    shapes = {"frames": {0: Dim("T"), 1: Dim("B")}}
    module, input = torch.export.export(layer, (frames(),), dynamic_shapes=shapes).module(), frames(6, 3)
    got, expected = everything(module, module, input), everything(layer, layer, input)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_autocast_casts_them():
    preact, weight = torch.randn(T, B, 4 * C, H, W), torch.randn(4 * C, C, 3, 3) / 7
    with torch.autocast("cpu", torch.bfloat16):
        output, (h, c) = conv_lstm(None, None, weight, input_preact=preact)
    assert (output.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    expected, _ = conv_lstm(None, None, weight, input_preact=preact)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.02)
