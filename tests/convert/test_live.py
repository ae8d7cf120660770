"""Layers of installed packages: the converted layer agrees with them, in gradients with respect to their weights too.

The packages are no requirement; `pip install keras flax jax dm-haiku snntorch torchgeo conv-lstm torchrecurrent h5py`
has them all tested.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tritonlstm import PeepholeLSTM, convert

T, B, CIN, C, H, W = 3, 2, 2, 3, 5, 4
LIMIT = {"rtol": 1e-10, "atol": 1e-10}


def package(*names: str) -> ModuleType:
    """The first of these packages, all of them imported; skips where one is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    return importlib.import_module(names[0])


def module_of(path: str) -> ModuleType:
    """A module of a package by its file, where the package itself imports much more."""
    name, _, rest = path.partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    file = Path(spec.submodule_search_locations[0]) / rest
    own = importlib.util.spec_from_file_location(f"_live_{name}", file)
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module


def frames(*sizes: int) -> Tensor:
    return torch.randn(T, B, *sizes, dtype=torch.float64)


def agree(
    source: str, theirs: nn.Module, run, layer: nn.Module, input: Tensor, skipped: tuple[str, ...] = (), **words: object
) -> None:
    """Outputs, and gradients with respect to the parameters of a PyTorch module. run: (module, input) → output."""
    params = {key: value.detach().clone() for key, value in theirs.state_dict().items()}
    used = [key for key in params if key not in skipped]
    for key in used:
        params[key].requires_grad_()
    expected = functional_call(theirs, params, (input,)) if run is None else run(theirs, params, input)
    output, _ = functional_call(layer, convert.rename(params, source, **words), (input,))
    torch.testing.assert_close(output, expected, **LIMIT)
    cotangent = torch.randn_like(expected)
    theirs_and_ours = [
        torch.autograd.grad((each * cotangent).sum(), [params[key] for key in used]) for each in (expected, output)
    ]
    assert all(gradient.abs().max() > 0 for gradient in theirs_and_ours[0])
    torch.testing.assert_close(*theirs_and_ours, **LIMIT)


class TestTorch:
    def test_lstm(self):
        lstm = nn.LSTM(CIN, C, 2, dtype=torch.float64)
        layer = convert.load(lstm)
        agree("nn.LSTM", lstm, lambda module, params, x: functional_call(module, params, (x,))[0], layer, frames(CIN))

    pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

    LSTMS = pytest.mark.parametrize(
        "options",
        [
            {"bidirectional": True},
            {"proj_size": 2},
            {"proj_size": 2, "bidirectional": True},
            {"bidirectional": True, "bias": False, "batch_first": True},
        ],
        ids=str,
    )

    @LSTMS
    def test_lstm_in_both_directions_and_projected(self, options: dict[str, object]):
        lstm = nn.LSTM(CIN, C, 3, **options, dtype=torch.float64)
        layer = convert.load(lstm)
        agree("nn.LSTM", lstm, lambda module, params, x: functional_call(module, params, (x,))[0], layer, frames(CIN))
        _, (h, c) = lstm(input := frames(CIN))
        torch.testing.assert_close([tuple(state) for state in layer(input)[1]], list(zip(h, c)), **LIMIT)

    @LSTMS
    def test_lstm_round_trips_with_the_same_bits(self, options: dict[str, object]):
        lstm = nn.LSTM(CIN, C, 2, **options)
        layer = convert.load(lstm)
        again = nn.LSTM(CIN, C, 2, **options)
        again.load_state_dict(convert.to_state_dict(layer, "nn.LSTM"))
        for key, value in lstm.state_dict().items():
            if "bias" not in key:  # two biases come back as their sum and zero
                assert torch.equal(again.state_dict()[key], value), key
        back = convert.load(again).state_dict()
        assert all(torch.equal(back[key], value) for key, value in layer.state_dict().items())
        assert layer.batch_first == lstm.batch_first

    @LSTMS
    def test_a_model_with_such_a_layer_loads_its_checkpoint(self, options: dict[str, object]):
        model, ours = nn.Module(), nn.Module()
        model.rnn = nn.LSTM(CIN, C, 2, **options)
        ours.rnn = PeepholeLSTM(CIN, [C, C], peephole=False, **options)
        convert.hook(ours.rnn, "nn.LSTM")
        assert ours.load_state_dict(model.state_dict()) == ([], [])
        input = torch.randn(T, T, CIN)
        torch.testing.assert_close(ours.rnn(input)[0], model.rnn(input)[0])

    def test_lstm_back(self):
        layer = PeepholeLSTM(CIN, [C, C], peephole=False, batch_first=True)
        lstm = nn.LSTM(CIN, C, 2, batch_first=True)
        lstm.load_state_dict(convert.to_state_dict(layer, "nn.LSTM"))
        input = torch.randn(B, T, CIN)
        output, (h, c) = lstm(input)
        ours, states = layer(input)
        torch.testing.assert_close(ours, output)
        torch.testing.assert_close([tuple(state) for state in states], list(zip(h, c)))
        assert convert.load(lstm).batch_first

    def test_lstm_without_a_bias(self):
        lstm = nn.LSTM(CIN, C, bias=False)
        layer = convert.load(lstm)
        input = torch.randn(T, B, CIN)
        torch.testing.assert_close(layer(input)[0], lstm(input)[0])

    def test_lstm_cell(self):
        cell = nn.LSTMCell(CIN, C)
        layer = convert.load(cell)
        x = torch.randn(B, CIN)
        torch.testing.assert_close(tuple(layer.step(x)[1][0]), cell(x))

    def test_lstm_with_dropout(self):
        with pytest.warns(UserWarning, match=r"dropout of nn.LSTM is left out"):
            convert.load(nn.LSTM(CIN, C, 2, dropout=0.5))

    def test_a_module_whose_class_has_no_source(self):
        module = nn.Module()
        module.conv = nn.Conv2d(CIN + C, 4 * C, 3)
        with pytest.raises(ValueError, match=r"source: expected a name.*'HandyRL', 'snntorch'.* gate order"):
            convert.load(module)
        convert.load(module, convert.Joint("conv", gates="gifo"))
        with pytest.raises(TypeError, match="origin: expected a layer of other code"):
            convert.load(PeepholeLSTM(1, 1), "nn.LSTM")
        with pytest.raises(TypeError, match="origin: expected a path, or a layer of PyTorch, Keras or Flax, got int"):
            convert.load(3)

    def test_conv_lstm(self):
        theirs = package("conv_lstm").ConvLSTM(CIN, [C, 4], (3, 3), 2).double()
        layer = convert.load(theirs, "conv-lstm", batch_first=True)
        input = frames(CIN, H, W).transpose(0, 1)

        def run(module, params, x):
            outputs = functional_call(module, params, (x,))
            return outputs[0] if isinstance(outputs[0], Tensor) else outputs[0][-1]

        agree("conv-lstm", theirs, run, layer, input)

    def test_torchgeo(self):
        kind = module_of("torchgeo/models/convlstm.py").ConvLSTM
        theirs = kind(CIN, [C, 4], (3, 3), 2, batch_first=True).double()
        layer = convert.load(theirs, "torchgeo", batch_first=True)

        def run(module, params, x):
            return functional_call(module, params, (x,))[0][-1]

        agree("torchgeo", theirs, run, layer, frames(CIN, H, W).transpose(0, 1))

    def test_snntorch(self):
        package("snntorch")
        from snntorch._neurons.sconv2dlstm import SConv2dLSTM

        theirs = SConv2dLSTM(CIN, C, 3).double()
        layer = convert.load(theirs, "snntorch")
        skipped = tuple(key for key in theirs.state_dict() if not key.startswith("conv."))

        def run(module, params, input):
            syn = mem = input.new_zeros(B, C, H, W)
            outputs = []
            for x in input:
                _, syn, mem = functional_call(module, params, (x, syn, mem))
                outputs.append(mem)
            return torch.stack(outputs)

        agree("snntorch", theirs, run, layer, frames(CIN, H, W), skipped)

    def test_torchrecurrent(self):
        theirs = package("torchrecurrent").PeepholeLSTM(CIN, C, 2).double()
        layer = convert.load(theirs, "torchrecurrent")
        assert layer.layers[0].peephole.abs().max() > 0
        agree(
            "torchrecurrent",
            theirs,
            lambda module, params, x: functional_call(module, params, (x,))[0],
            layer,
            frames(CIN),
        )


@pytest.fixture
def jax() -> Iterator[ModuleType]:
    """JAX with float64, in this test alone."""
    jax = package("jax")
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield jax


@pytest.fixture
def keras(jax: ModuleType) -> ModuleType:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = package("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX")
    return keras


def with_float64_tanh(jax: ModuleType, layer: object) -> None:
    """Let a Keras layer of float64 compute tanh in float64.

    `keras.ops.tanh` casts to what Keras's rules of promotion make of the dtype and a Python float. But with TensorFlow,
    they have no float64: the result is float32, whatever JAX's x64 mode and Keras's floatx are.
    """
    for each in [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else [layer]:
        if each.cell.activation.__name__ == "tanh":
            each.cell.activation = jax.numpy.tanh


def channels_last(input: Tensor) -> np.ndarray:
    return input.movedim(2, -1).numpy()


def compare(
    jax: ModuleType,
    source: str,
    tree: dict,
    run,
    layer: nn.Module,
    input: Tensor,
    prefix: str = "",
) -> None:
    """As `agree`, for a function of a tree of parameters. run: (tree, images channels last) → (T, B, …, C)."""
    images = channels_last(input)
    expected = run(tree, images)
    cotangent = torch.randn(*expected.shape, dtype=torch.float64)
    gradients = jax.grad(lambda tree: (run(tree, images) * cotangent.numpy()).sum())(tree)
    flat = convert.trees.flatten(tree)
    params = {key: convert.trees.to_tensor(key, value).requires_grad_() for key, value in flat.items()}
    output, _ = functional_call(layer, convert.rename(params, source, prefix=prefix), (input,))
    output = output.movedim(2, -1)
    torch.testing.assert_close(output, torch.from_numpy(np.array(expected)), **LIMIT)
    ours = dict(zip(params, torch.autograd.grad((output * cotangent).sum(), list(params.values()))))
    theirs = {key: convert.trees.to_tensor(key, each) for key, each in convert.trees.flatten(gradients).items()}
    torch.testing.assert_close(ours, theirs, **LIMIT)


def random_tree(jax: ModuleType, tree: dict) -> dict:
    """The tree with random numbers of float64, in its biases too."""
    return jax.tree.map(lambda value: jax.numpy.asarray(0.5 * torch.randn(*value.shape).double().numpy()), tree)


@pytest.mark.filterwarnings("ignore")
class TestJax:
    @pytest.mark.parametrize("size", [3, 2])
    def test_flax(self, jax: ModuleType, size: int):
        linen = importlib.import_module(f"{package('flax').__name__}.linen")
        rnn = linen.RNN(linen.ConvLSTMCell(C, (size, 3), param_dtype="float64"), time_major=True)
        input = frames(CIN, H, W)
        variables = rnn.init(jax.random.key(0), channels_last(input))
        variables = {"params": random_tree(jax, variables["params"])}
        layer = convert.load(rnn.bind(variables))
        params = variables["params"]
        compare(jax, "flax", params, lambda tree, x: rnn.apply({"params": tree}, x), layer, input, "cell.")
        again = convert.to_state_dict(layer, "flax", "params.cell.")
        assert again["params"]["cell"]["ih"]["kernel"].shape == (3, 3, CIN, 4 * C)
        if size == 3:
            written = jax.tree.map(lambda tensor: jax.numpy.asarray(tensor.numpy()), again)
            torch.testing.assert_close(
                torch.from_numpy(np.array(rnn.apply(written, channels_last(input)))), layer(input)[0].movedim(2, -1)
            )

    def test_flax_with_what_is_not_here(self, jax: ModuleType):
        linen = importlib.import_module(f"{package('flax').__name__}.linen")
        cell = linen.ConvLSTMCell(C, (3, 3))
        with pytest.raises(ValueError, match=r"module.bind\(variables\)"):
            convert.load(cell)
        for options, match in (
            ({"strides": (2, 2)}, "strides: expected 1"),
            ({"padding": "VALID"}, "padding: expected"),
        ):
            with pytest.raises(ValueError, match=match):
                convert.load(linen.ConvLSTMCell(C, (3, 3), **options).bind({"params": {}}))
        with pytest.raises(ValueError, match="reverse: expected False"):
            convert.load(linen.RNN(cell, reverse=True).bind({"params": {}}))
        with pytest.raises(TypeError, match="expected a ConvLSTMCell of Flax"):
            convert.load(linen.Dense(3).bind({"params": {}}))

    def test_haiku(self, jax: ModuleType):
        haiku = package("haiku")

        def unroll(input):
            core = haiku.Conv2DLSTM((H, W), C, 3)
            return haiku.dynamic_unroll(core, input, core.initial_state(B))[0]

        model = haiku.without_apply_rng(haiku.transform(unroll))
        input = frames(CIN, H, W)
        params = random_tree(jax, model.init(jax.random.key(0), channels_last(input)))
        layer = convert.from_state_dict(params, "haiku", "conv2_dlstm/")
        compare(jax, "haiku", params, model.apply, layer, input, "conv2_dlstm/")
        assert jax.tree.structure(convert.to_state_dict(layer, "haiku", "conv2_dlstm/")) == jax.tree.structure(params)

    KINDS = pytest.mark.parametrize(
        ("size", "kind"),
        [
            (3, {}),
            (2, {"use_bias": False}),
            (3, {"activation": "relu", "recurrent_activation": "hard_sigmoid"}),
        ],
        ids=["smooth", "even kernel, no bias", "piecewise linear"],
    )

    @KINDS
    def test_keras(self, jax: ModuleType, keras: ModuleType, size: int, kind: dict[str, object]):
        theirs = keras.layers.ConvLSTM2D(C, size, padding="same", return_sequences=True, dtype="float64", **kind)
        self.compare_keras(jax, theirs, "keras", is_exact=size == 3)

    @KINDS
    def test_keras_in_both_directions(self, jax: ModuleType, keras: ModuleType, size: int, kind: dict[str, object]):
        one = keras.layers.ConvLSTM2D(C, size, padding="same", return_sequences=True, dtype="float64", **kind)
        theirs = keras.layers.Bidirectional(one, dtype="float64")
        self.compare_keras(jax, theirs, "keras.Bidirectional", is_exact=size == 3)

    def compare_keras(self, jax: ModuleType, theirs, source: str, is_exact: bool) -> None:
        input = frames(CIN, H, W)
        theirs.build((B, T, H, W, CIN))
        random = np.random.default_rng(0)
        theirs.set_weights([0.5 * random.standard_normal(each.shape) for each in theirs.get_weights()])
        layer = convert.load(theirs)
        with_float64_tanh(jax, theirs)
        others = [variable.value for variable in theirs.non_trainable_variables]

        def run(tree, images):
            output, _ = theirs.stateless_call(list(tree.values()), others, images.swapaxes(0, 1))
            return output.swapaxes(0, 1)

        order = convert.SOURCES[source].order
        variables = [variable.value for variable in theirs.trainable_variables]
        tree = convert.state_dict.named(order, variables)
        # JAX sorts a dictionary's keys.
        compare(
            jax, source, tree, lambda tree, x: run({key: tree[key] for key in order if key in tree}, x), layer, input
        )
        written = [tensor.numpy() for tensor in convert.to_state_dict(layer, source).values()]
        if is_exact:
            by_key = dict(zip(convert.to_state_dict(layer, source), written))
            assert all(np.array_equal(by_key[key], value) for key, value in tree.items())

    def test_keras_lstm(self, jax: ModuleType, keras: ModuleType):
        for theirs in (
            keras.layers.LSTM(C, return_sequences=True, dtype="float64"),
            keras.layers.Bidirectional(keras.layers.LSTM(C, return_sequences=True, dtype="float64"), dtype="float64"),
        ):
            theirs.build((B, T, CIN))
            layer = convert.load(theirs)
            with_float64_tanh(jax, theirs)
            input = frames(CIN)
            expected = torch.from_numpy(np.array(theirs(input.transpose(0, 1).numpy()))).transpose(0, 1)
            torch.testing.assert_close(layer(input)[0], expected, **LIMIT)

    def test_keras_computes_tanh_of_float64_in_float32(self, jax: ModuleType, keras: ModuleType):
        """Why `with_float64_tanh` is needed; it can go when this fails."""
        value = jax.numpy.asarray(0.3, "float64")
        assert keras.activations.tanh(value).dtype == "float32"
        assert keras.activations.sigmoid(value).dtype == jax.numpy.tanh(value).dtype == "float64"

    def test_keras_with_what_is_not_here(self, keras: ModuleType):
        def refuses(match: str, **options: object):
            layer = keras.layers.ConvLSTM2D(C, 3, **{"padding": "same", **options})
            layer.build((B, T, H, W, CIN))
            with pytest.raises(ValueError, match=match):
                convert.load(layer)

        refuses("padding: expected 'same', got 'valid'", padding="valid")
        refuses("strides: expected 1", strides=2)
        refuses("dilation_rate: expected 1, got .*; Keras dilates the input's convolution alone", dilation_rate=2)
        refuses("go_backwards", go_backwards=True)
        refuses("activation: expected one of", activation="softsign")
        inner = keras.layers.ConvLSTM2D(C, 3, padding="same")
        with pytest.raises(ValueError, match="merge_mode: expected 'concat', which joins the directions, got 'sum'"):
            convert.load(keras.layers.Bidirectional(inner, merge_mode="sum"))
        first = keras.layers.ConvLSTM2D(C, 3, padding="same", data_format="channels_first")
        with pytest.raises(ValueError, match="data_format: expected 'channels_last'"):
            convert.load(keras.layers.Bidirectional(first))
        with pytest.raises(ValueError, match="go_backwards: expected False of the first direction"):
            last = keras.layers.ConvLSTM2D(C, 3, padding="same", go_backwards=True)
            convert.load(keras.layers.Bidirectional(last, backward_layer=inner))
        with pytest.raises(ValueError, match="expected the same options in both directions"):
            last = keras.layers.ConvLSTM2D(C, 3, padding="same", activation="relu", go_backwards=True)
            convert.load(keras.layers.Bidirectional(inner, backward_layer=last))
        with pytest.raises(ValueError, match="call or build it first"):
            convert.load(keras.layers.ConvLSTM2D(C, 3, padding="same"))
        with pytest.raises(
            ValueError, match="expected a ConvLSTM1D, ConvLSTM2D, ConvLSTM3D or LSTM of Keras, got Dense"
        ):
            convert.load(keras.layers.Dense(3))

    def test_keras_files(self, keras: ModuleType, tmp_path: Path):
        package("h5py")
        inner = keras.Sequential(
            [keras.layers.ConvLSTM2D(C, 3, padding="same", return_sequences=True, name="b")], name="in"
        )
        layers = [
            keras.layers.Input((T, H, W, CIN)),
            keras.layers.ConvLSTM2D(C, (1, 3), padding="same", return_sequences=True, name="a", recurrent_dropout=0.1),
            inner,
            keras.layers.Bidirectional(
                keras.layers.ConvLSTM2D(C, 3, padding="same", return_sequences=True), name="both"
            ),
            keras.layers.ConvLSTM2D(C, 3, padding="same", recurrent_activation="hard_sigmoid"),
        ]
        model = keras.Sequential(layers)
        model.save(tmp_path / "model.keras")
        model.save_weights(tmp_path / "model.weights.h5")
        with pytest.raises(
            ValueError, match=r"prefix: expected the name of a recurrent layer of the model, 'a', 'in/b', "
        ):
            convert.load(tmp_path / "model.keras")
        input = torch.randn(B, T, CIN, H, W)
        expected = input.movedim(2, -1).numpy()
        groups = (
            "layers/conv_lstm2d/cell/",
            "layers/sequential/layers/conv_lstm2d/cell/",
            "layers/bidirectional/",
            "layers/conv_lstm2d_1/cell/",
        )
        names = ("a", "in/b", "both", layers[4].name)
        for index, (theirs, name, group) in enumerate(zip(model.layers, names, groups)):
            layer = convert.load(tmp_path / "model.keras", prefix=name, batch_first=True)
            output, _ = layer(torch.from_numpy(np.array(expected)).movedim(-1, 2).float())
            expected = np.array(theirs(expected))
            ours = output.movedim(2, -1) if index < 3 else output[:, -1].movedim(1, -1)
            torch.testing.assert_close(ours, torch.from_numpy(expected))
            spec = layer.layers[0].spec
            words = {"padding": "same", "recurrent_activation": spec.recurrent_activation, "batch_first": True}
            again = convert.load(tmp_path / "model.weights.h5", prefix=group, **words)
            assert all(map(torch.equal, again.parameters(), layer.parameters()))
