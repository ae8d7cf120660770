"""docs/coming-from.md: its code runs, and gives what the code that it replaces gives."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.foreign import SOURCES, Foreign, Params, group_norm, joint

PAGE = Path(__file__).parents[2] / "docs/coming-from.md"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # of float32

Names = dict[str, object]


def sections() -> dict[str, list[str]]:
    """The blocks of code by heading."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.M)
    return {title: re.findall(r"```python\n(.*?)```", text, re.S) for title, text in zip(parts[1::2], parts[2::2])}


SECTIONS = sections()
PACKAGES = ("keras", "jax", "flax")


def packages(block: str) -> list[str]:
    """Those that a block needs."""
    return [name for name in PACKAGES if re.search(rf"^(import|from) {name}\b", block, re.M)]


def run(title: str, names: Names, live: bool = False) -> Names:
    """Run the code of a section: the blocks that need another package after the others, or these alone."""
    for index, block in enumerate(SECTIONS[title]):
        if live or not packages(block):
            exec(compile(block, f"{PAGE.name}, {title}, block {index}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, **CLOSE)


def float32(foreign: Foreign) -> tuple[Params, Tensor]:
    return foreign.params(torch.float32), foreign.input().float()


def under(prefix: str, params: Params) -> Params:
    return {prefix + key: value for key, value in params.items()}


def channels_last(sequence: Tensor) -> Tensor:
    """(T, B, C, H, W) as (B, T, H, W, C)."""
    return sequence.transpose(0, 1).movedim(2, -1)


def keras() -> None:
    foreign = SOURCES["keras"]
    params, input = float32(foreign)
    names = {key: value.numpy() for key, value in params.items()} | {"frames": channels_last(input)}
    run("Keras", names)
    expected, [(h, c)] = foreign.run(params, input)
    close(names["last"], expected[-1])
    close((names["h"], names["c"]), (h.movedim(1, -1), c.movedim(1, -1)))
    again = continued(foreign, params, input, [(h, c)])
    close(names["output"].transpose(0, 1), again)


def continued(foreign: Foreign, params: Params, input: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The output of a second call that reads the state of the first."""
    (h, c), outputs = states[0], []
    for x in input:
        h, c = foreign.step(params, 0, x, h, c)
        outputs.append(h)
    return torch.stack(outputs)


def lstm() -> None:
    names = run("nn.LSTM", {"sequence": torch.randn(5, 2, 8)})
    first, (h, c) = names["lstm"](names["sequence"])
    close((names["h_n"], names["c_n"]), (h, c))
    close(names["output"], names["lstm"](names["sequence"], (h, c))[0])
    assert names["peepholes"].layers[0].peephole.requires_grad
    close(names["peepholes"](names["sequence"])[0], first)


def openstl() -> None:
    foreign = SOURCES["OpenSTL"]
    params = foreign.params(torch.float32) | {"conv_last.weight": torch.randn(2, 4, 1, 1)}
    torch.save(params, "theirs.pt")
    names = run("OpenSTL", {})
    known, frames = 3, torch.randn(7, 2, 2, 5, 4)
    mask_true = torch.randint(0, 2, (3, 2, 1, 1, 1)).float().expand(3, 2, 2, 5, 4)

    states = [(torch.zeros(2, channels, 5, 4),) * 2 for channels in foreign.channels]
    expected = []
    for t in range(len(frames) - 1):
        x = frames[t] if t < known else mask_true[t - known] * frames[t] + (1 - mask_true[t - known]) * expected[-1]
        for layer, (h, c) in enumerate(states):
            states[layer] = foreign.step(params, layer, x, h, c)
            x = states[layer][0]
        expected.append(F.conv2d(x, params["conv_last.weight"]))
    close(names["model"](frames, mask_true, known), torch.stack(expected))


def ndrplz() -> None:
    foreign = SOURCES["ndrplz"]
    params, input = float32(foreign)
    torch.save(under("rnn.", params) | {"head.weight": torch.ones(1, 1), "head.bias": torch.ones(1)}, "theirs.pt")
    model = nn.Module()
    model.head = nn.Linear(1, 1)
    names = run("ndrplz", {"model": model, "frames": input.transpose(0, 1)})
    expected, states = foreign.run(params, input)
    close(names["layer_output_list"][-1].transpose(0, 1), expected)
    close((names["h"], names["c"]), states[0])
    close(model.rnn(names["frames"])[0].transpose(0, 1), expected)
    assert model.head.weight == 1


def automan000() -> None:
    foreign = SOURCES["automan000"]
    params = foreign.params(torch.float32)
    zeros = {key: torch.zeros_like(value) for key, value in params.items() if ".Wc" in key}
    torch.save({key: value for key, value in params.items() if key not in zeros}, "theirs.pt")
    image = torch.randn(2, 2, 5, 4)
    names = run("automan000 and Winsolider", {"image": image})
    expected, states = foreign.run(params | zeros, image.expand(5, -1, -1, -1, -1))
    close(names["outputs"], [expected[2], expected[4]])
    close((names["x"], names["new_c"]), states[-1])


def jhhuang96() -> None:
    foreign = joint("", "conv.0", "ifgo", channels=(16,), norm=group_norm, norm_names=("conv.1.weight", "conv.1.bias"))
    encoder, forecaster = foreign.params(torch.float32), foreign.params(torch.float32)
    tensors = under("encoder.rnn3.", encoder) | under("decoder.rnn3.", forecaster)
    torch.save({"epoch": 3, "state_dict": tensors}, "theirs.pt")
    frames = foreign.input().float()
    names = run("jhhuang96", {"frames": frames})
    _, states = foreign.run(encoder, frames)
    close((names["hy"], names["cy"]), states[0])
    close(names["output"], continued(foreign, forecaster, torch.zeros(10, *frames.shape[1:]), states))


def e2vid() -> None:
    foreign = joint("", "Gates", "ifog", channels=(8,), cin=8)
    params = [foreign.params(torch.float32) for _ in range(2)]
    tensors = [under(f"encoders.{index}.recurrent_block.", each) for index, each in enumerate(params)]
    torch.save(tensors[0] | tensors[1], "theirs.pt")
    model = nn.Module()
    model.encoders = nn.ModuleList(nn.Module() for _ in params)
    frames = torch.randn(3, 2, 8, 5, 4)
    names = run("e2vid", {"model": model, "frames": frames})
    expected, states = foreign.run(params[1], frames)
    close((names["hidden"], names["cell"]), states[0])
    close(names["x"], expected[0])


def flax() -> None:
    foreign = SOURCES["flax"]
    params, input = float32(foreign)
    trees = {side: {name: params[f"{side}.{name}"].numpy() for name in ("kernel", "bias")} for side in ("ih", "hh")}
    names = run("Flax", {**trees, "frames": channels_last(input)})
    _, [(h, c)] = foreign.run(params, input)
    close((names["c"], names["h"]), (c.movedim(1, -1), h.movedim(1, -1)))
    close(names["output"].transpose(0, 1), continued(foreign, params, input, [(h, c)]))
    written = names["variables"]["params"]["cell"]
    assert all(np.array_equal(written[side]["kernel"], trees[side]["kernel"]) for side in ("ih", "hh"))


CHECKS: dict[str, Callable[[], None]] = {
    "Keras": keras,
    "nn.LSTM": lstm,
    "OpenSTL": openstl,
    "ndrplz": ndrplz,
    "automan000 and Winsolider": automan000,
    "jhhuang96": jhhuang96,
    "e2vid": e2vid,
    "Flax": flax,
}


def test_every_section_is_checked():
    assert CHECKS.keys() == SECTIONS.keys()
    assert all(SECTIONS.values())


@pytest.mark.parametrize("title", CHECKS)
@torch.no_grad()
def test_a_section(title: str):
    CHECKS[title]()


@pytest.mark.parametrize("title", [title for title, blocks in SECTIONS.items() if any(map(packages, blocks))])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_section_with_its_package(title: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for name in sorted({name for block in SECTIONS[title] for name in packages(block)} | {"jax"}):
        pytest.importorskip(name, reason=f"{name} is not installed")
    frames = torch.randn(2, 3, 5, 4, 2)
    params = {key.rpartition(".")[2]: value.numpy() for key, value in SOURCES["keras"].params(torch.float32).items()}
    trees = {
        side: {"kernel": params[kernel], "bias": params["bias"]}
        for side, kernel in (("ih", "kernel"), ("hh", "recurrent_kernel"))
    }
    names = run(title, {"frames": frames, **params, **trees}, live=True)
    theirs = names["theirs"]
    expected = theirs.apply(names["variables"], frames.numpy()) if title == "Flax" else theirs(frames.numpy())
    again, _ = names["layer"](frames.movedim(-1, 2))  # in Keras's section from a file
    for output in (names["output"], again):
        close(output.movedim(2, -1), torch.from_numpy(np.array(expected)))
