"""PTX from Triton."""

import functools
import importlib
from dataclasses import dataclass

from tests.support.compiling import compiling

ARCH = 90


@dataclass(frozen=True)
class Request:
    """A kernel by the name of its module and its own, and what it is specialised on."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    aligned: tuple[int, ...]  # the positions of the arguments that are multiples of 16
    options: tuple[tuple[str, object], ...]


@functools.cache
def compile_to_ptx(request: Request) -> tuple[str, int]:
    """The PTX for sm_90, and the bytes of shared memory."""
    return compiling(_compile, request)


def _compile(request: Request) -> tuple[str, int]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(request.module), request.kernel)
    attributes = {(position,): [["tt.divisibility", 16]] for position in request.aligned}
    source = ASTSource(kernel, dict(request.signature), dict(request.constants), attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", ARCH, 32), options=dict(request.options))
    return compiled.asm["ptx"], compiled.metadata.shared
