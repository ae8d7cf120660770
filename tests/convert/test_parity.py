"""A converted layer computes what the other code does: outputs, states, and gradients in that code's coordinates."""

import pytest
import torch
from torch.func import functional_call

from tests.support.foreign import SOURCES, Foreign
from tritonlstm import convert

CASES = pytest.mark.parametrize("foreign", SOURCES.values(), ids=SOURCES.keys())
LIMIT = {"rtol": 1e-10, "atol": 1e-10}


def own_input(foreign: Foreign, input: torch.Tensor) -> torch.Tensor:
    """What our layer reads; that of rvos reads the other hidden state as its last channels."""
    return torch.cat([input, input[:, :, :1], input], 2) if foreign.source == "rvos" else input


def rename_words(foreign: Foreign) -> dict[str, object]:
    return {name: value for name, value in foreign.arguments.items() if name == "dense"}


def test_every_source_has_an_example():
    seen = {foreign.source for foreign in SOURCES.values()}
    copies = {"torchgeo", "conv-lstm", "metnet", "MTLCC", "utae-paps", "evfly", "CortexNet", "vp-suite"}
    assert seen | copies | {"tritonlstm"} == set(convert.SOURCES)


@CASES
def test_outputs_states_and_gradients_agree(foreign: Foreign):
    params = {key: value.requires_grad_(value.is_floating_point()) for key, value in foreign.params().items()}
    input = foreign.input().requires_grad_()
    layer = convert.from_state_dict(params, foreign.source, **foreign.arguments).eval()
    renamed = convert.rename(params, foreign.source, **rename_words(foreign))
    expected, expected_states = foreign.run(params, input)
    output, states = functional_call(layer, renamed, (own_input(foreign, input),))
    torch.testing.assert_close(output, expected, **LIMIT)
    torch.testing.assert_close([tuple(pair) for pair in states], expected_states, **LIMIT)

    weights = torch.randn_like(expected), torch.randn_like(states[0].c)
    used = [key for key in params if params[key].requires_grad and not ("conv_o" in key or "conv_last" in key)]
    leaves = [input, *(params[key] for key in used)]

    def gradients(output, state):
        return torch.autograd.grad((output * weights[0]).sum() + (state[1] * weights[1]).sum(), leaves)

    theirs, ours = gradients(expected, expected_states[0]), gradients(output, states[0])
    assert all(gradient.abs().max() > 0 for gradient in theirs)
    torch.testing.assert_close(dict(zip(used, ours[1:])), dict(zip(used, theirs[1:])), **LIMIT)
    torch.testing.assert_close(ours[0], theirs[0], **LIMIT)

    with torch.no_grad():
        torch.testing.assert_close(layer(own_input(foreign, input))[0], expected, **LIMIT)


@CASES
def test_a_round_trip_has_the_same_bits(foreign: Foreign):
    """From there, here and back. Two biases come back as their sum and zero; where 1 is added to f's, it rounds."""
    if foreign.source == "RVT":
        pytest.skip("read only, as a dense convolution")
    params = foreign.params(torch.float32)
    layer = convert.from_state_dict(params, foreign.source, **foreign.arguments)
    written = convert.trees.flatten(convert.to_state_dict(layer, foreign.source))
    assert written.keys() == params.keys() - {key for key in params if "conv_o" in key or "conv_last" in key}
    for key, value in written.items():
        if key not in foreign.not_kept:
            assert value.dtype == params[key].dtype and torch.equal(value, params[key]), key
    again = convert.from_state_dict(written, foreign.source, **foreign.arguments).state_dict()
    rounds = convert.SOURCES[foreign.source].forget_bias != 0
    for key, value in layer.state_dict().items():
        if rounds and key.endswith("bias"):
            torch.testing.assert_close(again[key], value, rtol=0, atol=2e-7)
        else:
            assert torch.equal(again[key], value), key


def test_a_wrong_gate_order_is_only_seen_in_the_numbers():
    foreign = SOURCES["ndrplz"]
    params, input = foreign.params(), foreign.input()
    wrong = convert.Joint("cell_list.{layer}.conv", gates="ifgo")
    output, _ = convert.from_state_dict(params, wrong)(input)
    expected, _ = foreign.run(params, input)
    assert output.shape == expected.shape and (output - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_keeps_dtypes_and_copies(dtype: torch.dtype):
    params = SOURCES["ndrplz"].params(dtype)
    layer = convert.from_state_dict(params, "ndrplz")
    weight = layer.layers[0].weight
    assert weight.dtype == dtype and weight.requires_grad and weight.is_contiguous()
    before = weight.detach().clone()
    for value in params.values():
        value.zero_()
    assert torch.equal(weight, before)


def test_draws_no_random_numbers():
    params = SOURCES["ndrplz"].params()
    before = torch.get_rng_state()
    convert.from_state_dict(params, "ndrplz")
    assert torch.equal(torch.get_rng_state(), before)
