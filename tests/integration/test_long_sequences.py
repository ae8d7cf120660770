"""Sequences longer than memory: truncated backpropagation through time, and checkpointing in time."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.layers import frames, gradients, pair_of_layers

STEPS, PART = 12, 4


def carry(layer: nn.Module, sequence: Tensor, detach: bool) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Part after part with the state carried over: each part's gradients, added up as they come, and the outputs."""
    state, steps, outputs = None, [], []
    layer.zero_grad()
    loss = 0
    for part in sequence.split(PART):
        output, state = layer(part, state)
        outputs.append(output.detach())
        loss = loss + output.square().sum()
        if detach:
            loss.backward()
            steps.append({name: parameter.grad.clone() for name, parameter in layer.named_parameters()})
            loss, state = 0, [(h.detach(), c.detach()) for h, c in state]
    if not detach:
        steps.append(gradients(layer, loss))
    return steps, torch.cat(outputs)


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_truncated_bptt_with_carried_detached_state_equals_the_reference(backend: str):
    layer, plain = pair_of_layers(backend)
    sequence = frames(steps=STEPS)
    got, output = carry(layer, sequence, detach=True)
    expected, expected_output = carry(plain, sequence, detach=True)
    assert len(got) == STEPS // PART
    torch.testing.assert_close(output, expected_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(output, layer(sequence)[0].detach()), "forward, the parts are the whole"
    whole = gradients(layer, layer(sequence)[0].square().sum())
    assert not torch.allclose(got[-1]["layers.0.weight"], whole["layers.0.weight"], rtol=1e-3), "truncation is felt"


def test_state_that_is_carried_but_not_detached_gives_the_whole_gradient():
    layer, _ = pair_of_layers()
    sequence = frames(steps=STEPS)
    (got,), _ = carry(layer, sequence, detach=False)
    whole = gradients(layer, layer(sequence)[0].square().sum())
    torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_checkpointing_each_part_gives_the_gradient_of_the_whole(reentrant: bool, compiled: bool):
    layer, _ = pair_of_layers()
    sequence = frames(steps=STEPS).requires_grad_()
    whole = torch.autograd.grad(layer(sequence)[0].square().sum(), [sequence, *layer.parameters()])

    run = torch.compile(layer) if compiled else layer

    def one(part: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        pairs = list(zip(state[::2], state[1::2])) or None
        output, pairs = run(part, pairs)
        return output, *(tensor for pair in pairs for tensor in pair)

    state, loss = (), 0
    for part in sequence.split(PART):
        output, *state = checkpoint(one, part, *state, use_reentrant=reentrant)
        loss = loss + output.square().sum()
    loss.backward()
    got = [sequence.grad, *(parameter.grad for parameter in layer.parameters())]
    torch.testing.assert_close(got, list(whole), rtol=1e-4, atol=1e-4)
