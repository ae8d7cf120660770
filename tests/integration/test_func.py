"""torch.func on the layers: each transform gives plain PyTorch's numbers, or an error that says what to use."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from tests.support.layers import conv_lstm, frames, pair_of_layers

pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch.func's own


def parameters(layer: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def output(layer: nn.Module):
    return lambda parameters, input: functional_call(layer, parameters, (input,))[0]


def loss(layer: nn.Module):
    return lambda parameters, input: output(layer)(parameters, input).square().sum()


def samples(input: Tensor) -> Tensor:
    """(T, B, …) with B as the samples' dimension 1, each of them a batch of one."""
    return input.unsqueeze(2)


def stacked(layer: nn.Module) -> dict[str, Tensor]:
    return {name: torch.stack([value, value + 0.1]) for name, value in parameters(layer).items()}


TRANSFORMS = {
    "functional_call": lambda m, x: output(m)(parameters(m), x),
    "grad": lambda m, x: grad(loss(m), (0, 1))(parameters(m), x),
    "grad_and_value": lambda m, x: grad_and_value(loss(m))(parameters(m), x),
    "vjp": lambda m, x: vjp(output(m), parameters(m), x)[1](torch.ones(len(x), x.shape[1], 3, *x.shape[3:])),
    "jacrev": lambda m, x: jacrev(lambda x: output(m)(parameters(m), x)[-1, :, 0, 0, 0])(x),
    "vmap over inputs": lambda m, x: vmap(lambda x: output(m)(parameters(m), x), in_dims=1)(samples(x)),
    "vmap over unbatched inputs": lambda m, x: vmap(lambda x: output(m)(parameters(m), x), in_dims=1, out_dims=1)(x),
    "vmap over parameters": lambda m, x: vmap(output(m), in_dims=(0, None))(stacked(m), x),
    "vmap over both": lambda m, x: vmap(output(m), in_dims=(0, 1))(stacked(m), samples(x[:, :2])),
    "vmap in vmap": lambda m, x: vmap(lambda p: vmap(lambda x: output(m)(p, x), in_dims=1)(samples(x)))(stacked(m)),
    "gradients of each sample": lambda m, x: vmap(grad(loss(m)), in_dims=(None, 1))(parameters(m), samples(x)),
    "gradients in chunks": lambda m, x: vmap(grad(loss(m)), in_dims=(None, 1), chunk_size=2)(parameters(m), samples(x)),
    "gradients of an ensemble": lambda m, x: vmap(grad(loss(m)), in_dims=(0, None))(stacked(m), x),
    "grad of vmap": lambda m, x: grad(lambda p: vmap(lambda x: loss(m)(p, x), in_dims=1)(samples(x)).sum())(
        parameters(m)
    ),
}


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_gives_the_numbers_of_plain_pytorch(transform, backend: str):
    layer, plain = pair_of_layers(backend)
    x = frames()
    torch.testing.assert_close(transform(layer, x), transform(plain, x), rtol=1e-4, atol=1e-5)


def test_gradients_of_each_sample_are_those_of_a_loop():
    layer, x = conv_lstm(), frames()
    together = vmap(grad(loss(layer)), in_dims=(None, 1))(parameters(layer), samples(x))
    for index in range(x.shape[1]):
        alone = grad(loss(layer))(parameters(layer), x[:, index : index + 1])
        for name, expected in alone.items():
            assert torch.equal(together[name][index], expected), name


OVER_SAMPLES = {
    "results": lambda m, count: vmap(lambda x: functional_call(m, parameters(m), (x,)), in_dims=1)(
        samples(frames(batch=count))
    ),
    "results by parameters": lambda m, count: vmap(output(m), in_dims=(0, None))(
        {name: value.expand(count, *value.shape) for name, value in parameters(m).items()}, frames()
    ),
    "gradients": lambda m, count: vmap(grad(loss(m)), in_dims=(None, 1))(parameters(m), samples(frames(batch=count))),
    "vmap in vmap": lambda m, count: vmap(
        lambda x: vmap(lambda x: output(m)(parameters(m), x), in_dims=1)(x), in_dims=1, out_dims=1
    )(samples(frames(batch=count)).unsqueeze(1).expand(-1, 2, -1, -1, -1, -1, -1)),
}


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("call", OVER_SAMPLES.values(), ids=OVER_SAMPLES.keys())
def test_no_samples_give_empty_results(call, backend: str):
    """Plain PyTorch cannot tell their sizes: its batching rules of cat and conv2d raise without samples."""
    layer = conv_lstm(backend=backend)
    none, one = (torch.utils._pytree.tree_leaves(call(layer, count)) for count in (0, 1))
    assert [each.shape for each in none] == [(0, *each.shape[1:]) for each in one]
    assert [each.dtype for each in none] == [each.dtype for each in one]


FORWARD_MODE = {
    "jvp of the input": lambda m, x: jvp(lambda x: output(m)(parameters(m), x), (x,), (x,)),
    "jvp of a bias": lambda m, x: jvp(
        lambda b: output(m)({**parameters(m), "layers.1.bias": b}, x), *[(parameters(m)["layers.1.bias"],)] * 2
    ),
    "jacfwd": lambda m, x: jacfwd(lambda x: output(m)(parameters(m), x))(x[:1, :1]),
    "linearize": lambda m, x: linearize(lambda x: output(m)(parameters(m), x), x)[1](x),
}
SECOND = {
    "hessian": lambda m, x: hessian(lambda b: loss(m)({**parameters(m), "layers.1.bias": b}, x))(
        parameters(m)["layers.1.bias"]
    ),
    "grad of grad": lambda m, x: grad(lambda p: sum(each.square().sum() for each in grad(loss(m))(p, x).values()))(
        parameters(m)
    ),
    "jvp of grad": lambda m, x: jvp(lambda p: grad(loss(m))(p, x), (parameters(m),), (parameters(m),)),
}


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("transform", {**FORWARD_MODE, **SECOND}.values(), ids={**FORWARD_MODE, **SECOND}.keys())
def test_what_it_cannot_do_raises_and_names_the_backend_that_can(transform, backend: str):
    layer, plain = pair_of_layers(backend)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        transform(layer, frames(2, 2, 3, 3))
    result = transform(plain, frames(2, 2, 3, 3))
    assert all(tensor.isfinite().all() for tensor in torch.utils._pytree.tree_leaves(result))


def test_forward_ad_without_func_is_refused_too():
    layer, x = conv_lstm(), frames()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match='backend="torch"'):
        layer(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.usefixtures("fresh_compiler")
class TestCompiled:
    """Dynamo cannot trace a transform of the operators: on some versions it would drop their gradient silently."""

    def test_a_transform_inside_gives_the_numbers_of_plain_pytorch(self):
        layer, plain = pair_of_layers()
        x = frames()
        compiled = torch.compile(lambda parameters, x: grad(loss(layer))(parameters, x), backend="aot_eager")
        expected = grad(loss(plain))(parameters(plain), x)
        torch.testing.assert_close(compiled(parameters(layer), x), expected, rtol=1e-4, atol=1e-5)

    def test_a_transform_inside_is_refused_where_the_graph_may_not_break(self):
        layer = conv_lstm()
        compiled = torch.compile(lambda parameters, x: grad(loss(layer))(parameters, x), fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            compiled(parameters(layer), frames())

    def test_a_transform_outside_gives_the_numbers_of_plain_pytorch(self):
        layer, plain = pair_of_layers()
        x = frames()
        compiled = torch.compile(layer, backend="aot_eager")
        named = {f"_orig_mod.{name}": value for name, value in parameters(layer).items()}
        got = grad(loss(compiled))(named, x)
        expected = grad(loss(plain))(parameters(plain), x)
        for name, gradient in expected.items():
            torch.testing.assert_close(got[f"_orig_mod.{name}"], gradient, rtol=1e-4, atol=1e-5)


def test_the_same_tensor_twice_gets_both_gradients():
    """On torch 2.11 an autograd.Function alone, compiled, gave half of it."""
    layer, plain = pair_of_layers()
    x = frames()
    results = []
    for run in (layer, plain, torch.compile(layer)):
        same = [torch.ones(x.shape[1], cell.hidden_channels, *x.shape[3:], requires_grad=True) for cell in layer.layers]
        run(x, [(tensor, tensor) for tensor in same])[0].square().sum().backward()
        results.append([tensor.grad for tensor in same])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)


class TestGradientPenalty:
    def penalty(self, layer: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    def test_trains_on_plain_pytorch(self):
        layer, x = conv_lstm(backend="torch"), frames()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        penalties = []
        for _ in range(30):
            optimizer.zero_grad()
            penalty = self.penalty(layer, x)
            penalty.backward()
            optimizer.step()
            penalties.append(penalty.item())
        assert penalties[-1] < 0.5 * penalties[0]

    @pytest.mark.parametrize("backend", ["auto", "triton"])
    def test_is_refused_by_the_others(self, backend: str):
        layer = conv_lstm(backend=backend)
        with pytest.raises(RuntimeError, match='backend="torch"'):
            self.penalty(layer, frames()).backward()
