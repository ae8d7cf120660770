"""No kernel touches memory that is not its own, by NVIDIA's compute-sanitizer.

It knows what CUDA allocated. PyTorch's caching allocator puts many tensors into one such block, inside of which nothing
would be found; so it is switched off, and space is left between the blocks. A kernel with a fault shows that both work.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOUND = """
import torch
from tritonlstm import ConvLSTM2d
for peephole, size in (("none", None), ("channel", None), ("full", (9, 7))):
    for dtype in (torch.float32, torch.bfloat16):
        for memory in ("save", "recompute"):
            options = {"peephole": peephole, "spatial_size": size, "memory": memory, "device": "cuda", "dtype": dtype}
            input = torch.randn(3, 2, 3, 9, 7, device="cuda", dtype=dtype, requires_grad=True)
            ConvLSTM2d(3, [5, 8], 3, **options)(input)[0].sum().backward()
torch.cuda.synchronize()
"""

BEYOND_THE_END = """
import torch
import triton
import triton.language as tl

@triton.jit
def gates_planted_kernel(x_ptr, n):
    tl.store(x_ptr + n, 1.0)

x = torch.zeros(128, device="cuda")
gates_planted_kernel[(1,)](x, x.numel())
torch.cuda.synchronize()
"""

FOUND = 7
"""The exit status where something was found."""

needs_sanitizer = pytest.mark.skipif(
    shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed"
)


def sanitize(tool: str, program: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a program, from a file since Triton reads its source, with our kernels under a tool of the sanitizer."""
    path = folder / "program.py"
    path.write_text(program)
    options = ["--tool", tool, "--kernel-regex", "kns=gates", "--kernel-regex", "kns=parameter_grads"]
    if tool == "memcheck":
        options += ["--padding", "256"]
    command = ["compute-sanitizer", *options, "--error-exitcode", str(FOUND), sys.executable, str(path)]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


@needs_sanitizer
@pytest.mark.cuda
def test_an_access_beyond_a_tensor_is_found(tmp_path: Path):
    result = sanitize("memcheck", BEYOND_THE_END, tmp_path)
    assert result.returncode == FOUND, (result.stdout + result.stderr)[-3000:]
    assert "gates_planted_kernel" in result.stdout


@needs_sanitizer
@pytest.mark.cuda
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_nothing_is_found(tool: str, tmp_path: Path):
    result = sanitize(tool, SOUND, tmp_path)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]


def test_the_sanitizer_sees_each_tensor_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for it that prints what it was given."""
    stand_in = tmp_path / "compute-sanitizer"
    stand_in.write_text('#!/bin/sh\necho "caching off: $PYTORCH_NO_CUDA_MEMORY_CACHING"\necho "$@"\nexit 7\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    result = sanitize("memcheck", "pass", tmp_path)
    assert result.returncode == FOUND
    first, second = result.stdout.splitlines()
    assert first == "caching off: 1"
    assert "--tool memcheck " in second and " --padding 256 " in second and second.endswith("program.py")
