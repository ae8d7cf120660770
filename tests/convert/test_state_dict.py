"""What a state_dict must have: every key is used or known to be unnecessary, and the rest is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.foreign import SOURCES
from tritonlstm import ConvLSTM2d, ConvLSTM2dCell, PeepholeLSTM, convert


def params(name: str, **changes: object) -> dict[str, object]:
    """A source's parameters with some of them replaced, or left out where a change is None; "." is written "__"."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in {**SOURCES[name].params(), **changes}.items() if value is not None}


def prefixed(prefix: str, tensors: dict[str, object]) -> dict[str, object]:
    return {prefix + key: value for key, value in tensors.items()}


class TestPrefixes:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.rnn."])
    def test_written_by_wrappers(self, prefix: str):
        tensors = prefixed(prefix, params("ndrplz")) | {"head.weight": torch.zeros(3)}
        with pytest.raises(ValueError, match=f"there are some under '{prefix}'"):
            convert.from_state_dict(tensors, "ndrplz")
        layer = convert.from_state_dict(tensors, "ndrplz", prefix)
        assert convert.to_state_dict(layer, "ndrplz", prefix).keys() == tensors.keys() - {"head.weight"}

    def test_inside_of_a_checkpoint(self):
        checkpoint = {"epoch": 3, "state_dict": params("OpenSTL"), "optimizer": {"state": {0: {"step": 3}}}}
        with pytest.raises(ValueError, match=r"prefix: expected keys .* there are some under 'state_dict.'"):
            convert.from_state_dict(checkpoint, "OpenSTL")
        assert convert.from_state_dict(checkpoint, "OpenSTL", "state_dict.").num_layers == 2

    def test_of_one_layer_among_others(self):
        tensors = prefixed("encoders.0.block.", params("e2vid")) | prefixed("encoders.1.block.", params("e2vid"))
        with pytest.raises(ValueError, match=r"under 'encoders.0.block.' and 'encoders.1.block.'"):
            convert.from_state_dict(tensors, "e2vid")
        layer = convert.from_state_dict(tensors, "e2vid", "encoders.1.block.")
        written = convert.to_state_dict(layer, "e2vid", "encoders.1.block.")
        assert all(torch.equal(value, tensors[key]) for key, value in written.items())

    def test_where_nothing_fits(self):
        with pytest.raises(ValueError, match=r"got none; the keys are conv.weight, conv.bias"):
            convert.from_state_dict(params("snntorch"), "ndrplz")
        with pytest.raises(ValueError, match="got none; it is empty"):
            convert.from_state_dict({}, "ndrplz")


class TestStrictness:
    def refuses(self, name: str, match: str, error: type = ValueError, prefix: str = "", **changes: object):
        foreign = SOURCES[name]
        with pytest.raises(error, match=match):
            tensors = prefixed(prefix, params(name, **changes))
            convert.from_state_dict(tensors, foreign.source, prefix, **foreign.arguments)

    def test_a_key_too_many(self):
        self.refuses(
            "ndrplz",
            r"^rnn.head.weight: expected only keys that ndrplz has",
            prefix="rnn.",
            head__weight=torch.zeros(1),
        )
        self.refuses("Winsolider", "^cell0.Wci: expected only keys", cell0__Wci=torch.zeros(1, 3, 5, 4))

    def test_a_key_too_few(self):
        self.refuses("automan000", r"^cell0.Wxf.weight: expected a tensor, got none", cell0__Wxf__weight=None)
        self.refuses(
            "automan000",
            r"^cell0.Wxf.bias: expected a tensor, got none, in the weights of automan000 under 'm.'",
            prefix="m.",
            cell0__Wxf__bias=None,
        )
        self.refuses("OpenSTL", "^cell_list.1.conv_h.0.weight: expected", cell_list__1__conv_h__0__weight=None)

    def test_a_layer_too_few(self):
        lower = {"cell_list__0__conv__weight": None, "cell_list__0__conv__bias": None}
        self.refuses("ndrplz", "expected the layers 0 to 1 of ndrplz, got those of the numbers 1", **lower)

    def test_what_is_no_tensor(self):
        self.refuses("ndrplz", "cell_list.0.conv.bias: expected a tensor", TypeError, cell_list__0__conv__bias="x")
        integers = torch.zeros(12, 5, 3, 3, dtype=torch.int64)
        self.refuses("ndrplz", "layer 0: expected torch.float16", TypeError, cell_list__0__conv__weight=integers)

    def test_shapes(self):
        key = "cell_list__0__conv__weight"
        self.refuses("ndrplz", "expected 4·C rows for 4 gates", **{key: torch.zeros(13, 5, 3, 3)})
        self.refuses("ndrplz", r"shape \(4·C, Cin \+ C, …\)", **{key: torch.zeros(12, 2, 3, 3)})
        self.refuses("ndrplz", r"odd kernel sizes.* \(2, 3\)", **{key: torch.zeros(12, 5, 2, 3)})
        self.refuses("ndrplz", r"a bias of shape \(4·C\) = \(12,\)", cell_list__0__conv__bias=torch.zeros(16))
        self.refuses(
            "ndrplz",
            "layer 1 to read the 5 channels of layer 0",
            **{key: torch.zeros(20, 7, 3, 3), "cell_list__0__conv__bias": torch.zeros(20)},
        )
        self.refuses("OpenSTL", r"shape \(4·C, C, …\)", cell_list__0__conv_h__0__weight=torch.zeros(12, 4, 5, 5))
        self.refuses("automan000", "expected gates of one shape", cell0__Wxf__weight=torch.zeros(3, 2, 5, 5))
        self.refuses(
            "aserdega",
            r"peepholes of shape \(3, C, …\)",
            **{f"cell_list__0__Wc{gate}": torch.zeros(5, 4, 3) for gate in "ifo"},
        )
        self.refuses("ndrplz", "a bias in all layers or in none", cell_list__0__conv__bias=None)

    @pytest.mark.parametrize(
        ("name", "key", "match"),
        [
            ("OpenSTL", "cell_list.0.conv_x.1.weight", "normalisation: layer_norm=True"),
            ("aserdega", "cell_list.0.bn1.weight", "normalisation"),
            ("HandyRL", "running_mean", "normalisation"),
            ("jhhuang96", "conv1.0.weight", "a ConvGRU"),
            ("ndrplz", "cell_list.0.conv_gates.weight", "a ConvGRU"),
            ("e2vid", "reset_gate.weight", "a ConvGRU"),
            ("kamo", "weight_pi_l0", "peephole: a convolution of the cell state"),
            ("torchrecurrent", "cells.0.weight_ih_reverse", "bidirectional"),
            ("kamo", "weight_hr_l0", "proj_size"),
            ("KimUyen", "cell_fw.layer_norm_ci.weight", "peephole=True.* slip of precedence"),
        ],
    )
    def test_names_the_option_a_key_belongs_to(self, name: str, key: str, match: str):
        with pytest.raises(ValueError, match=f"^{key}: {match}"):
            convert.from_state_dict(params(name) | {key: torch.zeros(3)}, SOURCES[name].source)

    def test_dead_parameters_are_ignored_where_they_were_never_trained(self):
        norms = {
            f"cell_fw.layer_norm_{which}.{name}": torch.full((12, 5, 4), name == "weight", dtype=torch.float64)
            for which in ("x", "h", "cnext")
            for name in ("weight", "bias")
        }
        convert.from_state_dict(params("KimUyen") | norms, "KimUyen")
        norms["cell_fw.layer_norm_x.weight"][0] = 2
        with pytest.raises(ValueError, match=r"layer_norm_x.weight: expected 1, since it belongs to layer_norm=True"):
            convert.from_state_dict(params("KimUyen") | norms, "KimUyen")

    def test_an_option_that_no_layer_has_is_named(self):
        source = replace(convert.SOURCES["PhyCRNet"], options={"padding_style": "circular"})
        with pytest.raises(ValueError, match=r"padding_style: .* needs padding_style='circular'"):
            convert.from_state_dict(params("PhyCRNet"), source)


class TestNorms:
    ROWS = 4 * 16

    def source(self, **changes: object) -> convert.Joint:
        return convert.Joint("conv.0", **{"gates": "ogfi", "norm": convert.BatchNorm("conv.1"), **changes})

    def tensors(self, **changes: object) -> dict[str, object]:
        return {"conv.0.weight": torch.randn(self.ROWS, 18, 3, 3)} | {
            f"conv.1.{name}": torch.rand(self.ROWS) for name in ("weight", "bias", "running_mean", "running_var")
        }

    def test_gates_in_another_order_are_normalised_with_their_own(self):
        tensors, source = self.tensors(), self.source()
        layer = convert.from_state_dict(tensors, source).eval()
        assert isinstance(layer.layers[0].norm, nn.BatchNorm2d) and layer.layers[0].norm.num_batches_tracked == 0
        conv = nn.Conv2d(18, self.ROWS, 3, padding=1, bias=False)
        theirs = nn.ModuleDict({"conv": nn.Sequential(conv, nn.BatchNorm2d(self.ROWS))}).eval()
        count = {"conv.1.num_batches_tracked": torch.tensor(0)}
        theirs.load_state_dict(tensors | count)
        x, h, c = torch.randn(1, 2, 4, 5), torch.randn(1, 16, 4, 5), torch.randn(1, 16, 4, 5)
        o, g, f, i = theirs["conv"](torch.cat([x, h], 1)).chunk(4, 1)
        expected = f.sigmoid() * c + i.sigmoid() * g.tanh()
        torch.testing.assert_close(tuple(layer.step(x, [(h, c)])[1][0]), (o.sigmoid() * expected.tanh(), expected))
        written = convert.to_state_dict(layer, source)
        assert written.keys() == tensors.keys() | count.keys()
        assert all(torch.equal(written[key], value) for key, value in tensors.items())

    def test_groups_across_gates_cannot_be_reordered(self):
        tensors = {key: value for key, value in self.tensors().items() if "running" not in key}
        for size, fits in ((8, True), (16, True), (32, False)):
            source = self.source(norm=convert.GroupNorm("conv.1", size))
            if fits:
                layer = convert.from_state_dict(tensors, source)
                assert layer.layers[0].norm.num_groups == self.ROWS // size
                written = convert.to_state_dict(layer, source)
                assert all(torch.equal(written[key], value) for key, value in tensors.items())
            else:
                with pytest.raises(ValueError, match=r"conv.1: a normalisation whose groups have channels of several"):
                    convert.from_state_dict(tensors, source)
        with pytest.raises(ValueError, match=r"conv.1: expected 4·C channels in 4·C // 100 equal groups, got 64"):
            convert.from_state_dict(tensors, self.source(gates="ifgo", norm=convert.GroupNorm("conv.1", 100)))

    def test_what_is_missing_or_does_not_fit(self):
        tensors = self.tensors()
        del tensors["conv.1.running_var"]
        with pytest.raises(ValueError, match=r"^conv.1.running_var: expected a tensor, got none"):
            convert.from_state_dict(tensors, self.source())
        tensors = self.tensors() | {"conv.1.bias": torch.zeros(3)}
        with pytest.raises(ValueError, match=r"^conv.1.bias: expected shape \(4·C\) = \(64,\), got \(3,\)"):
            convert.from_state_dict(tensors, self.source())
        tensors["conv.1.bias"] = torch.zeros(64, dtype=torch.int64)
        with pytest.raises(TypeError, match=r"^conv.1.bias: expected one of torch.float16, .* got torch.int64"):
            convert.from_state_dict(tensors, self.source())
        with pytest.raises(TypeError, match="norm: expected a GroupNorm or BatchNorm of convert, got"):
            self.source(norm=nn.BatchNorm2d(3))

    def test_our_own_needs_its_norm(self):
        layer = ConvLSTM2d(2, [4, 4], 3, norm=lambda channels: nn.GroupNorm(4, channels))
        with pytest.raises(ValueError, match="norm: expected the one of the layer, since its weights do not tell it"):
            convert.from_state_dict(layer.state_dict(), "tritonlstm")
        again = convert.from_state_dict(
            layer.state_dict(), "tritonlstm", norm=lambda channels: nn.GroupNorm(4, channels)
        )
        assert repr(again) == repr(layer)
        plain = params("ndrplz")
        with pytest.raises(ValueError, match="norm: expected None, since the weights of ndrplz have none"):
            convert.from_state_dict(plain, "ndrplz", norm=nn.BatchNorm2d)
        with pytest.raises(ValueError, match="norm: expected none, since jhhuang96 has its own"):
            convert.from_state_dict(params("jhhuang96"), "jhhuang96", norm=nn.BatchNorm2d)

    def test_is_written_where_the_source_has_the_same(self):
        def refuses(source: str, match: str, **options: object):
            with pytest.raises(ValueError, match=match):
                convert.to_state_dict(ConvLSTM2d(2, 16, 3, peephole="none", **options), source)

        refuses("ndrplz", r"norm: expected None, as ndrplz has, got BatchNorm2d\(64", norm=nn.BatchNorm2d)
        refuses("jhhuang96", r"norm: expected GroupNorm\(2, 64.*got BatchNorm2d", norm=nn.BatchNorm2d)
        refuses("jhhuang96", r"norm: expected GroupNorm\(2, 64.*got GroupNorm\(4", norm=lambda c: nn.GroupNorm(4, c))
        refuses("ndrplz", r"zoneout: expected 0, since ndrplz has none", zoneout=0.1)


class TestDirections:
    def test_our_own(self):
        layer = PeepholeLSTM(2, [3, 4], bidirectional=True, proj_size=2)
        again = convert.from_state_dict(layer.state_dict(), "tritonlstm")
        assert repr(again) == repr(layer)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in layer.state_dict().items())

    def test_a_second_one_must_be_whole(self):
        name = "nn.LSTM, both directions"
        with pytest.raises(ValueError, match=r"^weight_hh_l1_reverse: expected a tensor, got none"):
            convert.from_state_dict(params(name, weight_hh_l1_reverse=None), "nn.LSTM")
        with pytest.raises(ValueError, match=r"^weight_ih_l1_reverse: expected a tensor, got none"):
            tensors = {key: value for key, value in params(name).items() if not key.endswith("l1_reverse")}
            convert.from_state_dict(tensors, "nn.LSTM")
        with pytest.raises(
            ValueError, match=r"both directions of layer 0 with the same Cin, C and kernels, got \(2, 3"
        ):
            convert.from_state_dict(
                params(
                    "KimUyen, both directions",
                    cell_bw__input_conv__weight=torch.zeros(8, 2, 3, 3),
                    cell_bw__rnn_conv__weight=torch.zeros(8, 2, 3, 3),
                    cell_bw__input_conv__bias=torch.zeros(8),
                    cell_bw__rnn_conv__bias=torch.zeros(8),
                ),
                "KimUyen",
            )
        with pytest.raises(ValueError, match="layer 1 to read the 6 channels of layer 0, got a weight for 3"):
            one = params("nn.LSTM")
            convert.from_state_dict(one | {f"{key}_reverse": value for key, value in one.items()}, "nn.LSTM")

    def test_a_source_of_one_refuses_both(self):
        both, reverse = PeepholeLSTM(2, 3, bidirectional=True), PeepholeLSTM(2, 3, reverse=True)
        with pytest.raises(ValueError, match=r"bidirectional: expected False, since nn.LSTMCell has one direction"):
            convert.to_state_dict(both, "nn.LSTMCell")
        with pytest.raises(ValueError, match=r"reverse: expected False, the only one that nn.LSTM has, got True"):
            convert.to_state_dict(reverse, "nn.LSTM")

    def test_of_ones_own(self):
        source = convert.Joint("{direction}.conv", gates="ifgo", directions=("there", "back"))
        layer = ConvLSTM2d(2, 3, 3, peephole="none", bidirectional=True)
        written = convert.to_state_dict(layer, source, "rnn.")
        assert written.keys() == {
            f"rnn.{which}.conv.{name}" for which in source.directions for name in ("weight", "bias")
        }
        again = convert.from_state_dict(written, source, "rnn.").state_dict()
        assert all(torch.equal(again[key], value) for key, value in layer.state_dict().items())
        with pytest.raises(ValueError, match=r"directions: expected two that differ, got \('a', 'a'\)"):
            convert.Joint("conv", gates="ifgo", directions=("a", "a"))
        for wrong in (5, "ab", (1, 2), ("a", "b", "c")):
            with pytest.raises(TypeError, match=r"directions: expected a pair of strings, got"):
                convert.Joint("conv", gates="ifgo", directions=wrong)
        with pytest.raises(ValueError, match=r"size: expected an integer of at least 1, got 0"):
            convert.GroupNorm("norm", size=0)
        with pytest.raises(TypeError, match=r"key: expected the module's key, got 3"):
            convert.GroupNorm(3)
        with pytest.raises(ValueError, match=r"directions: expected what {direction} becomes, got None"):
            convert.Joint("{direction}.conv", gates="ifgo")


class TestProjections:
    def test_shapes(self):
        tensors = dict(nn.LSTM(2, 3, 2, proj_size=2).state_dict())
        with pytest.raises(ValueError, match=r"the hidden state of shape \(4·C, C, …\), got \(12, 2\)"):
            convert.from_state_dict({key: value for key, value in tensors.items() if "hr" not in key}, "nn.LSTM")
        with pytest.raises(ValueError, match=r"a projection of shape \(P, C\) with P less than C, got \(3, 2\)"):
            convert.from_state_dict(tensors | {"weight_hr_l0": torch.zeros(3, 2)}, "nn.LSTM")
        with pytest.raises(ValueError, match=r"of shape \(4·C, P\) = \(16, 2\), got \(12, 2\)"):
            convert.from_state_dict(tensors | {"weight_hr_l0": torch.zeros(2, 4)}, "nn.LSTM")

    def test_without_dimensions(self):
        with pytest.raises(ValueError, match=r"^weight_hr_l0: expected shape \(P, C\), got \(\)"):
            convert.from_state_dict({**nn.LSTM(2, 3).state_dict(), "weight_hr_l0": torch.zeros(())}, "nn.LSTM")

    def test_of_images(self):
        tensors = {"layers.0.weight": torch.zeros(12, 4, 3, 3), "layers.0.projection": torch.zeros(2, 3)}
        with pytest.raises(ValueError, match="layer 0: expected no projection beside weights of 4 dimensions, got one"):
            convert.from_state_dict(tensors, "tritonlstm")

    def test_are_refused_by_a_source_without(self):
        with pytest.raises(ValueError, match="proj_size: the layer has a projection, which this format cannot hold"):
            convert.to_state_dict(PeepholeLSTM(2, 3, proj_size=2), "nn.LSTMCell")


class TestPeepholes:
    def without(self, name: str) -> dict[str, object]:
        return {key: value for key, value in params(name).items() if "Wc" not in key and "W_c" not in key}

    def test_missing_ones_are_zero_by_word(self):
        tensors = self.without("Hzzone")
        with pytest.raises(
            ValueError, match=r"^Wc{gate}: expected the peepholes of Hzzone, got none; missing_peephole"
        ):
            convert.from_state_dict(tensors, "Hzzone")
        layer = convert.from_state_dict(tensors, "Hzzone", missing_peephole="zeros")
        peephole = layer.layers[0].peephole
        assert peephole.shape == (3, 3, 1, 1) and not peephole.any() and peephole.requires_grad
        with pytest.raises(ValueError, match="missing_peephole: expected None or 'zeros', got 'random'"):
            convert.from_state_dict(tensors, "Hzzone", missing_peephole="random")

    def test_missing_ones_that_started_at_random_are_refused(self):
        for word in (None, "zeros"):
            with pytest.raises(ValueError, match="SA-ConvLSTM starts its peepholes at random"):
                convert.from_state_dict(self.without("SA-ConvLSTM"), "SA-ConvLSTM", missing_peephole=word)

    def test_without_dimensions(self):
        tensors = self.without("Hzzone") | {f"Wc{gate}": torch.zeros(()) for gate in "ifo"}
        with pytest.raises(ValueError, match=r"^Wci: expected 1·C rows for 1 gates, got shape \(\)"):
            convert.from_state_dict(tensors, "Hzzone")

    def test_a_source_may_have_none(self):
        assert convert.from_state_dict(self.without("aserdega"), "aserdega").layers[0].peephole is None

    def test_are_given_to_a_source_without_them(self):
        layer = convert.from_state_dict(params("ndrplz"), "ndrplz", missing_peephole="zeros")
        assert [tuple(cell.peephole.shape) for cell in layer.layers] == [(3, 3, 1, 1), (3, 4, 1, 1)]
        assert convert.to_state_dict(layer, "ndrplz").keys() == params("ndrplz").keys()

    def test_of_each_pixel_set_the_image_size(self):
        layer = convert.from_state_dict(params("automan000"), "automan000")
        assert [tuple(cell.peephole.shape) for cell in layer.layers] == [(3, 3, 5, 4), (3, 4, 5, 4)]


class TestOptions:
    def test_of_the_layer(self):
        layer = convert.from_state_dict(params("ndrplz"), "ndrplz", batch_first=True, memory="recompute")
        assert layer.batch_first and layer.layers[0].spec.memory == "recompute"

    def test_unknown_ones(self):
        with pytest.raises(ValueError, match="batchfirst"):
            convert.from_state_dict(params("ndrplz"), "ndrplz", batchfirst=True)

    def test_must_be_given_where_weights_do_not_tell(self):
        tensors = params("keras")
        with pytest.raises(ValueError, match="padding: expected the one that keras was used with"):
            convert.from_state_dict(tensors, "keras")
        with pytest.raises(ValueError, match="recurrent_activation: expected the one"):
            convert.from_state_dict(tensors, "keras", padding="same")
        with pytest.raises(ValueError, match="padding: expected 'same', got 'valid'; the layer does not shrink"):
            convert.from_state_dict(tensors, "keras", padding="valid", recurrent_activation="sigmoid")
        options = {"padding": "same", "recurrent_activation": "hard_sigmoid_keras2", "activation": "relu"}
        spec = convert.from_state_dict(tensors, "keras", **options).layers[0].spec
        assert (spec.activation, spec.recurrent_activation) == ("relu", "hard_sigmoid_keras2")

    def test_depthwise_is_made_dense_on_request_only(self):
        with pytest.raises(ValueError, match=r"conv3x3_dws.weight: a depthwise convolution.* dense=True"):
            convert.from_state_dict(params("RVT"), "RVT")
        layer = convert.from_state_dict(params("RVT"), "RVT", dense=True)
        assert layer.input_kernel_size == ((1, 1),) and layer.kernel_size == ((3, 3),)
        with pytest.raises(ValueError, match="cannot be written as a depthwise separable one"):
            convert.to_state_dict(layer, "RVT")

    def test_columns_of_an_input_that_was_always_zero_are_cut(self):
        """As in forecasters, which feed zeros to the lowest layer."""
        foreign = SOURCES["aserdega"]
        tensors = foreign.params()
        layer = convert.from_state_dict(tensors, "aserdega", without_input=True)
        assert layer.in_channels == 0
        state = [
            tuple(torch.randn(1, cell.hidden_channels, 5, 4, dtype=torch.float64) for _ in "hc")
            for cell in layer.layers
        ]
        whole = convert.from_state_dict(tensors, "aserdega")
        expected, _ = whole(torch.zeros(2, 1, 2, 5, 4, dtype=torch.float64), state)
        torch.testing.assert_close(layer(None, state, steps=2)[0], expected)


class TestWriting:
    def refuses(self, layer: nn.Module, source: str, match: str):
        with pytest.raises(ValueError, match=match):
            convert.to_state_dict(layer, source)

    def test_what_a_source_cannot_represent(self):
        channel, vectors = ConvLSTM2d(2, 3, 3), PeepholeLSTM(2, 3)
        for layer in (channel, vectors):
            nn.init.ones_(layer.layers[0].peephole)
        self.refuses(channel, "ndrplz", "peephole: expected zeros or none, since ndrplz has no peepholes")
        self.refuses(vectors, "nn.LSTM", "peephole: expected zeros or none, since nn.LSTM")
        self.refuses(channel, "automan000", "peephole: this format has a weight for each pixel")
        plain = {"peephole": "none"}
        self.refuses(ConvLSTM2d(2, 3, 3, activation="relu", **plain), "ndrplz", "activation: expected 'tanh'")
        self.refuses(ConvLSTM2d(2, 3, 3, **plain), "OpenSTL", "bias: the layer has one")
        self.refuses(ConvLSTM2d(2, [3, 3], 3, **plain), "snntorch", "num_layers: expected one layer")
        self.refuses(ConvLSTM2d(2, 3, 3, input_kernel_size=5, **plain), "ndrplz", "input_kernel_size: the layer has")
        self.refuses(ConvLSTM2d(0, 3, 3, **plain), "automan000", "in_channels: the layer has no input")
        with pytest.raises(TypeError, match="layer: expected a layer of this package, got LSTM"):
            convert.to_state_dict(nn.LSTM(2, 3), "nn.LSTM")

    def test_activations_of_their_own(self):
        plain = {"peephole": "none"}
        self.refuses(
            ConvLSTM2d(2, 3, 3, output_activation="relu", **plain), "ndrplz", "output_activation: expected None"
        )
        self.refuses(ConvLSTM2d(2, 3, 3, cell_clip=1.0, **plain), "ndrplz", "cell_clip: expected None, the only one")
        convert.to_state_dict(ConvLSTM2d(2, 3, 3, output_activation="tanh", **plain), "ndrplz")
        czifan = {"bias": False, "norm": nn.BatchNorm2d, **plain}
        self.refuses(ConvLSTM2d(2, 3, 3, **czifan), "czifan", "activation: expected 'identity', the only one")
        layer = ConvLSTM2d(2, 3, 3, activation="identity", **czifan)
        self.refuses(layer, "czifan", "output_activation: expected 'tanh', the only one that czifan has, got None")

    def test_zero_peepholes_of_a_new_layer_are_left_out(self):
        tensors = convert.to_state_dict(PeepholeLSTM(2, [3, 3]), "nn.LSTM")
        theirs = nn.LSTM(2, 3, 2)
        theirs.load_state_dict(tensors)

    def test_of_a_cell(self):
        cell = ConvLSTM2dCell(2, 3, 3, peephole="none")
        assert torch.equal(convert.to_state_dict(cell, "tritonlstm")["layers.0.weight"], cell.weight)
        written = convert.to_state_dict(cell, convert.Native(""))
        assert all(torch.equal(value, written[key]) for key, value in cell.state_dict().items())

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"bias": False},
            {"input_kernel_size": 5},
            {"peephole": "full", "spatial_size": (5, 4)},
            {"peephole": "none"},
        ],
        ids=str,
    )
    def test_our_own_format(self, options: dict[str, object]):
        layer = ConvLSTM2d(2, [3, 4], [3, (1, 5)], **options)
        again = convert.from_state_dict(layer.state_dict(), "tritonlstm")
        assert repr(again) == repr(layer)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in layer.state_dict().items())

    def test_gradients_flow_to_our_tensors_too(self):
        layer = ConvLSTM2d(2, 3, 3, peephole="none", dtype=torch.float64)
        written = convert.rename(dict(layer.named_parameters()), "tritonlstm", "haiku", target_prefix="cell/")
        assert written.keys() >= {"cell/input_to_hidden.w", "cell/hidden_to_hidden.b"}
        sum(value.square().sum() for value in written.values()).backward()
        assert layer.layers[0].weight.grad.ne(0).all()


class TestDescriptions:
    def test_one_of_ones_own(self):
        w, b = torch.randn(8, 5, 3, 3), torch.randn(8)
        one = convert.from_state_dict({"lstm.w": w, "lstm.b": b}, convert.Joint("lstm", gates="gofi", names=("w", "b")))
        rows = torch.cat([w[6:8], w[4:6], w[0:2], w[2:4]])
        assert torch.equal(one.layers[0].weight, rows)
        other = convert.Joint("lstm", gates="gofi", names=("w", "b"), columns="hx")
        assert torch.equal(convert.rename({"lstm.w": w}, other)["layers.0.weight"], rows.roll(-2, 1))
        assert torch.equal(convert.to_state_dict(one, other)["lstm.w"], w.roll(2, 1))

    def test_per_gate_with_ignored_keys(self):
        tensors = {
            f"{side}_{gate}.{name}": torch.randn((2, 2, 3, 3) if name == "weight" else (2,))
            for side in "xh"
            for gate in ("in", "forget", "new", "out")
            for name in ("weight", "bias")
        }
        format = convert.PerGate(
            "x_{gate}", "h_{gate}", gate_names={"i": "in", "f": "forget", "g": "new", "o": "out"}, ignore=("unused.*",)
        )
        renamed = convert.rename(tensors | {"unused.weight": torch.zeros(1)}, format)
        assert torch.equal(renamed["layers.0.weight"][:2, 2:], tensors["h_in.weight"])
        assert torch.equal(renamed["layers.0.bias"][4:6], tensors["x_new.bias"] + tensors["h_new.bias"])

    def test_one_weight_per_channel(self):
        tensors = {"conv.weight": torch.randn(12, 5, 3, 3), "p": torch.randn(9)}
        format = convert.Joint("conv", gates="ifog", peephole="p", peephole_shape="C")
        layer = convert.from_state_dict(tensors, format)
        assert torch.equal(layer.layers[0].peephole, tensors["p"].view(3, 3, 1, 1))
        assert torch.equal(convert.to_state_dict(layer, format)["p"], tensors["p"])

    @pytest.mark.parametrize(
        ("build", "error", "match"),
        [
            (lambda: convert.Joint("conv"), TypeError, "gates"),
            (lambda: convert.Joint("conv", gates="ifg"), ValueError, "gates: expected an order of the letters ifgo"),
            (lambda: convert.Joint("conv", gates="ifco"), ValueError, "g is the candidate, which others call c or j"),
            (lambda: convert.Joint(3, gates="ifog"), TypeError, "key: expected a key, got 3"),
            (lambda: convert.Joint("conv", gates="ifog", layout="NHWC"), ValueError, "layout: expected one of"),
            (lambda: convert.Split("x", "h", gates="ifgo", biases="no"), ValueError, "biases: expected one of"),
            (lambda: convert.Split("x", "h", gates="ifgo", ignore="o.*"), TypeError, "ignore: expected a sequence"),
            (lambda: convert.PerGate("x", "h{gate}"), ValueError, "input: expected a key with {gate}"),
        ],
    )
    def test_errors(self, build, error: type, match: str):
        with pytest.raises(error, match=match):
            build()

    def test_names(self):
        with pytest.raises(ValueError, match=r"source: expected one of .* did you mean 'OpenSTL'"):
            convert.rename({}, "opnstl")
        with pytest.raises(TypeError, match="source: expected a name or a description"):
            convert.rename({}, 3)
        with pytest.raises(TypeError, match="state_dict: expected a dictionary of tensors, got Tensor"):
            convert.rename(torch.zeros(3), "ndrplz")
        convert.from_state_dict(params("OpenSTL"), "openstl")


class TestArrays:
    def test_of_numpy_in_a_list_as_keras_returns_them(self):
        tensors = params("keras")
        arrays = [tensors[key].numpy() for key in ("kernel", "recurrent_kernel", "bias")]
        words = SOURCES["keras"].arguments
        layer = convert.from_state_dict(arrays, "keras", **words)
        assert all(
            map(torch.equal, layer.parameters(), convert.from_state_dict(tensors, "keras", **words).parameters())
        )
        assert convert.from_state_dict(arrays[:2], "keras", **words).layers[0].bias is None
        with pytest.raises(
            ValueError,
            match="the 3 tensors kernel, recurrent_kernel, bias of one layer, or the 2 without a bias, got 6",
        ):
            convert.from_state_dict(arrays * 2, "keras", **words)
        with pytest.raises(TypeError, match="expected a dictionary for flax, got list of length 3"):
            convert.from_state_dict(arrays, "flax")

    def test_of_other_kinds_are_refused(self):
        strings = params("snntorch", conv__weight=np.array(["a"]))
        with pytest.raises(TypeError, match=r"conv.weight: expected an array of floating-point numbers, got <U1"):
            convert.from_state_dict(strings, "snntorch")

    def test_a_tree(self):
        tree = {"params": convert.trees.nest(params("flax"))}
        layer = convert.from_state_dict(tree, "flax", "params.")
        assert convert.to_state_dict(layer, "flax", "params.")["params"].keys() == {"ih", "hh"}

    def test_of_the_other_byte_order(self):
        tensors = params("snntorch")
        swapped = {key: value.numpy().astype(">f8") for key, value in tensors.items()}
        renamed = convert.rename(swapped, "snntorch")
        assert all(torch.equal(value, renamed[key]) for key, value in convert.rename(tensors, "snntorch").items())

    def test_two_values_of_one_key_are_refused(self):
        tensors = params("snntorch")
        tree = {"conv": {"weight": tensors["conv.weight"]}, **tensors}
        with pytest.raises(ValueError, match=r"^conv.weight: expected one value of this key, got another"):
            convert.from_state_dict(tree, "snntorch")

    def test_too_deep_a_tree(self):
        tree: dict = {}
        tree["below"] = tree
        with pytest.raises(ValueError, match="nested at most 32 deep"):
            convert.from_state_dict(tree, "flax")
