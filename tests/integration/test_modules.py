"""What users do to any nn.Module works on these."""

import copy
import gc
import pickle
import resource
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, skip_init

from tests.support.covering import Row, describe, pairwise
from tests.support.layers import CIN, B, H, W, conv_lstm, frames, gradients, in_threads, peephole_lstm
from tritonlstm import ConvLSTM2d, PeepholeLSTM

LAYERS = {"ConvLSTM2d": (conv_lstm, frames), "PeepholeLSTM": (peephole_lstm, lambda: frames()[..., 0, 0])}
each_layer = pytest.mark.parametrize(("make", "make_input"), LAYERS.values(), ids=LAYERS.keys())


def leaves(results: object) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(results)


def assert_same(one: object, other: object) -> None:
    for tensor, counterpart in zip(leaves(one), leaves(other), strict=True):
        assert torch.equal(tensor, counterpart)


class TestCopies:
    @each_layer
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    def test_are_equal_and_of_their_own(self, make, make_input, duplicate):
        layer, input = make(), make_input()
        layer(input)[0].sum().backward()
        duplicated = duplicate(layer)
        assert_same(duplicated(input), layer(input))
        with torch.no_grad():
            duplicated.layers[0].weight.zero_()
        assert layer.layers[0].weight.any()

    @each_layer
    def test_saved_whole_and_loaded(self, make, make_input, tmp_path):
        layer, input = make(), make_input()
        torch.save(layer, tmp_path / "layer.pt")
        loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
        assert_same(loaded(input), layer(input))


class TestStateDict:
    @each_layer
    def test_names_every_parameter_and_nothing_else(self, make, make_input):
        names = [f"layers.{index}.{kind}" for index in range(2) for kind in ("weight", "bias", "peephole")]
        assert list(make().state_dict()) == names

    def test_is_strict(self):
        layer = conv_lstm()
        state = layer.state_dict()
        del state["layers.1.peephole"]
        with pytest.raises(RuntimeError, match=r'Missing key.*"layers.1.peephole"'):
            layer.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r'Unexpected key.*"layers.1.weights"'):
            layer.load_state_dict({**layer.state_dict(), "layers.1.weights": torch.zeros(1)})
        with pytest.raises(RuntimeError, match=r"size mismatch for layers\.0\.peephole"):
            layer.load_state_dict({**layer.state_dict(), "layers.0.peephole": torch.zeros(3, 4, H, W)})

    @each_layer
    def test_goes_through_safetensors(self, make, make_input, tmp_path):
        layer, other, input = make(), make(), make_input()
        layer.to(memory_format=torch.channels_last)
        safetensors.torch.save_model(layer, tmp_path / "layer.safetensors")
        safetensors.torch.load_model(other, tmp_path / "layer.safetensors")
        assert_same(other(input), layer(input))

    @each_layer
    def test_loads_with_assign_into_a_meta_layer(self, make, make_input):
        layer, input = make(), make_input()
        with torch.device("meta"):
            other = make()
        other.load_state_dict(layer.state_dict(), assign=True)
        assert_same(other(input), layer(input))


class TestPlaces:
    @each_layer
    def test_channels_last(self, make, make_input):
        layer, input = make(), make_input()
        expected = gradients(layer, layer(input)[0].square().sum())
        moved = copy.deepcopy(layer).to(memory_format=torch.channels_last)
        assert_same(moved(input), layer(input))
        for name, gradient in gradients(moved, moved(input)[0].square().sum()).items():
            assert torch.equal(gradient, expected[name]), name
            assert gradient.stride() == moved.get_parameter(name).stride(), name

    @each_layer
    @pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
    def test_the_meta_device_gives_shapes_strides_and_dtypes(self, make, make_input, backend: str):
        layer, input = make(backend=backend), make_input()
        real = layer(input)
        layer, input = layer.to("meta"), input.to("meta").requires_grad_()
        results = layer(input)
        for tensor, counterpart in zip(leaves(results), leaves(real), strict=True):
            assert (tensor.shape, tensor.stride(), tensor.dtype) == (
                counterpart.shape,
                counterpart.stride(),
                counterpart.dtype,
            )
            assert tensor.is_meta
        results[0].sum().backward()
        assert input.grad.shape == input.shape
        for parameter in layer.parameters():
            assert parameter.grad.is_meta and parameter.grad.shape == parameter.shape

    def test_materialises_from_the_meta_device(self):
        layer = ConvLSTM2d(CIN, 4, 3, device="meta").to_empty(device="cpu")
        layer.reset_parameters()
        assert layer(frames())[0].isfinite().all()

    @pytest.mark.parametrize("kind", [ConvLSTM2d, PeepholeLSTM])
    def test_skip_init(self, kind: type):
        state = torch.get_rng_state()
        layer = skip_init(kind, CIN, [4, 3], **({"kernel_size": 3} if kind is ConvLSTM2d else {}))
        assert torch.equal(torch.get_rng_state(), state), "nothing was drawn"
        assert all(parameter.device.type == "cpu" for parameter in layer.parameters())

    def test_a_factory_device_and_the_default_dtype(self):
        torch.set_default_dtype(torch.float64)
        try:
            layer = ConvLSTM2d(CIN, 4, 3)
            assert layer(frames())[0].dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


class TestParametrizations:
    @each_layer
    def test_weight_norm_starts_where_the_weight_was_and_learns(self, make, make_input):
        layer, input = make(), make_input()
        before = layer(input)[0]
        for cell in layer.layers:
            parametrizations.weight_norm(cell)
        output = layer(input)[0]
        torch.testing.assert_close(output, before)
        for name, gradient in gradients(layer, output.square().sum()).items():
            assert gradient.any(), name

    def test_spectral_norm_iterates_once_a_call(self):
        layer, counts = conv_lstm(), Counter()
        for cell in layer.layers:
            parametrizations.spectral_norm(cell)
            power = cell.parametrizations.weight[0]
            original = power._power_method
            power._power_method = lambda *args, cell=cell, original=original: (
                counts.update([cell]),
                original(*args),
            )
        counts.clear()
        layer(frames(), None)
        assert list(counts.values()) == [1, 1]

    def test_a_parametrization_of_ones_own_is_computed_once_a_call_and_trains(self):
        class Scaled(nn.Module):
            calls = 0

            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(2.0))

            def forward(self, weight: Tensor) -> Tensor:
                type(self).calls += 1
                return self.scale * weight

        layer, input = conv_lstm(), frames()
        duplicated = copy.deepcopy(layer)
        with torch.no_grad():
            duplicated.layers[1].weight.mul_(2)
        parametrize.register_parametrization(layer.layers[1], "weight", Scaled())
        Scaled.calls = 0
        output, state = layer(input)
        assert Scaled.calls == 1
        torch.testing.assert_close(output, duplicated(input)[0])
        output.sum().backward()
        assert layer.layers[1].parametrizations.weight[0].scale.grad != 0
        Scaled.calls = 0
        layer.step(input[0], state)
        layer.layers[1](torch.randn(B, 4, H, W))
        assert Scaled.calls == 2

    def test_pruned_weights_stay_zero_while_the_others_learn(self):
        layer, input = conv_lstm(), frames()
        for cell in layer.layers:
            prune.l1_unstructured(cell, "weight", amount=0.5)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        outputs = []
        for _ in range(2):
            optimizer.zero_grad()
            outputs.append(layer(input)[0])
            outputs[-1].square().sum().backward()
            optimizer.step()
        assert not torch.equal(*outputs), "the step is seen"
        expected = layer(input)
        for cell in layer.layers:
            assert (cell.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
            prune.remove(cell, "weight")
        assert_same(layer(input), expected)


class TestHooks:
    def test_of_modules_run_once_for_each_layer(self):
        layer, input = conv_lstm(), frames().requires_grad_()
        calls = Counter()
        for name, module in layer.named_modules():
            if isinstance(module, nn.ModuleList):
                continue
            module.register_forward_pre_hook(lambda *_, name=name: calls.update([f"{name} before"]))
            module.register_forward_hook(lambda *_, name=name: calls.update([f"{name} after"]))
            module.register_full_backward_hook(lambda *_, name=name: calls.update([f"{name} back"]))
        layer(input)[0].sum().backward()
        names = ("", "layers.0", "layers.1")
        assert calls == {f"{name} {when}": 1 for name in names for when in ("before", "after", "back")}

    def test_may_replace_what_a_layer_returns(self):
        layer, input = conv_lstm(), frames()
        layer.layers[0].register_forward_hook(lambda module, args, result: (torch.zeros_like(result[0]), result[1]))
        output, _ = layer(input)
        expected, _ = layer.layers[1](torch.zeros(len(input), B, 4, H, W), None, len(input))
        assert torch.equal(output, expected)

    def test_of_parameters_see_the_gradient(self):
        layer, seen = conv_lstm(), []
        for parameter in layer.parameters():
            parameter.register_hook(lambda grad: grad * 0)
            parameter.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.any().item()))
        layer(frames())[0].sum().backward()
        assert seen == [False] * 6


KINDS = ("weight", "bias", "peephole")
FROZEN = {
    "+".join(kinds) or "nothing": kinds for count in range(len(KINDS) + 1) for kinds in combinations(KINDS, count)
}
FROZEN_ROWS = pairwise({"frozen": FROZEN, "input": ("learns", "frozen"), "backend": ("auto", "triton")})


def weight_gradients(backend: str, steps: int) -> int:
    """Calls for the weight gradient of a layer whose sequence is one chunk: in ATen, one for two steps."""
    return 1 if backend == "triton" and torch.cuda.is_available() else -(-steps // 2)


class TestFrozen:
    @pytest.mark.parametrize("row", FROZEN_ROWS, ids=describe)
    def test_subsets_get_the_same_gradients_and_no_needless_work(self, row: Row):
        frozen, input_learns, backend = FROZEN[row["frozen"]], row["input"] == "learns", row["backend"]
        layer, input = conv_lstm(backend=backend), frames().requires_grad_(input_learns)
        learning = dict(layer.named_parameters())
        expected = gradients(layer, layer(input)[0].square().sum())
        for name in list(learning):
            if name.split(".")[-1] in frozen:
                learning.pop(name).requires_grad_(False)
        with torch.profiler.profile() as profile:
            output = layer(input)[0]
            if output.requires_grad:
                output.square().sum().backward()
        calls = Counter(event.name for event in profile.events())

        for name, parameter in layer.named_parameters():
            if name in learning:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-5)
            else:
                assert parameter.grad is None, name
        assert (input.grad is not None) == input_learns
        trains = bool(learning) or input_learns
        assert calls["tritonlstm::training"] == (2 if trains else 0)
        assert calls["tritonlstm::inference"] == (0 if trains else 2)
        if not trains:
            return
        steps, sums = len(input), 0 if "weight" in frozen else 2 * weight_gradients(backend, len(input))
        # Forward T a layer; backward T, less the last where nothing before the first step learns.
        first_layer = steps if input_learns else steps - 1
        assert calls["aten::convolution"] == 2 * steps
        assert calls["aten::convolution_backward"] == steps + first_layer + sums

    def test_a_frozen_lower_layer_is_not_differentiated(self):
        layer = conv_lstm()
        layer.layers[0].requires_grad_(False)
        with torch.profiler.profile() as profile:
            layer(frames())[0].square().sum().backward()
        calls = Counter(event.name for event in profile.events())
        assert calls["tritonlstm::backward"] == calls["tritonlstm::training"] == calls["tritonlstm::inference"] == 1


def test_inference_mode_gives_the_same_numbers_and_a_state_to_go_on_with():
    layer, input = conv_lstm(), frames()
    expected, state = layer(input)
    with torch.inference_mode():
        first, carried = layer(input[:2])
        second, carried = layer(input[2:], carried)
    assert first.is_inference()
    assert_same((torch.cat([first, second]), carried), (expected, state))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_anomaly_detection_names_the_layer():
    layer, input = conv_lstm(), frames()
    with torch.no_grad():
        layer.layers[0].bias.fill_(float("nan"))
    with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="returned nan values"):
        layer(input)[0].sum().backward()


def test_saved_tensors_may_be_packed_by_hooks():
    layer, input = conv_lstm(), frames()
    expected = gradients(layer, layer(input)[0].square().sum())
    with torch.autograd.graph.save_on_cpu():
        loss = layer(input)[0].square().sum()
    for name, gradient in gradients(layer, loss).items():
        assert torch.equal(gradient, expected[name]), name


@each_layer
def test_many_threads_may_call_one_module_at_once(make, make_input):
    layer, input = make(), make_input()
    expected, expected_gradients = layer(input), gradients(layer, layer(input)[0].square().sum())

    def work() -> None:
        for _ in range(20):
            assert_same(layer(input), expected)
            with torch.no_grad():
                assert_same(layer(input), expected)
            got = gradients(layer, layer(input)[0].square().sum())
            assert_same(list(got.values()), list(expected_gradients.values()))

    in_threads(8, work)


def _memory() -> tuple[int, int]:
    """(live tensors, resident bytes of the process)."""
    gc.collect()
    tensors = sum(issubclass(type(each), Tensor) for each in gc.get_objects())
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return tensors, resident_pages * resource.getpagesize()


def test_memory_does_not_grow_over_1000_iterations():
    layer = ConvLSTM2d(CIN, 16, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    input, state = frames(steps=2), None

    def iterate(count: int) -> None:
        nonlocal state
        for _ in range(count):
            optimizer.zero_grad()
            output, state = layer(input, state)
            output.square().mean().backward()
            optimizer.step()
            state = [(h.detach(), c.detach()) for h, c in state]

    iterate(200)
    growths = []
    # The smallest thing an iteration could lose, a state, would come to 11 MB, in each round alike; a process that ran
    # other tests before may move its heap in one of them.
    while len(growths) < 3 and min(growths, default=4e6) >= 4e6:
        tensors, resident = _memory()
        iterate(1000)
        more_tensors, more_resident = _memory()
        assert more_tensors <= tensors
        growths.append(more_resident - resident)
    assert min(growths) < 4e6
