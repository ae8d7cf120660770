"""Compile a launch ahead of time, exactly as the launcher specialises it, without a GPU."""

from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from tritonlstm import _launch

from .points import Point, launch

_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def target(arch: str) -> GPUTarget:
    """ "sm_90" or "gfx942" as Triton's target."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return GPUTarget("hip", arch, 64)


def compile_point(point: Point) -> CompiledKernel:
    """The compiled kernel of a point."""
    name = f"{point.kernel}_kernel"
    kernel = getattr(_launch, name)
    recorder = _Recorder()
    with mock.patch.object(_launch, name, recorder), mock.patch.object(_launch, "_arch", lambda device: point.arch):
        launch(point)
    source, options = _source(kernel, recorder.arguments)
    return triton.compile(source, target=target(point.arch), options=options)


class _Recorder:
    """Stands in for a kernel and keeps the arguments of its launch."""

    def __getitem__(self, grid: object) -> "_Recorder":
        return self

    def __call__(self, **arguments: object) -> None:
        self.arguments = arguments


def _source(kernel: triton.JITFunction, arguments: dict[str, object]) -> tuple[ASTSource, dict[str, object]]:
    """A launch's arguments as signature, constants and pointer alignment; what is no argument is a compiler option."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    options = {name: value for name, value in arguments.items() if name not in signature}
    return ASTSource(kernel, signature, constants, attributes), options
