"""The launches that are compiled: kernels × dtypes × channels × variants × architectures."""

from collections.abc import Iterator
from dataclasses import dataclass

from tritonlstm.tuning.config import find_config
from tritonlstm.tuning.launches import DTYPES, VARIANTS, Launch
from tritonlstm.tuning.tables import KERNELS, Config

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CHANNELS = (1, 3, 17, 64, 96, 130)


@dataclass(frozen=True)
class Point:
    """One compilation. `variant` is one of the kernel's VARIANTS."""

    kernel: str
    dtype: str
    channels: int
    variant: str
    arch: str

    @property
    def key(self) -> str:
        return f"{self.kernel}/{self.dtype}/C{self.channels}/{self.variant}/{self.arch}"

    @property
    def launch(self) -> Launch:
        return Launch(self.kernel, self.dtype, self.channels, self.variant)

    @property
    def config(self) -> Config:
        """The package's own: no table of a user's changes these figures."""
        entry, _ = find_config(self.kernel, self.arch, self.launch.itemsize, self.channels, user=False)
        return entry.value


def points(architectures: tuple[str, ...] = ARCHITECTURES) -> Iterator[Point]:
    """Every channel class in every dtype with channel peepholes; the other variants at 64 channels, not in fp16."""
    for arch in architectures:
        for kernel in KERNELS:
            for dtype in DTYPES:
                for channels in CHANNELS:
                    yield Point(kernel, dtype, channels, "channel", arch)
                for variant in VARIANTS[kernel]:
                    if variant != "channel" and dtype != "fp16":
                        yield Point(kernel, dtype, 64, variant, arch)
