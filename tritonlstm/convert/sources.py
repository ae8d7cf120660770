"""The formats of public code, by name. Each entry says where the keys and the gate order were read.

`*.conv.weight` has the order i, f, o, g in one project and i, f, g, o in another, with equal shapes: nothing in a
checkpoint tells one from the other.
"""

import difflib
from dataclasses import replace

from ..core import checks
from .formats import DepthwiseSeparable, Format, Ignored, Joint, Native, PerGate, Split
from .keras import WEIGHTS
from .norms import BatchNorm, GroupNorm

_GRU = "a ConvGRU, which is another cell"
_NORM = "normalisation: between convolution and gates, which is not converted from this source"
_CONVOLUTIONAL = "peephole: a convolution of the cell state, which the layer does not have"

_NDRPLZ = Joint("cell_list.{layer}.conv", gates="ifog", refused={"*conv_gates.*": _GRU, "*conv_can.*": _GRU})
_GATES = Joint("Gates", gates="ifog")
_HZZONE = Joint("_conv", gates="ifgo", peephole="Wc{gate}", peephole_shape="1CHW")
_CANDIDATE_C = {"g": "c"}
_AUTOMAN = PerGate(
    "cell{layer}.Wx{gate}",
    "cell{layer}.Wh{gate}",
    biases="input",
    gate_names=_CANDIDATE_C,
    peephole="cell{layer}.Wc{gate}",
    peephole_shape="1CHW",
)
_SLIP = (
    "peephole=True, with which the gates ignore the convolutions by a slip of precedence, or are normalised; neither is"
    " converted"
)
_TRAINED_NORM = "it belongs to layer_norm=True, a normalisation, which is not converted"
_KERAS = Split(
    "{name}",
    "recurrent_{name}",
    gates="ifgo",
    names=("kernel", "bias"),
    layout="channels_last",
    biases="input",
    even_kernels=True,
    asks={
        "padding": "'same' or 'valid', which is its default",
        "recurrent_activation": "'sigmoid', 'hard_sigmoid' (of Keras 3) or 'hard_sigmoid_keras2' (of Keras 1 and 2)",
    },
    free=("activation", "recurrent_activation"),
    ignore=(Ignored("seed_generator/*", "the random numbers of dropout"),),
    order=WEIGHTS,
)

SOURCES: dict[str, Format] = {
    "tritonlstm": Native(),
    # ndrplz/ConvLSTM_pytorch convlstm.py, and what was copied from it
    "ndrplz": _NDRPLZ,
    "torchgeo": _NDRPLZ,
    "conv-lstm": _NDRPLZ,
    "metnet": _NDRPLZ,
    "MTLCC": _NDRPLZ,
    "utae-paps": _NDRPLZ,
    "evfly": _NDRPLZ,
    # aserdega/convlstmgru convlstm.py
    "aserdega": Joint(
        "cell_list.{layer}.conv",
        gates="ifog",
        peephole="cell_list.{layer}.Wc{gate}",
        peephole_shape="CHW",
        absent_peephole="none",
        free=("activation",),
        refused={"*bn1.*": _NORM, "*bn2.*": _NORM},
    ),
    # holmdk/Video-Prediction-using-PyTorch models/seq2seq_ConvLSTM.py; prefix "encoder" or "decoder"
    "holmdk": Joint("_{layer}_convlstm.conv", gates="ifog", first=1),
    # DeNA/HandyRL handyrl/envs/geister.py: one block, as "body.blocks.0.", since every block reads the same input
    "HandyRL": Joint("conv", gates="ifog"),
    # snntorch/_neurons/sconv2dlstm.py
    "snntorch": Joint(
        "conv",
        gates="ifog",
        ignore=(
            Ignored("threshold", "of the spikes that are made of h"),
            Ignored("graded_spikes_factor", "of the spikes that are made of h"),
            Ignored("reset_mechanism_val", "of the spikes that are made of h"),
        ),
    ),
    # uzh-rpg/rpg_e2vid model/submodules.py (prefix "unetrecurrent.encoders.0.recurrent_block."), Atcold/CortexNet
    "e2vid": _GATES,
    "CortexNet": _GATES,
    # imatge-upc/rvos src/modules/clstm.py: the third block of columns reads the hidden state of the frame before
    "rvos": Joint("Gates", gates="ifog", columns="xht"),
    # Hzzone/Precipitation-Nowcasting nowcasting/models/convLSTM.py, AIS-Bonn/vp-suite
    "Hzzone": _HZZONE,
    "vp-suite": _HZZONE,
    # tsugumi-sys/SA-ConvLSTM-Pytorch core/convlstm_cell.py
    "SA-ConvLSTM": Joint(
        "ConvLSTMCell.conv",
        gates="ifgo",
        peephole="ConvLSTMCell.W_c{gate}",
        absent_peephole="random",
        free=("activation",),
    ),
    # chengtan9907/OpenSTL openstl/modules/convlstm_modules.py
    "OpenSTL": Split(
        "cell_list.{layer}.conv_x.0",
        "cell_list.{layer}.conv_h.0",
        gates="ifgo",
        biases="none",
        ignore=(
            Ignored("cell_list.*.conv_o.*", "no forward pass calls it"),
            Ignored("cell_list.*.conv_last.*", "no forward pass calls it"),
            Ignored("conv_last.weight", "the output convolution of the model, which is no part of the layers"),
        ),
        refused={"cell_list.*.conv_[xh].1.*": "normalisation: layer_norm=True, which is not converted"},
    ),
    # automan000/Convolutional_LSTM_PyTorch convolution_lstm.py
    "automan000": _AUTOMAN,
    # Winsolider/ConvLSTM ConvLSTM.py: no peephole was ever a parameter
    "Winsolider": PerGate("cell{layer}.Wx{gate}", "cell{layer}.Wh{gate}", biases="input", gate_names=_CANDIDATE_C),
    # isds-neu/PhyCRNet Codes/PhyCRNet_burgers.py: three encoders before the first layer
    "PhyCRNet": PerGate(
        "convlstm{layer}.Wx{gate}",
        "convlstm{layer}.Wh{gate}",
        biases="input",
        gate_names=_CANDIDATE_C,
        first=3,
        options={"padding_mode": "circular"},
    ),
    # KimUyen/ConvLSTM-Pytorch convlstm.py
    "KimUyen": Split(
        "cell_{direction}.input_conv",
        "cell_{direction}.rnn_conv",
        gates="ifgo",
        directions=("fw", "bw"),
        ignore=(
            Ignored("cell_?w.layer_norm_*.weight", _TRAINED_NORM, initial=1.0),
            Ignored("cell_?w.layer_norm_*.bias", _TRAINED_NORM, initial=0.0),
        ),
        refused={"cell_?w.layer_norm_c[ifo].*": _SLIP, "cell_?w.weight_c*": _SLIP},
    ),
    # kamo-naoyuki/pytorch_convolutional_rnn convolutional_rnn/module.py
    "kamo": Split(
        "{name}_ih_l{layer}{direction}",
        "{name}_hh_l{layer}{direction}",
        gates="ifgo",
        directions=("", "_reverse"),
        refused={"weight_p[ifo]_l*": _CONVOLUTIONAL},
    ),
    # uzh-rpg/RVT models/layers/rnn.py
    "RVT": DepthwiseSeparable("conv3x3_dws", "conv1x1", gates="fiog"),
    # jhhuang96/ConvLSTM-PyTorch ConvRNN.py
    "jhhuang96": Joint(
        "conv.0", gates="ifgo", norm=GroupNorm("conv.1", size=32), refused={"conv1.*": _GRU, "conv2.*": _GRU}
    ),
    # czifan/ConvLSTM.pytorch networks/ConvLSTM.py: the candidate has no activation, and the output's is tanh
    "czifan": Joint(
        "conv.0",
        gates="ifgo",
        norm=BatchNorm("conv.1"),
        options={"activation": "identity", "output_activation": "tanh"},
    ),
    # keras src/layers/rnn/conv_lstm.py
    "keras": _KERAS,
    # keras src/layers/rnn/bidirectional.py, of one of them, with merge_mode="concat"
    "keras.Bidirectional": replace(
        _KERAS,
        input="{direction}/cell/{name}",
        hidden="{direction}/cell/recurrent_{name}",
        directions=("forward_layer", "backward_layer"),
        ignore=(Ignored("*_layer/cell/seed_generator/*", "the random numbers of dropout"),),
        order=[f"{direction}_layer/cell/{name}" for direction in ("forward", "backward") for name in WEIGHTS],
    ),
    # google/flax linen/recurrent.py
    "flax": Split(
        "ih",
        "hh",
        gates="igfo",
        names=("kernel", "bias"),
        layout="channels_last",
        forget_bias=1.0,
        even_kernels=True,
        nested=True,
    ),
    # google-deepmind/dm-haiku _src/recurrent.py; prefix "conv2_dlstm/"
    "haiku": Split(
        "input_to_hidden",
        "hidden_to_hidden",
        gates="igfo",
        names=("w", "b"),
        layout="channels_last",
        forget_bias=1.0,
        even_kernels=True,
        nested=True,
    ),
    # MartinuzziFrancesco/torchrecurrent cells/peepholelstm_cell.py
    "torchrecurrent": Split(
        "cells.{layer}.{name}_ih",
        "cells.{layer}.{name}_hh",
        gates="ifgo",
        peephole="cells.{layer}.weight_ph",
        peephole_shape="C",
    ),
    # torch.nn
    "nn.LSTM": Split(
        "{name}_ih_l{layer}{direction}",
        "{name}_hh_l{layer}{direction}",
        gates="ifgo",
        directions=("", "_reverse"),
        projection="weight_hr_l{layer}{direction}",
    ),
    "nn.LSTMCell": Split("{name}_ih", "{name}_hh", gates="ifgo"),
    # lmnt-com/haste frameworks/pytorch/lstm.py
    "haste": Split(
        "{name}",
        "recurrent_{name}",
        gates="igfo",
        names=("kernel", "bias"),
        layout="channels_last",
        biases="input",
    ),
    # tensorflow contrib/rnn/python/ops/rnn_cell.py, ConvLSTMCell
    "tf-contrib": Joint(
        "", gates="igfo", names=("kernel", "biases"), layout="channels_last", forget_bias=1.0, even_kernels=True
    ),
    # jiangsutx/SRN-Deblur util/BasicConvLSTMCell.py
    "SRN": Joint(
        "LSTM_conv/{name}",
        gates="igfo",
        names=("weights", "biases"),
        layout="channels_last",
        forget_bias=1.0,
        even_kernels=True,
    ),
    # RenYang-home/RLVC functions.py
    "RLVC": Joint(
        "",
        gates="gifo",
        names=("kernel", "bias"),
        layout="channels_last",
        forget_bias=1.0,
        even_kernels=True,
        peephole="W_c{gate}",
        absent_peephole="none",
        free=("activation",),
    ),
    # tensorflow/addons rnn/peephole_lstm_cell.py
    "tf-addons": Split(
        "{name}",
        "recurrent_{name}",
        gates="ifgo",
        names=("kernel", "bias"),
        layout="channels_last",
        biases="input",
        peephole="{gate}_gate_peephole_weights",
        peephole_shape="C",
        gate_names={"i": "input", "f": "forget", "o": "output"},
    ),
    # apache/mxnet gluon/rnn/conv_rnn_cell.py, in the layout NCHW
    "mxnet": Split(
        "i2h_{name}",
        "h2h_{name}",
        gates="ifgo",
        asks={"padding": "'same' where i2h_pad is half the kernel, or 'valid', which is its default"},
        free=("activation",),
    ),
}


def find_format(source: object) -> tuple[str, Format]:
    """A source's name for messages, and its format. Names are found in any case."""
    if isinstance(source, Format):
        return f"this {type(source).__name__}", source
    if not isinstance(source, str):
        raise TypeError(f"source: expected a name or a description, as convert.Joint, got {checks.show(source)}")
    by_name = {name.lower(): name for name in SOURCES}
    name = by_name.get(source.lower())
    if name is None:
        nearest = difflib.get_close_matches(source.lower(), by_name, n=1)
        hint = f"; did you mean {by_name[nearest[0]]!r}?" if nearest else ""
        raise ValueError(
            f"source: expected one of {', '.join(SOURCES)}, or a description, got {checks.show(source)}{hint}"
        )
    return name, SOURCES[name]
