"""What a device is called in the tables of tuning, and what the CPU can do."""

import functools

import torch

CPU_CAPABILITY = torch.backends.cpu.get_cpu_capability()
"""The widest vectors that PyTorch uses: "AVX512" of 512 bits, "AVX2" of 256, or another name."""


@functools.cache
def cpu_convolves(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in this dtype on this CPU; where it does not, PyTorch unrolls images into columns."""
    if not torch.backends.mkldnn.is_available():
        return True  # nothing is gained in any other dtype
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype != torch.float16 or torch.ops.mkldnn._is_mkldnn_fp16_supported()


@functools.cache
def architecture(device: torch.device) -> str:
    """ "sm_90" for an NVIDIA GPU, "gfx942" for one of AMD's, else the device's type: "cpu"."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
