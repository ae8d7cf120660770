"""`tritonlstm convert`: what it writes and prints, and what it refuses, in one line and without writing anything."""

import json
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.foreign import SOURCES
from tritonlstm import ConvLSTM1d, ConvLSTM2d, PeepholeLSTM, cli, convert
from tritonlstm.convert import command
from tritonlstm.convert.constructor import constructor

PARAMS = SOURCES["ndrplz"].params(torch.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a checkpoint of ndrplz's code."""
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in PARAMS.items()}}, "theirs.pt")
    torch.save(PARAMS, "plain.pt")
    return tmp_path


NDRPLZ = ("--source", "ndrplz", "--prefix", "state_dict.module.")


def run_code(printed: str) -> nn.Module:
    """The layer that the code in what was printed loads."""
    code = "\n".join(line[4:] for line in printed.splitlines() if line.startswith("    "))
    names: dict[str, object] = {}
    exec(code, names)
    return names["layer"]


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that says why a run failed, and left no file behind."""
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert cli.main(["convert", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tritonlstm: ") and printed.err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    return printed.err


def refuses(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The message of a wrong argument, which is refused before anything is read."""
    before = {path: path.lstat() for path in Path().iterdir()}
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", *arguments])
    assert stopped.value.code == 2
    assert {path: path.lstat() for path in Path().iterdir()} == before
    return capsys.readouterr().err


class TestConverting:
    @pytest.mark.parametrize("out", ["ours.pt", "ours.pth", "ours.safetensors", "a folder/it's.pt"])
    def test_the_printed_code_loads_what_was_written(self, out: str, capsys: pytest.CaptureFixture):
        if out.endswith("safetensors"):
            pytest.importorskip("safetensors")
        Path("a folder").mkdir()
        assert cli.main(["convert", "theirs.pt", out, *NDRPLZ]) == 0
        printed = capsys.readouterr()
        assert printed.err == "" and f"written to {out}: 2 layers" in printed.out
        layer = run_code(printed.out)
        written = convert.to_state_dict(layer, "ndrplz")
        assert all(torch.equal(written[key], value) for key, value in PARAMS.items())

    def test_back_again_has_the_same_bits(self, capsys: pytest.CaptureFixture):
        assert cli.main(["convert", "plain.pt", "ours.pt", "--source", "ndrplz"]) == 0
        assert cli.main(["convert", "ours.pt", "again.pt", "--source", "tritonlstm", "--as", "NDRPLZ"]) == 0
        assert "again.pt: 2 layers, with the keys, shapes and gate order of ndrplz" in capsys.readouterr().out
        again = torch.load("again.pt", weights_only=True)
        assert again.keys() == PARAMS.keys() and all(torch.equal(again[key], PARAMS[key]) for key in PARAMS)

    def test_from_one_code_to_another(self):
        assert cli.main(["convert", "plain.pt", "other.pt", "--source", "ndrplz", "--as", "automan000"]) == 0
        layer = convert.load("other.pt", convert.SOURCES["Winsolider"])
        assert torch.equal(layer.layers[1].weight, convert.load("plain.pt", "ndrplz").layers[1].weight)

    def test_from_arrays_with_options(self, capsys: pytest.CaptureFixture):
        params = {key: value.numpy() for key, value in SOURCES["keras"].params().items()}
        np.savez("theirs.npz", **params)
        words = ("--option", "padding=same", "--option", "recurrent_activation=hard_sigmoid")
        assert "padding: expected the one" in fails(capsys, "theirs.npz", "ours.pt", "--source", "keras")
        assert cli.main(["convert", "theirs.npz", "ours.pt", "--source", "keras", *words]) == 0
        layer = run_code(capsys.readouterr().out)
        assert (
            layer.layers[0].spec.recurrent_activation == "hard_sigmoid"
            and layer.layers[0].weight.dtype == torch.float64
        )

    def test_peepholes_that_are_missing_are_zero_by_word(self, capsys: pytest.CaptureFixture):
        torch.save({key: value for key, value in SOURCES["Hzzone"].params().items() if "Wc" not in key}, "a.pt")
        assert "missing_peephole='zeros'" in fails(capsys, "a.pt", "ours.pt", "--source", "Hzzone")
        assert cli.main(["convert", "a.pt", "ours.pt", "--source", "Hzzone", "--missing-peephole", "zeros"]) == 0
        assert not run_code(capsys.readouterr().out).layers[0].peephole.any()

    def test_without_an_input_and_dense(self, capsys: pytest.CaptureFixture):
        assert cli.main(["convert", "plain.pt", "ours.pt", "--source", "ndrplz", "--without-input"]) == 0
        assert run_code(capsys.readouterr().out).in_channels == 0
        torch.save(SOURCES["RVT"].params(), "b.pt")
        assert "dense=True" in fails(capsys, "b.pt", "other.pt", "--source", "RVT")
        assert cli.main(["convert", "b.pt", "other.pt", "--source", "RVT", "--dense"]) == 0

    @pytest.mark.parametrize("name", ["jhhuang96", "czifan", "nn.LSTM, both directions"])
    def test_a_norm_and_both_directions(self, name: str, capsys: pytest.CaptureFixture):
        foreign = SOURCES[name]
        torch.save(foreign.params(torch.float32), "a.pt")
        assert cli.main(["convert", "a.pt", "ours.pt", "--source", foreign.source]) == 0
        layer = run_code(capsys.readouterr().out).eval()
        expected, _ = foreign.run(torch.load("a.pt", weights_only=True), input := foreign.input().float())
        torch.testing.assert_close(layer(input)[0], expected)

    def test_an_existing_file_is_replaced_on_request_alone(self, capsys: pytest.CaptureFixture):
        Path("ours.pt").write_bytes(b"before")
        assert "argument OUT: ours.pt exists; --force replaces it" in refuses(capsys, "theirs.pt", "ours.pt", *NDRPLZ)
        assert cli.main(["convert", "theirs.pt", "ours.pt", "--force", *NDRPLZ]) == 0
        run_code(capsys.readouterr().out)

    def test_a_warning_is_one_line(self, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
        def load(*arguments, **words):
            warnings.warn("dropout\nis left out", stacklevel=1)
            return convert.load(*arguments, **words)

        monkeypatch.setattr(command, "load", load)
        assert cli.main(["convert", "theirs.pt", "ours.pt", *NDRPLZ]) == 0
        assert capsys.readouterr().err == "tritonlstm: warning: dropout\\nis left out\n"


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["theirs.pt"], "argument OUT: expected a file to write, or --inspect"),
            (["theirs.pt", "ours.pt", "--inspect"], "argument --inspect: not allowed with OUT"),
            (["theirs.pt", "--inspect", "--source", "ndrplz"], "argument --inspect: not allowed with --source"),
            (["theirs.pt", "--inspect", "--option", "a=1"], "argument --inspect: not allowed with --option"),
            (["theirs.pt", "ours.pt", "--source", "opnstl"], "got 'opnstl'; did you mean 'OpenSTL'?"),
            (["theirs.pt", "ours.pt", "--as", "nnlstm"], "argument --as: expected one of tritonlstm, ndrplz,"),
            (["theirs.pt", "ours.h5"], "argument OUT: expected a name that ends in .safetensors or .pt or .pth, got"),
            (["theirs.pt", "ours"], "argument OUT: expected a name that ends in .safetensors"),
            (["theirs.pt", "theirs.pt", "--force"], "argument OUT: expected another file than IN, got theirs.pt"),
            (["theirs.pt", "./x/../theirs.pt"], "argument OUT: expected another file than IN"),
            (["theirs.pt", "link.pt"], "argument OUT: expected another file than IN"),
            (["theirs.pt", "hard.pt", "--force"], "argument OUT: expected another file than IN"),
            (["theirs.pt", "x.pt"], "argument OUT: x.pt: expected a regular file, got a folder"),
            (["theirs.pt", "fifo.pt"], "argument OUT: fifo.pt: expected a regular file, got a FIFO"),
            (["theirs.pt", "ours.pt", "--missing-peephole", "ones"], "argument --missing-peephole: invalid choice"),
            (
                ["theirs.pt", "ours.pt", "--option", "padding"],
                "argument --option: expected NAME=VALUE, as padding=same",
            ),
            ([], "the following arguments are required: IN"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_wrong_one_is_named(self, arguments: list[str], words: str, capsys: pytest.CaptureFixture):
        Path("x").mkdir()
        Path("x.pt").mkdir()
        os.mkfifo("fifo.pt")
        Path("link.pt").symlink_to("theirs.pt")
        os.link("theirs.pt", "hard.pt")
        assert words in refuses(capsys, *arguments)


class Hostile:
    """A pickle of it writes a file when it is read."""

    def __reduce__(self):
        return open, ("done", "w")


class TestFiles:
    def test_what_is_damaged_or_something_else(self, capsys: pytest.CaptureFixture):
        whole = Path("plain.pt").read_bytes()
        contents = {
            "empty.pt": b"",
            "text.pt": b"hello, world",
            "cut.pt": whole[:-400],
            "corrupt.pt": whole[:100] + bytes(200) + whole[300:],
            "no.safetensors": (2**60).to_bytes(8, "little") + b"{}",
            "hostile.pt": pickle.dumps(Hostile()),
        }
        for name, content in contents.items():
            Path(name).write_bytes(content)
            for arguments in (("ours.pt", "--source", "ndrplz"), ("--inspect",)):
                assert name in fails(capsys, name, *arguments)
        torch.save({**PARAMS, "x": Hostile()}, "hostile.pt")
        assert "a pickle that calls for something else, which is not run" in fails(capsys, "hostile.pt", "--inspect")
        assert not Path("done").exists()
        assert "none.pt cannot be read (No such file or directory)" in fails(capsys, "none.pt", "--inspect")
        os.mkfifo("fifo")
        assert "fifo: expected a regular file, got a FIFO" in fails(capsys, "fifo", "--inspect")

    def test_keys_that_do_not_fit(self, capsys: pytest.CaptureFixture):
        message = fails(capsys, "theirs.pt", "ours.pt", "--source", "ndrplz")
        assert "theirs.pt: prefix: expected keys as" in message and "some under 'state_dict.module.'" in message
        message = fails(capsys, "theirs.pt", "ours.pt")
        assert "source: expected a name" in message and "'ndrplz' with prefix 'state_dict.module.'" in message
        torch.save(PARAMS | {"x\n\x1b[2J": torch.zeros(1)}, "more.pt")
        message = fails(capsys, "more.pt", "ours.pt", "--source", "ndrplz")
        assert "more.pt: x\\n\\x1b[2J: expected only keys that ndrplz has" in message

    def test_options_that_the_layer_does_not_have(self, capsys: pytest.CaptureFixture):
        words = ("plain.pt", "ours.pt", "--source", "ndrplz", "--option")
        assert "speed: ndrplz needs speed=3" in fails(capsys, *words, "speed=3")
        assert "device: expected none, since the weights tell it" in fails(capsys, *words, "device=cuda")

    def test_what_the_target_cannot_hold(self, capsys: pytest.CaptureFixture):
        layer = ConvLSTM2d(2, 3, 3)
        nn.init.ones_(layer.layers[0].peephole)
        torch.save(layer.state_dict(), "ours.pt")
        message = fails(capsys, "ours.pt", "theirs2.pt", "--source", "tritonlstm", "--as", "snntorch")
        assert "ours.pt: peephole: expected zeros or none, since snntorch has no peepholes" in message

    @pytest.mark.parametrize("out", ["no/folder/ours.pt", "plain.pt/ours.pt"])
    def test_a_place_that_is_none(self, out: str, capsys: pytest.CaptureFixture):
        message = fails(capsys, "theirs.pt", out, *NDRPLZ)
        assert re.search(rf"{out} cannot be written \((No such file or directory|Not a directory)\)", message)

    def test_a_write_that_fails_leaves_nothing(self, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
        def refuse(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        Path("ours.pt").write_bytes(b"before")
        message = fails(capsys, "theirs.pt", "ours.pt", "--force", *NDRPLZ)
        assert "ours.pt cannot be written (No space left on device)" in message


class TestInspecting:
    def test_keys_shapes_dtypes_and_sources(self, capsys: pytest.CaptureFixture):
        assert cli.main(["convert", "theirs.pt", "--inspect"]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"state_dict.module.cell_list.0.conv.weight  \(12, 5, 3, 3\)  float32", printed)
        assert re.search(r"epoch +int\n", printed)
        assert "--prefix state_dict.module.: ndrplz, torchgeo, " in printed
        assert "Equal shapes hide different gate orders" in printed
        assert "OpenSTL" not in printed

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    def test_values_of_every_kind(self, capsys: pytest.CaptureFixture):
        values = {
            "list": [1],
            "sparse": torch.eye(2).to_sparse(),
            "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
            "complex": torch.zeros(2, dtype=torch.complex64),
            "flags": torch.zeros(2, dtype=torch.bool),
            "fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
            3: torch.tensor(3),
        }
        # Keys as those of a source, so that each value is tried as its weight.
        torch.save({"x": values} | {f"{key}.Gates.weight": value for key, value in values.items()}, "a.pt")
        assert cli.main(["convert", "a.pt", "--inspect"]) == 0
        printed = capsys.readouterr().out
        for words in ("list of length 1", "nested tensor", "(2, 2)  float32", "(2,)  complex64", "()  int64"):
            assert words in printed
        assert "--prefix complex., e2vid: Gates.weight: expected a weight of at least two dimensions" in printed
        assert "  and 11 more\n" in printed

    def test_under_a_prefix(self, capsys: pytest.CaptureFixture):
        torch.save({f"{name}.{key}": value for name in "ab" for key, value in PARAMS.items()} | {"c": 1}, "two.pt")
        assert cli.main(["convert", "two.pt", "--inspect", "--prefix", "b."]) == 0
        printed = capsys.readouterr().out
        assert "two.pt: 9 values, 4 of them under 'b.'" in printed
        assert "--prefix b.: ndrplz" in printed and "a." not in printed

    def test_what_no_source_fits_is_said_with_the_reasons(self, capsys: pytest.CaptureFixture):
        torch.save(SOURCES["e2vid"].params() | {"head.weight": torch.zeros(1)}, "more.pt")
        assert cli.main(["convert", "more.pt", "--inspect"]) == 0
        printed = capsys.readouterr().out
        assert "No source has these keys and shapes, under any prefix." in printed
        assert "without a prefix, e2vid: head.weight: expected only keys that e2vid has" in printed
        torch.save({"x": torch.zeros(1)}, "other.pt")
        assert cli.main(["convert", "other.pt", "--inspect"]) == 0
        torch.save({}, "empty.pt")
        assert cli.main(["convert", "empty.pt", "--inspect"]) == 0
        assert "empty.pt: 0 values" in capsys.readouterr().out

    @pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\x07\r\n", "\u202e", "\x7f"])
    def test_nothing_in_a_file_reaches_the_terminal_raw(self, text: str, capsys: pytest.CaptureFixture):
        torch.save({f"{text}{key}": value for key, value in PARAMS.items()} | {"a": text}, "theirs.pt")
        assert cli.main(["convert", "theirs.pt", "--inspect"]) == 0
        printed = capsys.readouterr().out
        assert all(each.isprintable() or each == "\n" for each in printed)
        assert repr(text)[1:-1] in printed

    def test_a_model_of_keras_names_its_layers(self, capsys: pytest.CaptureFixture):
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File("weights.h5", "w") as file:
            for index, key in enumerate(("kernel", "recurrent_kernel", "bias")):
                value = SOURCES["keras"].params(torch.float32)[key].numpy()
                file[f"layers/conv_lstm2d/cell/vars/{index}"] = value
        config = {"name": "rnn", "padding": "same", "activation": "tanh", "recurrent_activation": "sigmoid"}
        layers = [{"class_name": "ConvLSTM2D", "config": config}]
        with zipfile.ZipFile("model.keras", "w") as archive:
            archive.writestr("metadata.json", '{"keras_version": "3.5.0"}')
            archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
            archive.write("weights.h5", "model.weights.h5")
        assert cli.main(["convert", "model.keras", "--inspect"]) == 0
        printed = capsys.readouterr().out
        assert "layers/conv_lstm2d/cell/kernel" in printed and "--prefix rnn" in printed
        assert "a recurrent layer of the model, 'rnn', got 'cnn'" in fails(
            capsys, "model.keras", "other.pt", "--prefix", "cnn"
        )
        assert cli.main(["convert", "model.keras", "ours.pt", "--prefix", "rnn"]) == 0


@pytest.mark.parametrize(
    "layer",
    [
        lambda: ConvLSTM2d(1, 2, 3),
        lambda: ConvLSTM2d(0, [2], [(3, 5)], bias=False, batch_first=True, reverse=True),
        lambda: ConvLSTM2d(1, [2, 3], [3, 5], input_kernel_size=[5, None], peephole="none", dilation=[1, 2]),
        lambda: ConvLSTM2d(1, [2, 3], 1, peephole="full", spatial_size=(4, 5), bidirectional=True, dropout=0.5),
        lambda: ConvLSTM2d(1, 2, 3, zoneout=(0.1, 0.2), input_dropout=0.1, recurrent_dropout=0.2, memory="recompute"),
        lambda: ConvLSTM1d(1, [2, 2], [3, 5], activation="relu", padding_mode="circular"),
        lambda: PeepholeLSTM(3, 4, 2, dtype=torch.float64, proj_size=2),
        lambda: PeepholeLSTM(3, [4, 5], peephole=False, bidirectional=True, recurrent_activation="hard_sigmoid"),
        lambda: ConvLSTM2d(1, 4, 3, norm=lambda channels: nn.GroupNorm(2, channels)),
        lambda: ConvLSTM1d(1, [2, 2], 3, norm=nn.BatchNorm1d),
        lambda: ConvLSTM2d(1, 2, 3, activation="leaky_relu", output_activation="tanh", cell_clip=2.0),
    ],
)
def test_the_constructor_builds_the_layer_again(layer):
    layer = layer()
    names = {each.__name__: each for each in (ConvLSTM1d, ConvLSTM2d, PeepholeLSTM)}
    again = eval(constructor(layer), names | {"torch": torch})
    again.load_state_dict(layer.state_dict())
    assert repr(again) == repr(layer)
    assert {key: value.dtype for key, value in again.state_dict().items()} == {
        key: value.dtype for key, value in layer.state_dict().items()
    }
