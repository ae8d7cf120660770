"""Every option of the layers, in pairs, under what runs them: compiled, exported, step by step, on each backend."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import tritonlstm
import tritonlstm.onnx
from tests.support.covering import Row, describe, pairwise
from tests.support.layers import step_by_step, with_peepholes
from tritonlstm.core.spec import PADDING_MODES

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from inside torch's compiler
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
]

CIN, SPATIAL = 2, {"1d": (7,), "2d": (6, 5), "3d": (4, 3, 3)}
OPTIONS = {
    "layer": SPATIAL,
    "peephole": ("channel", "none", "full"),
    "memory": ("save", "recompute"),
    "schedule": ("concat", "hoisted"),
    "dilation": ("1", "2", "by layer"),
    "padding_mode": PADDING_MODES,  # in W alone of images
    "gates": ("default", "linear candidate", "clipped"),
    "masked": (False, True),
}
GATES = {
    "default": {},
    "linear candidate": {"activation": "identity", "output_activation": "tanh"},
    "clipped": {"activation": "leaky_relu", "recurrent_activation": "hard_sigmoid", "cell_clip": 0.25},
}
DILATIONS = {"1": 1, "2": 2, "by layer": [2, 1]}
ROWS = pairwise(OPTIONS)
each_row = pytest.mark.parametrize("row", ROWS, ids=describe)


class Masked(nn.Module):
    """A layer with lengths, resets and holds that its input decides."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> tuple:
        score = input.detach().flatten(2).mean(2)
        return self.layer(input, lengths=(score > -0.1).sum(0), reset=score > 0.1, hold=score.abs() < 0.05)


def layer_of(row: Row, **more: object) -> nn.Module:
    """Two layers of 4 and 3 channels, with masks where the row has them."""
    options = {name: value for name, value in row.items() if name not in ("layer", "gates", "masked")}
    options |= GATES[row["gates"]] | more
    options["dilation"] = DILATIONS[row["dilation"]]
    if row["layer"] == "2d" and row["padding_mode"] != "zeros":
        options["padding_mode"] = ("zeros", row["padding_mode"])
    if row["peephole"] == "full":
        options["spatial_size"] = SPATIAL[row["layer"]]
    torch.manual_seed(0)
    layer = with_peepholes(getattr(tritonlstm, f"ConvLSTM{row['layer']}")(CIN, [4, 3], 3, **options))
    return Masked(layer) if row["masked"] else layer


def frames(row: Row, steps: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(steps, batch, CIN, *SPATIAL[row["layer"]])


def everything(run, layer: nn.Module, input: Tensor) -> list[Tensor]:
    """Output, states and the gradients of input and parameters."""
    input = input.detach().requires_grad_()
    output, states = run(input)
    loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in states)
    tensors = [tensor for pair in states for tensor in pair]
    return [output, *tensors, *torch.autograd.grad(loss, [input, *layer.parameters()])]


def assert_close(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@each_row
def test_backends_and_steps_agree_with_plain_pytorch(row: Row):
    plain, input = layer_of(row, backend="torch"), frames(row)
    expected = everything(plain, plain, input)
    for backend in ("aten", "triton"):
        layer = layer_of(row, backend=backend)
        assert_close(everything(layer, layer, input), expected)
        if row["masked"]:  # a step has no masks
            continue
        assert_close(everything(lambda frames: step_by_step(layer, frames), layer, input), expected)  # noqa: B023


@each_row
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_in_one_graph_for_any_sizes(row: Row):
    layer = layer_of(row, backend="aten")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")  # Inductor has nothing to do but one operator
    for sizes in ((3, 2), (5, 4), (4, 7)):
        input = frames(row, *sizes)
        assert_close(everything(compiled, layer, input), everything(layer, layer, input))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@each_row
def test_exported_for_any_t_and_b(row: Row):
    layer = layer_of(row)
    module = torch.export.export(layer, (frames(row),), dynamic_shapes={"input": {0: Dim("T"), 1: Dim("B")}}).module()
    input = frames(row, 6, 4)
    assert_close(everything(module, module, input), everything(layer, layer, input))


@each_row
def test_onnx_has_one_scan_a_layer_or_refuses_the_option_by_name(row: Row, tmp_path: Path):
    layer = layer_of(row).eval().requires_grad_(False)

    def export() -> None:
        with tritonlstm.onnx.scan() as table:
            torch.onnx.export(
                layer,
                (frames(row),),
                tmp_path / "layer.onnx",
                dynamo=True,
                dynamic_shapes={"input": {0: Dim("T"), 1: Dim("B")}},
                verbose=False,
                custom_translation_table=table,
            )

    refused = "lengths, reset and hold" if row["masked"] else "padding_mode=.*"
    if row["masked"] or row["padding_mode"] != "zeros":
        with pytest.raises(Exception, match=rf"{refused} cannot be exported as a Scan"):
            export()
        return
    export()
    session, input = onnxruntime.InferenceSession(tmp_path / "layer.onnx"), frames(row, 5, 3)
    (name,) = (each.name for each in session.get_inputs())
    got = [torch.from_numpy(each) for each in session.run(None, {name: input.numpy()})]
    output, states = layer(input)
    assert_close(got, [output, *(tensor for pair in states for tensor in pair)])
