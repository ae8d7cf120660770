"""The layers and inputs that the tests of PyTorch's features share."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from tritonlstm import ConvLSTM2d, PeepholeLSTM

T, B, CIN, H, W = 4, 3, 2, 6, 5


def with_peepholes(layer: nn.Module) -> nn.Module:
    """The layer with peepholes that are not zero."""
    for name, parameter in layer.named_parameters():
        if name.endswith("peephole"):
            nn.init.normal_(parameter, std=0.5)
    return layer


def conv_lstm(**options: object) -> ConvLSTM2d:
    """Two layers with different kernels, of 4 and 3 channels."""
    return with_peepholes(ConvLSTM2d(CIN, [4, 3], [3, (1, 5)], **options))


def peephole_lstm(**options: object) -> PeepholeLSTM:
    """Two layers of 4 and 3 channels."""
    return with_peepholes(PeepholeLSTM(CIN, [4, 3], **options))


def frames(steps: int = T, batch: int = B, height: int = H, width: int = W) -> Tensor:
    """A random input, (T, B, Cin, H, W)."""
    return torch.randn(steps, batch, CIN, height, width)


def step_by_step(layer: nn.Module, frames: Iterable[Tensor]) -> tuple[Tensor, tuple]:
    """The outputs of `layer.step` over the frames, and the last state."""
    state, outputs = None, []
    for frame in frames:
        output, state = layer.step(frame, state)
        outputs.append(output)
    return torch.stack(outputs), state


def pair_of_layers(backend: str = "auto") -> tuple[ConvLSTM2d, ConvLSTM2d]:
    """A layer on this backend, and one on PyTorch's plain operations with the same parameters."""
    layer, plain = conv_lstm(backend=backend), conv_lstm(backend="torch")
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of all parameters, by name."""
    named = dict(module.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Run `work` in so many threads at once; raises what any of them raised."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
