"""What a call returns: the last step alone, every layer's output, c at every step."""

from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from bench.timer import peak_memory
from tests.support.counting import AllocationLog
from tests.support.layers import B, H, T, W, conv_lstm, frames, gradients, peephole_lstm
from tests.support.problems import MODES
from tritonlstm import ConvLSTM2d, functional

DIRECTIONS = [{}, {"reverse": True}, {"bidirectional": True}]


def assert_close(one: object, other: object) -> None:
    torch.testing.assert_close(tree_leaves(one), tree_leaves(other))


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
@pytest.mark.parametrize("options", DIRECTIONS, ids=str)
def test_the_last_step_is_that_of_the_sequence_in_either_direction(options: dict, backend: str):
    layer, input = conv_lstm(**options, backend=backend), frames()
    _, state = layer(input)
    with torch.no_grad():
        assert_close(layer(input, returns="last"), (torch.cat([h for h, _ in state[len(state) // 2 :]], 1), state))
    got = gradients(layer, layer(input, returns="last")[0].square().sum())
    expected = gradients(layer, sum(h.square().sum() for h, _ in state[len(state) // 2 :]))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_batch_first_and_no_batch():
    layer, input = conv_lstm(), frames()
    expected, _ = layer(input, returns="last")
    assert expected.shape == (B, 3, H, W)
    assert_close(layer(input[:, 0], returns="last")[0], expected[0])
    outputs, _, cells = layer(input, returns="layers", return_cells=True)
    for each, channels in zip(outputs + cells, (4, 3, 4, 3), strict=True):
        assert each.shape == (T, B, channels, H, W)
    layer.batch_first = True
    assert_close(layer(input.transpose(0, 1), returns="last")[0], expected)
    for got, wanted in zip(layer(input.transpose(0, 1), returns="layers", return_cells=True)[::2], (outputs, cells)):
        assert_close([each.transpose(0, 1) for each in got], list(wanted))


def test_every_c_belongs_to_its_h():
    layer, input = conv_lstm(), frames()
    outputs, state, cells = layer(input, returns="layers", return_cells=True)
    part, state_of_part, _ = layer(input[:2], returns="layers", return_cells=True)
    assert_close([each[:2] for each in outputs], part)
    assert_close([each[1] for each in cells], [pair.c for pair in state_of_part])
    assert_close([(h[-1], c[-1]) for h, c in zip(outputs, cells)], state)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_inference_of_the_last_step_allocates_no_sequence(mode: dict):
    """One layer: what is allocated beside the input does not grow by a sequence of h."""
    layer = ConvLSTM2d(8, 8, 3, **mode)
    step = 8 * 6 * 5 * 4  # bytes of h of one step
    sizes = []
    for returns in ("sequence", "last"):
        input = torch.randn(64, 1, 8, 6, 5)
        with AllocationLog() as log, torch.no_grad():
            layer(input, returns=returns)
        sizes.append(log.nbytes)
    assert sizes[0] - sizes[1] == 63 * step


@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_training_on_the_last_step_keeps_what_the_backward_pass_reads(memory: str):
    layer, kept = ConvLSTM2d(8, 8, 3, memory=memory), {}
    input = torch.randn(16, 1, 8, 6, 5)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), AllocationLog() as log:
        _output, _ = layer(input, returns="last")
    step = 8 * 6 * 5 * 4
    of_sequence = 16 + 17 + (64 if memory == "save" else 0)  # output, c and gates
    others = input.nbytes + sum(each.nbytes for each in layer.parameters())
    assert sum(storage.nbytes() for storage in kept.values()) == of_sequence * step + others
    with AllocationLog() as of_copy:
        layer(input)
    assert of_copy.nbytes - log.nbytes == 15 * step, "the copy of the output"


def test_peak_memory_of_a_long_inference():
    layer, input = ConvLSTM2d(4, 8, 3), torch.randn(64, 1, 4, 32, 32)
    peaks = {}
    with torch.no_grad():
        for returns in ("sequence", "last"):
            peaks[returns] = peak_memory(partial(layer, input, returns=returns), input.device)
    assert peaks["last"] < peaks["sequence"] - 60 * 8 * 32 * 32 * 4


@pytest.mark.parametrize("call", [{"returns": "last"}, {"return_cells": True}, {"returns": "layers"}], ids=str)
class TestEveryKind:
    def test_may_be_written_to_but_for_what_the_next_layer_has_read(self, call: dict):
        layer, input = conv_lstm(), frames()
        if call.get("returns") == "layers":
            outputs, _ = layer(input, **call)
            outputs[0].mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                outputs[1].sum().backward()
            return

        def loss(inplace: bool) -> torch.Tensor:
            results = tree_leaves(layer(input, **call))
            return sum((each.mul_(2) if inplace else each * 2).square().sum() for each in results)

        torch.testing.assert_close(gradients(layer, loss(True)), gradients(layer, loss(False)))

    def test_compiled_in_one_graph(self, fresh_compiler, call: dict):
        layer, input = conv_lstm(), frames()

        def loss(run: object) -> torch.Tensor:
            return sum(each.square().sum() for each in tree_leaves(run(input, **call)))

        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(gradients(layer, loss(compiled)), gradients(layer, loss(layer)))
        with torch.no_grad():
            assert_close(compiled(input, **call), layer(input, **call))

    def test_exported_and_trained(self, call: dict):
        layer, input = peephole_lstm(bidirectional=True), frames()[..., 0, 0]
        program = torch.export.export(layer, (input,), call, dynamic_shapes=None).module()
        assert_close(program(input, **call), layer(input, **call))
        loss = sum(each.square().sum() for each in tree_leaves(program(input, **call)))
        loss.backward()
        expected = gradients(layer, sum(each.square().sum() for each in tree_leaves(layer(input, **call))))
        for name, gradient in expected.items():
            torch.testing.assert_close(program.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5)

    def test_under_checkpoint(self, call: dict):
        layer, input = conv_lstm(), frames()

        def loss(run: object) -> torch.Tensor:
            return sum(each.square().sum() for each in tree_leaves(run(input)))

        again = partial(checkpoint, partial(layer, **call), use_reentrant=False)
        torch.testing.assert_close(gradients(layer, loss(again)), gradients(layer, loss(partial(layer, **call))))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_functional_form_returns_the_same(backend: str):
    layer, input = conv_lstm(), frames()
    cell = layer.layers[0]
    parameters = cell.weight, cell.bias, cell.peephole
    outputs, state, cells = layer(input, returns="layers", return_cells=True)
    got = functional.conv_lstm(input, None, *parameters, returns="cells", backend=backend)
    assert_close(got, (outputs[0], state[0], cells[0]))
    got = functional.conv_lstm(input, None, *parameters, returns="last", backend=backend)
    assert_close(got, (state[0].h, state[0]))
