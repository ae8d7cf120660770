"""A layer that a CPU computes over planes, compiled, exported and under vmap, on whatever CPU the tests run."""

import copy

import pytest
import torch
from torch.export import Dim

from tests.integration.layers import with_peepholes
from tritonlstm import ConvLSTM2d, _devices

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's compiler


def be_cpu_of(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", capability)


def layers(monkeypatch: pytest.MonkeyPatch) -> tuple[ConvLSTM2d, ConvLSTM2d]:
    """A stack whose first and last layers run over planes, and one of the same parameters in plain PyTorch."""
    be_cpu_of(monkeypatch, "AVX2")
    layer = with_peepholes(ConvLSTM2d(8, [8, 8, 8], [5, 3, 5]))
    plain = ConvLSTM2d(8, [8, 8, 8], [5, 3, 5], backend="torch")
    plain.load_state_dict(copy.deepcopy(layer.state_dict()))
    return layer, plain


def images(steps: int = 3, batch: int = 2, height: int = 6, width: int = 7) -> torch.Tensor:
    return torch.randn(steps, batch, 8, height, width)


def training(layer, input: torch.Tensor, parameters) -> tuple[torch.Tensor, ...]:
    input = input.detach().requires_grad_()
    output, state = layer(input)
    loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in state)
    return output, *torch.autograd.grad(loss, [input, *parameters])


def test_compiled_in_one_graph_for_any_sizes(fresh_compiler, monkeypatch: pytest.MonkeyPatch):
    layer, plain = layers(monkeypatch)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for input in (images(), images(4, 3, 9, 8)):
        got = training(compiled, input, layer.parameters())
        torch.testing.assert_close(got, training(plain, input, plain.parameters()), rtol=1e-4, atol=1e-4)
        assert got[0].is_contiguous()
        with torch.no_grad():
            assert compiled(input)[0].is_contiguous()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # training and inference


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_compiled_where_the_batch_is_known_only_at_run_time(
    fresh_compiler, monkeypatch: pytest.MonkeyPatch, capability: str
):
    layer, plain = layers(monkeypatch)
    be_cpu_of(monkeypatch, capability)
    input, mask = images(batch=4), torch.tensor([True, False, True, True])

    def run(module: ConvLSTM2d, input: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return module(input[:, mask])[0]

    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        got = torch.compile(run, fullgraph=True)(layer, input, mask)
    torch.testing.assert_close(got, run(plain, input, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_an_exported_program_runs_on_a_cpu_that_would_choose_otherwise(
    monkeypatch: pytest.MonkeyPatch, capability: str
):
    layer, plain = layers(monkeypatch)
    be_cpu_of(monkeypatch, capability)
    sizes = {"input": {0: Dim("T"), 1: Dim("B")}}
    program = torch.export.export(layer, (images(),), dynamic_shapes=sizes)
    be_cpu_of(monkeypatch, "AVX512" if capability == "AVX2" else "AVX2")
    input = images(5, 3)
    got, _ = program.module()(input)
    torch.testing.assert_close(got, plain(input)[0], rtol=1e-4, atol=1e-4)
    assert got.is_contiguous() == (capability == "AVX2"), "the strides are those that the graph was made for"


def test_gradients_of_each_sample(monkeypatch: pytest.MonkeyPatch):
    layer, plain = layers(monkeypatch)
    samples = torch.stack([images(2), images(2)])

    def of_each_sample(module: ConvLSTM2d) -> dict[str, torch.Tensor]:
        def loss(parameters: dict[str, torch.Tensor], input: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(module, parameters, (input,))[0].square().sum()

        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, samples)

    torch.testing.assert_close(of_each_sample(layer), of_each_sample(plain), rtol=1e-4, atol=1e-4)
