"""Files of weights: read without executing anything, refused clearly where they are something else, written whole."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.foreign import SOURCES
from tritonlstm import ConvLSTM2d, convert

PARAMS = SOURCES["ndrplz"].params(torch.float32)


def same(layer: torch.nn.Module) -> None:
    written = convert.to_state_dict(layer, "ndrplz")
    assert written.keys() == PARAMS.keys() and all(torch.equal(value, PARAMS[key]) for key, value in written.items())


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_a_round_trip_through_a_file(name: str, tmp_path: Path):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    convert.save(path, PARAMS)
    same(convert.load(path, "ndrplz"))
    convert.save(path, convert.to_state_dict(ConvLSTM2d(1, 2, 3, peephole="none"), "flax"))
    assert convert.load(str(path), "flax").in_channels == 1
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_checkpoints_of_pytorch(tmp_path: Path):
    checkpoint = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in PARAMS.items()}}
    for legacy in (False, True):
        torch.save(checkpoint, tmp_path / "a", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"there are some under 'state_dict.module.'"):
            convert.load(tmp_path / "a", "ndrplz")
        same(convert.load(tmp_path / "a", "ndrplz", "state_dict.module."))
    with pytest.raises(ValueError, match=r"source: expected a name.*'ndrplz' with prefix 'state_dict.module.'"):
        convert.load(tmp_path / "a")


def test_arrays_of_numpy(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **{key: value.numpy() for key, value in PARAMS.items()})
    same(convert.load(tmp_path / "a.npz", "ndrplz"))
    np.savez(tmp_path / "b.npz", **{"conv.weight": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match=r"b.npz: cannot be read"):
        convert.load(tmp_path / "b.npz", "snntorch")


class Hostile:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_calls_for_something_is_refused(tmp_path: Path):
    for legacy in (False, True):
        torch.save(
            {**PARAMS, "x": Hostile(tmp_path / "done")}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(ValueError, match=r"a.pt: expected tensors.* got a pickle that calls for something else"):
            convert.load(tmp_path / "a.pt", "ndrplz")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "done")))
    with pytest.raises(ValueError, match=r"b.pt: "):
        convert.load(tmp_path / "b.pt", "ndrplz")
    assert not (tmp_path / "done").exists()


def test_a_view_that_is_larger_than_the_file(tmp_path: Path):
    torch.save({"conv.weight": torch.zeros(1).expand(40, 20, 1000, 1000)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"conv.weight: expected a tensor that the file holds"):
        convert.load(tmp_path / "a.pt", "snntorch")


def test_a_tensor_without_values(tmp_path: Path):
    torch.save({"conv.weight": torch.zeros(12, 5, 3, 3, device="meta")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"conv.weight: expected a tensor that the file holds, got one without values"):
        convert.load(tmp_path / "a.pt", "snntorch")


def test_damaged_and_foreign_files(tmp_path: Path):
    path = tmp_path / "a"
    whole = io.BytesIO()
    torch.save(PARAMS, whole)
    contents = {
        "empty": b"",
        "text": b"hello, world",
        "cut": whole.getvalue()[:-400],
        "no zip": b"PK\x03\x04" + b"x" * 40,
        "no pickle": b"\x80\x02abc",
        "no safetensors": (2**60).to_bytes(8, "little") + b"{}",
        "no HDF5": b"\x89HDF\r\n\x1a\n" + b"x" * 40,
    }
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises((ValueError, ImportError), match=r"/a: |is needed"):
            convert.load(path, "ndrplz")
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="content: expected a dictionary of tensors, got Tensor"):
        convert.load(path, "ndrplz")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="expected a regular file, got a FIFO"):
        convert.load(tmp_path / "fifo", "ndrplz")
    with pytest.raises(FileNotFoundError):
        convert.load(tmp_path / "none", "ndrplz")


def test_a_keras_file_that_unpacks_to_more_than_itself(tmp_path: Path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{" + b" " * 1_000_000 + b"}")
    with pytest.raises(ValueError, match=r"metadata.json: expected a file as Keras stores it, got 1000002 bytes"):
        convert.load(path)


def test_links_in_a_file_of_hdf5_are_not_followed(tmp_path: Path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["kernel"] = np.zeros((3, 3, 5, 12))
    options = {"padding": "same", "recurrent_activation": "sigmoid"}
    makers = {
        "a link": lambda file: file.__setitem__("kernel", h5py.ExternalLink(str(tmp_path / "other.h5"), "kernel")),
        "stored whole": lambda file: file.create_dataset("kernel", (3, 3, 5, 12_000), chunks=(1, 1, 5, 12), dtype="f4"),
    }
    for index, (match, make) in enumerate(makers.items()):
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            make(file)
        with pytest.raises(ValueError, match=match):
            convert.load(tmp_path / f"{index}.h5", **options)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.pt"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        convert.save(path, PARAMS)
    assert path.read_bytes() == b"before" and [each.name for each in tmp_path.iterdir()] == ["a.pt"]
    with pytest.raises(ValueError, match=r"path: expected a name that ends in .safetensors or .pt or .pth"):
        convert.save(tmp_path / "a.h5", PARAMS)


def test_sources_that_fit():
    found = convert.fits({"rnn." + key: value for key, value in PARAMS.items()})
    assert {fit.source for fit in found} >= {"ndrplz", "torchgeo", "aserdega"}
    assert all(fit.prefix == "rnn." for fit in found if fit.source in ("ndrplz", "aserdega"))
    assert not [fit for fit in found if fit.source in ("OpenSTL", "automan000", "tritonlstm")]
