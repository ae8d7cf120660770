"""torch.export, AOTInductor and ONNX: saved here, loaded and run elsewhere, with the same numbers."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import tritonlstm.onnx
from tests.support.layers import CIN, conv_lstm, frames, gradients, peephole_lstm, with_peepholes
from tests.support.processes import run_with_torch
from tritonlstm import ConvLSTM2d, LSTMState
from tritonlstm.models import EncoderForecaster

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")

LAYERS = {
    "ConvLSTM2d": (conv_lstm, frames, {"input": {0: Dim("T"), 1: Dim("B"), 3: Dim("H"), 4: Dim("W")}}),
    "PeepholeLSTM": (peephole_lstm, lambda *sizes: frames(*sizes)[..., 0, 0], {"input": {0: Dim("T"), 1: Dim("B")}}),
}
each_layer = pytest.mark.parametrize(("make", "make_input", "dynamic"), LAYERS.values(), ids=LAYERS.keys())
OTHER_SIZES = (7, 5, 8, 9)


def leaves(results: object) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(results)


def assert_close(got: object, expected: object) -> None:
    torch.testing.assert_close(leaves(got), leaves(expected), rtol=1e-5, atol=1e-5)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "tritonlstm" in str(node.target)]


class TestExport:
    @each_layer
    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("grad", [False, True])
    def test_any_t_and_b_with_one_operator_a_layer(self, make, make_input, dynamic, strict: bool, grad: bool):
        layer = make()
        with torch.set_grad_enabled(grad):
            program = torch.export.export(layer, (make_input(),), dynamic_shapes=dynamic, strict=strict)
        # Whatever the mode was, it saves nothing for a backward pass that does not come.
        assert operators(program) == ["tritonlstm.inference.default"] * 2
        module, other = program.module(), make_input(*OTHER_SIZES)
        assert_close(module(other), layer(other))

    def test_with_a_state_to_go_on_with(self):
        layer, input = conv_lstm(), frames()
        with torch.no_grad():
            _, state = layer(input)
        t, b = Dim("T"), Dim("B")
        dynamic = {"input": {0: t, 1: b}, "state": (LSTMState({0: b}, {0: b}), LSTMState({0: b}, {0: b}))}
        module = torch.export.export(layer, (input, state), dynamic_shapes=dynamic).module()
        more = frames(steps=2, batch=6)
        _, state = layer(frames(batch=6))
        assert_close(module(more, state), layer(more, state))

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
    @pytest.mark.usefixtures("fresh_compiler")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_an_exported_layer_trains(self, compiled: bool):
        layer, other = conv_lstm(), frames(*OTHER_SIZES)
        _, _, dynamic = LAYERS["ConvLSTM2d"]
        module = torch.export.export(layer, (frames(),), dynamic_shapes=dynamic).module()
        run = torch.compile(module) if compiled else module
        got = gradients(module, run(other)[0].square().sum())
        assert_close(got, gradients(layer, layer(other)[0].square().sum()))

    def test_a_second_derivative_of_an_exported_layer_is_refused(self):
        layer, input = conv_lstm(), frames().requires_grad_()
        module = torch.export.export(layer, (frames(),)).module()
        (gradient,) = torch.autograd.grad(module(input)[0].square().sum(), input, create_graph=True)
        with pytest.raises(RuntimeError, match='backend="torch"'):
            gradient.square().sum().backward()

    def test_the_interpreted_kernels_are_exported_as_the_operator_too(self):
        layer = conv_lstm(backend="triton")
        program = torch.export.export(layer, (frames(),), dynamic_shapes=LAYERS["ConvLSTM2d"][2])
        assert len(operators(program)) == 2
        other = frames(*OTHER_SIZES)
        assert_close(program.module()(other), layer(other))

    def test_the_plain_backend_needs_no_operator(self):
        layer = conv_lstm(backend="torch")
        dynamic = {"input": {1: Dim("B"), 3: Dim("H"), 4: Dim("W")}}  # its time steps are unrolled
        program = torch.export.export(layer, (frames(),), dynamic_shapes=dynamic)
        assert operators(program) == []
        other = frames(4, 5, 8, 9)
        assert_close(program.module()(other), layer(other))


def run_elsewhere(program: str, folder: Path) -> dict:
    """What a new process, in a folder of its own, prints as JSON."""
    result = run_with_torch(program, folder=folder)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


LOAD_EXPORTED = """
import json, torch, tritonlstm
module = torch.export.load("layer.pt2").module()
torch.save(module(torch.load("input.pt")), "results.pt")
print(json.dumps("done"))
"""

LOAD_PACKAGE = """
import json, sys, torch
{imports}
module = torch._inductor.aoti_load_package("layer.pt2")
torch.save(module(torch.load("input.pt")), "results.pt")
print(json.dumps(sorted(name for name in sys.modules if name.startswith("tritonlstm"))[:1]))
"""


@each_layer
def test_saved_and_loaded_by_a_process_that_only_imports_us(make, make_input, dynamic, tmp_path: Path):
    layer, other = make().requires_grad_(False), make_input(*OTHER_SIZES)
    torch.export.save(torch.export.export(layer, (make_input(),), dynamic_shapes=dynamic), tmp_path / "layer.pt2")
    torch.save(other, tmp_path / "input.pt")
    assert run_elsewhere(LOAD_EXPORTED, tmp_path) == "done"
    assert_close(torch.load(tmp_path / "results.pt"), layer(other))


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_aot_inductor_package(backend: str, tmp_path: Path):
    """With the operator a process must import us before; with backend="torch" it needs nothing of us, nor Python."""
    layer = conv_lstm(backend=backend) if backend == "auto" else ConvLSTM2d(CIN, 3, 3, backend=backend)
    layer.requires_grad_(False)
    steps = {0: Dim("T")} if backend == "auto" else {}
    dynamic = {"input": {**steps, 1: Dim("B")}}
    program = torch.export.export(layer, (frames(steps=2),), dynamic_shapes=dynamic)
    options = {
        "aot_inductor.precompile_headers": False,  # which pays off from a second package on
        "aot_inductor.compile_wrapper_opt_level": "O0",  # it takes most of the time to compile, and none to run
    }
    path = str(tmp_path / "layer.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options)
    other = frames(steps=9 if steps else 2, batch=5)
    torch.save(other, tmp_path / "input.pt")
    imports = "import tritonlstm" if backend == "auto" else ""
    assert run_elsewhere(LOAD_PACKAGE.format(imports=imports), tmp_path) == (["tritonlstm"] if imports else [])
    assert_close(torch.load(tmp_path / "results.pt"), layer(other))


def run_onnx(path: Path, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    results = session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})
    return [torch.from_numpy(np.asarray(each)) for each in results]


class Forecast(nn.Module):
    def __init__(self, model: EncoderForecaster):
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input, 6)


class TestONNX:
    def export(self, module: nn.Module, inputs: tuple, path: Path, dynamic: dict, **options: object) -> None:
        module.eval().requires_grad_(False)
        torch.onnx.export(module, inputs, path, dynamo=True, dynamic_shapes=dynamic, verbose=False, **options)

    def export_as_scan(self, module: nn.Module, inputs: tuple, path: Path, dynamic: dict) -> None:
        with tritonlstm.onnx.scan() as table:
            self.export(module, inputs, path, dynamic, custom_translation_table=table)

    def test_plain_export_unrolls_for_one_t(self, tmp_path: Path):
        layer = conv_lstm()
        dynamic = {"input": {1: Dim("B"), 3: Dim("H"), 4: Dim("W")}}
        self.export(layer, (frames(2),), tmp_path / "layer.onnx", dynamic)
        other = frames(2, 5, 8, 9)
        assert_close(run_onnx(tmp_path / "layer.onnx", other), layer(other))

    @each_layer
    def test_a_scan_for_any_t(self, make, make_input, dynamic, tmp_path: Path):
        layer = make()
        self.export_as_scan(layer, (make_input(),), tmp_path / "layer.onnx", dynamic)
        for sizes in (OTHER_SIZES, (1, 1, 6, 6), (12, 2, 5, 7)):
            other = make_input(*sizes)
            assert_close(run_onnx(tmp_path / "layer.onnx", other), layer(other))

    @pytest.mark.parametrize(
        "options",
        [
            {"activation": "relu", "bias": False, "peephole": "none"},
            {"activation": "identity", "recurrent_activation": "hard_sigmoid"},
            {"recurrent_activation": "hard_sigmoid_keras2", "dtype": torch.float32},
            {"activation": "leaky_relu", "output_activation": "tanh"},
            {"output_activation": "leaky_relu", "cell_clip": 0.25},
            {"peephole": "full", "spatial_size": (6, 5), "batch_first": True},
            {"input_kernel_size": (5, 1), "memory": "recompute"},
            {"schedule": "hoisted"},
            {"bidirectional": True},
        ],
        ids=[
            "relu, neither bias nor peephole",
            "identity, hard sigmoid",
            "hard sigmoid of Keras 2",
            "leaky relu, tanh of c",
            "clipped, leaky relu of c",
            "full peephole, batch first",
            "input kernel",
            "hoisted",
            "both directions",
        ],
    )
    def test_a_scan_with_other_options(self, options: dict, tmp_path: Path):
        layer = with_peepholes(ConvLSTM2d(CIN, 3, 3, **options))
        self.export_as_scan(layer, (frames(),), tmp_path / "layer.onnx", {"input": {0: Dim("T"), 1: Dim("B")}})
        other = frames(7, 5)
        assert_close(run_onnx(tmp_path / "layer.onnx", other), layer(other))

    @pytest.mark.filterwarnings(
        "ignore:# ONNX model has different number of inputs:UserWarning"
    )  # it counts no nesting
    def test_a_scan_with_a_state_in_half_precision(self, tmp_path: Path):
        layer, input = conv_lstm(dtype=torch.float16).requires_grad_(False), frames().half()
        _, state = layer(input)
        state = [list(pair) for pair in state]
        self.export_as_scan(
            layer,
            (input, state),
            tmp_path / "layer.onnx",
            {"input": {0: Dim("T")}, "state": [[None, None], [None, None]]},
        )
        other = frames(7).half()
        got, expected = run_onnx(tmp_path / "layer.onnx", other, *leaves(state)), leaves(layer(other, state))
        assert [each.dtype for each in got] == [each.dtype for each in expected]
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-3)

    def test_a_forecaster_whose_layers_have_no_input(self, tmp_path: Path):
        model = Forecast(with_peepholes(EncoderForecaster(CIN, [3, 4], 3)))
        self.export_as_scan(model, (frames(),), tmp_path / "model.onnx", LAYERS["ConvLSTM2d"][2])
        other = frames(*OTHER_SIZES)
        assert_close(run_onnx(tmp_path / "model.onnx", other), model(other))

    def test_outside_the_context_the_operator_is_not_exported(self, tmp_path: Path):
        with tritonlstm.onnx.scan():
            pass
        self.test_plain_export_unrolls_for_one_t(tmp_path)
