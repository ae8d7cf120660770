"""The named layers that tests, tuner and benchmarks share, as sizes alone."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Case:
    """A stack of ConvLSTM layers with one odd square kernel, over a batch of sequences of images."""

    batch: int
    steps: int
    in_channels: int
    channels: tuple[int, ...]
    """Hidden channels, one for each layer."""
    kernel: int
    height: int
    width: int

    def __str__(self) -> str:
        layers = "-".join(map(str, self.channels))
        images = "" if self.is_of_vectors else f" {self.kernel}×{self.kernel} {self.height}×{self.width}"
        return f"B{self.batch} T{self.steps} {self.in_channels}→{layers}{images}"

    def but(self, **changes: object) -> "Case":
        return replace(self, **changes)

    @property
    def is_of_vectors(self) -> bool:
        """Whether an image is one pixel and the kernel too, so that a convolution is a matrix product."""
        return self.kernel == self.height == self.width == 1

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(Cin, C) of each layer."""
        return tuple(zip((self.in_channels, *self.channels), self.channels))


CASES = {
    "paper": Case(16, 20, 16, (128, 64, 64), 5, 16, 16),
    "openstl": Case(16, 20, 16, (128, 128, 128, 128), 5, 16, 16),
    "nowcast": Case(8, 10, 64, (64,), 3, 128, 128),
    "latency": Case(1, 16, 32, (32,), 3, 64, 64),
    "copied-3x3": Case(1, 5, 512, (128, 64, 64, 32, 32), 3, 64, 32),
    "copied-5x5": Case(1, 9, 512, (128, 64, 64), 5, 64, 32),
    "odd": Case(4, 10, 33, (33,), 3, 61, 47),
}
"""paper: the Moving MNIST network of Shi et al. 2015. openstl: ConvLSTM-S of OpenSTL. nowcast: radar images. latency:
one sequence alone. copied: the examples in the README of automan000/Convolutional_LSTM_PyTorch, which people start
from. odd: nothing a multiple of anything."""

SMALL = {
    "paper": CASES["paper"].but(batch=8, steps=10, channels=(64, 32, 32)),
    "openstl": CASES["openstl"].but(batch=8, steps=10, channels=(32, 32, 32, 32)),
    "nowcast": CASES["nowcast"].but(batch=2, in_channels=32, channels=(32,), height=64, width=64),
    "latency": CASES["latency"],
    "copied-3x3": CASES["copied-3x3"].but(in_channels=128, channels=(32, 16, 16, 8, 8)),
    "copied-5x5": CASES["copied-5x5"].but(in_channels=128, channels=(32, 16, 16)),
    "odd": CASES["odd"].but(batch=1),
}
"""Small variants for two CPU cores: fewer channels, images and steps, the same depth and kernels."""

STEPS = {
    "openstl-step": Case(2, 5, 16, (32, 32, 32, 32), 5, 16, 16),
    "openstl128-step": Case(1, 3, 16, (128, 128), 5, 16, 16),
    "ndrplz-step": Case(2, 5, 16, (32, 32), 3, 32, 32),
    "handyrl-step": Case(16, 9, 32, (32, 32, 32), 3, 6, 6),
    "handyrl1-step": Case(1, 9, 32, (32, 32, 32), 3, 6, 6),
    "e2vid-step": Case(1, 3, 64, (64,), 3, 45, 60),
    "evfly-step": Case(1, 10, 64, (64,), 3, 8, 8),
    "vector-step": Case(1, 10, 24, (64,), 1, 1, 1),
    "vector256-step": Case(1, 10, 128, (256,), 1, 1, 1),
}
"""Small layers that users run one step at a time: networks for video (OpenSTL, ndrplz/ConvLSTM_pytorch), games
(HandyRL), event cameras (E2VID, evfly) and vectors."""
