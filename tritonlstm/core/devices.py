"""What a device is called in the tables of tuning, and what the CPU can do."""

import functools

import torch

from .compiler import constant_when_compiled

CPU_CAPABILITY = torch.backends.cpu.get_cpu_capability()
"""The widest vectors that PyTorch uses: "AVX512" of 512 bits, "AVX2" of 256, or another name."""


def _cpu_lacks() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available():
        return frozenset()  # nothing is gained in any other dtype
    has = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, is_there in has.items() if not is_there)


CPU_LACKS = _cpu_lacks()
"""The half types in which oneDNN does not convolve on this CPU; PyTorch unrolls images into columns there."""


def is_nvidia(device: torch.device) -> bool:
    """Whether it is one of NVIDIA's GPUs, whose convolutions are cuDNN's."""
    return device.type == "cuda" and torch.version.hip is None


@constant_when_compiled
def cudnn_has_bfloat16(device: torch.device) -> bool:
    """Whether cuDNN has convolutions in bfloat16: for compute capability 8.0 and higher."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def architecture(device: torch.device) -> str:
    """ "sm_90" for an NVIDIA GPU, "gfx942" for one of AMD's, else the device's type: "cpu"."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
