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
KERAS_LIMIT = 1e-6
"""Of Keras's sigmoid and tanh on JAX, which differ from PyTorch's by float32's rounding in layers of float64 too."""


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

    def test_lstm_with_what_is_not_here(self):
        with pytest.raises(ValueError, match="bidirectional"):
            convert.load(nn.LSTM(CIN, C, bidirectional=True))
        with pytest.raises(ValueError, match="proj_size"):
            convert.load(nn.LSTM(CIN, C, proj_size=2))
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
    limit: float = 1e-10,
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
    torch.testing.assert_close(output, torch.from_numpy(np.array(expected)), rtol=limit, atol=limit)
    ours = dict(zip(params, torch.autograd.grad((output * cotangent).sum(), list(params.values()))))
    theirs = {key: convert.trees.to_tensor(key, each) for key, each in convert.trees.flatten(gradients).items()}
    torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit)


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

    @pytest.mark.parametrize(
        ("size", "kind", "limit"),
        [
            (3, {"activation": "relu", "recurrent_activation": "hard_sigmoid"}, 1e-10),
            (2, {"activation": "relu", "recurrent_activation": "hard_sigmoid"}, 1e-10),
            (3, {}, KERAS_LIMIT),
        ],
        ids=["piecewise linear", "even kernel", "smooth"],
    )
    def test_keras(self, jax: ModuleType, keras: ModuleType, size: int, kind: dict[str, str], limit: float):
        theirs = keras.layers.ConvLSTM2D(C, size, padding="same", return_sequences=True, dtype="float64", **kind)
        input = frames(CIN, H, W)
        theirs.build((B, T, H, W, CIN))
        theirs.set_weights(
            [0.5 * np.random.default_rng(0).standard_normal(each.shape) for each in theirs.get_weights()]
        )
        layer = convert.load(theirs)
        others = [variable.value for variable in theirs.non_trainable_variables]

        def run(tree, images):
            output, _ = theirs.stateless_call([tree[name] for name in names], others, images.swapaxes(0, 1))
            return output.swapaxes(0, 1)

        names = ("kernel", "recurrent_kernel", "bias")
        tree = dict(zip(names, [variable.value for variable in theirs.trainable_variables]))
        compare(jax, "keras", tree, run, layer, input, limit=limit)
        written = [tensor.numpy() for tensor in convert.to_state_dict(layer, "keras").values()]
        if size == 3:
            assert all(map(np.array_equal, written, theirs.get_weights()))

    def test_keras_lstm(self, keras: ModuleType):
        theirs = keras.layers.LSTM(C, return_sequences=True, dtype="float64")
        input = frames(CIN)
        expected = torch.from_numpy(np.array(theirs(input.transpose(0, 1).numpy()))).transpose(0, 1)
        torch.testing.assert_close(convert.load(theirs)(input)[0], expected, rtol=KERAS_LIMIT, atol=KERAS_LIMIT)

    def test_keras_with_what_is_not_here(self, keras: ModuleType):
        def refuses(match: str, **options: object):
            layer = keras.layers.ConvLSTM2D(C, 3, **{"padding": "same", **options})
            layer.build((B, T, H, W, CIN))
            with pytest.raises(ValueError, match=match):
                convert.load(layer)

        refuses("padding: expected 'same', got 'valid'", padding="valid")
        refuses("strides: expected 1", strides=2)
        refuses("dilation", dilation_rate=2)
        refuses("go_backwards", go_backwards=True)
        refuses("activation: expected one of", activation="softsign")
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
        groups = ("layers/conv_lstm2d/", "layers/sequential/layers/conv_lstm2d/", "layers/conv_lstm2d_1/")
        for index, (theirs, name, group) in enumerate(zip(model.layers, ("a", "in/b", layers[3].name), groups)):
            layer = convert.load(tmp_path / "model.keras", prefix=name, batch_first=True)
            output, _ = layer(torch.from_numpy(np.array(expected)).movedim(-1, 2).float())
            expected = np.array(theirs(expected))
            ours = output.movedim(2, -1) if index < 2 else output[:, -1].movedim(1, -1)
            torch.testing.assert_close(ours, torch.from_numpy(expected))
            spec = layer.layers[0].spec
            words = {"padding": "same", "recurrent_activation": spec.recurrent_activation, "batch_first": True}
            again = convert.load(tmp_path / "model.weights.h5", "keras", f"{group}cell/", **words)
            assert all(map(torch.equal, again.parameters(), layer.parameters()))
