"""Settings of the whole run. Triton interprets the kernels on CPU tensors, but for `python -m tests.gpu`."""

import gc
import os
import tempfile

if "PYTEST_XDIST_WORKER" in os.environ:
    # One core for a worker and what it starts. With two threads on a busy core, opcheck took 1.8 times the CPU time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A compiled graph that an earlier version of the operators left on the disk would be taken for this one's. The workers
# of a run share what they compile.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled_here = tempfile.TemporaryDirectory(prefix="tritonlstm-tests-")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = _compiled_here.name
# Inductor compiles and loads a program for each vector extension of this CPU, for ten seconds, to see which ones the
# compiler has: every compiler that PyTorch supports has them.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

import torch

if os.environ.setdefault("TRITON_INTERPRET", "1") == "1":
    # Processes that Inductor starts to compile for a GPU, each with an import of torch: here it compiles for a CPU.
    os.environ.setdefault("TORCH_WARM_POOL", "0")

import pytest
from hypothesis import settings

from tests.support.interpreter import patch_the_language_once, round_to_nearest

round_to_nearest()
patch_the_language_once()

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Exempt what is imported from garbage collection, which otherwise takes a quarter of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Uninitialised memory holds NaN, so that a place nobody wrote shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
