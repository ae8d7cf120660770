"""Importing the package: its cost, a second import in one process, a stub for Triton, and TRITON_INTERPRET."""

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_with_torch

ROOT = Path(__file__).parents[1]


OF_TORCH = "dynamo_pgo force disabled by", "Guards may run slower on Python 3.13.0"
"""How warnings begin that are no fault of ours: as in pyproject.toml."""

STRICT = f"""
import warnings
warnings.simplefilter("error")
for message in {OF_TORCH}:
    warnings.filterwarnings("ignore", message)
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """What a program prints in a process of its own, in which TRITON_INTERPRET is not set if not given, and torch is
    imported already."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = run_with_torch(STRICT + code, *arguments, folder=ROOT, environment=inherited | environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class TestCost:
    MODULES = """
import sys, torch
before = set(sys.modules)
import tritonlstm
print(*sorted(set(sys.modules) - before))
"""

    def test_no_other_package_is_imported(self):
        added = run(self.MODULES).split()
        packages = {name.split(".")[0] for name in added} - sys.stdlib_module_names
        assert packages <= {"tritonlstm", "torch"}
        heavy = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.export", "torch.onnx", "torch.utils")
        assert [name for name in added if name.startswith(heavy)] == []
        assert [name for name in added if name.startswith("tritonlstm.convert")] == []

    def test_convert_is_imported_when_it_is_used(self):
        run("import tritonlstm; assert tritonlstm.convert.SOURCES; assert not hasattr(tritonlstm, 'converter')")

    TIMES = """
import time
start = time.process_time()
import torch
middle = time.process_time()
import tritonlstm
print((time.process_time() - middle) / (middle - start))
"""

    @pytest.mark.serial
    def test_takes_a_small_part_of_the_time_of_torch(self):
        keeps_bytecode = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

        def part() -> float:
            command = [sys.executable, "-c", self.TIMES]
            return float(subprocess.run(command, check=True, capture_output=True, env=keeps_bytecode).stdout)

        part()  # compiles to bytecode
        assert statistics.median(part() for _ in range(3)) < 0.15  # 0.04 to 0.06; 1.3 with the compiler


_USE = """
import sys, importlib, torch
def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "tritonlstm"]:
        del sys.modules[name]
def use(layer, x):
    x = x.clone().requires_grad_()
    output = layer(x)[0]
    output.square().sum().backward()
    with torch.no_grad():
        assert torch.equal(layer(x)[0], output)
    return output.detach(), x.grad
def same(one, other):
    assert all(map(torch.equal, one, other))
x = torch.randn(3, 1, 2, 6, 6)
import tritonlstm
old = tritonlstm.ConvLSTM2d(2, 3, 3)
expected = use(old, x)
"""


def test_the_flop_counter_is_met_whenever_it_is_imported():
    """Before this package or after, also when something looks for the module without importing it."""
    met = """
from torch.utils.flop_counter import flop_registry
assert torch.ops.tritonlstm.inference in flop_registry
assert not [finder for finder in sys.meta_path if 'tritonlstm' in type(finder).__module__]
"""
    count = """
with FlopCounterMode(display=False) as counter:
    ConvLSTM2d(2, 3, 3)(torch.zeros(3, 1, 2, 6, 6))
assert counter.get_total_flops() == 2 * 3 * 36 * 12 * 5 * 9
"""
    ours, counter = "from tritonlstm import ConvLSTM2d\n", "from torch.utils.flop_counter import FlopCounterMode\n"
    look = "import importlib.util\nassert importlib.util.find_spec('torch.utils.flop_counter')\n"
    for imports in (ours + counter + count, counter + ours, ours + look + counter):
        run("import sys, torch\n" + imports + met)


class TestImportingTwice:
    def test_reloaded_modules_work_and_so_do_the_layers_from_before(self):
        run(
            _USE
            + """
for name in [name for name in sys.modules if name.split(".")[0] == "tritonlstm"]:
    importlib.reload(sys.modules[name])
same(use(old, x), expected)
new = tritonlstm.ConvLSTM2d(2, 3, 3)
new.load_state_dict(old.state_dict())
same(use(new, x), expected)
"""
        )

    def test_forgotten_modules_are_imported_again(self):
        run(
            _USE
            + """
for _ in range(2):
    forget()
    import tritonlstm
    new = tritonlstm.ConvLSTM2d(2, 3, 3)
    new.load_state_dict(old.state_dict())
    same(use(new, x), expected)
    same(use(old, x), expected)
new = tritonlstm.ConvLSTM2d(2, 3, 3, backend="aten")
new.load_state_dict(old.state_dict())
torch.testing.assert_close(use(torch.compile(new, fullgraph=True, backend="aot_eager"), x), expected)
assert torch.func.vmap(lambda x: new(x)[0])(x[None]).shape == (1, 3, 1, 3, 6, 6)
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    new(x)
assert counter.get_total_flops() == 2 * 3 * 36 * 12 * 5 * 9
"""
        )

    def test_a_second_copy_on_the_path_takes_over(self, tmp_path: Path):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tritonlstm", tmp_path / "tritonlstm", ignore=ignored)
        shutil.copytree(ROOT / "kernels", tmp_path / "tritonlstm" / "kernels", ignore=ignored)
        printed = run(
            _USE
            + """
forget()
sys.path.insert(0, sys.argv[1])
import tritonlstm
assert tritonlstm.__file__.startswith(sys.argv[1])
new = tritonlstm.ConvLSTM2d(2, 3, 3)
new.load_state_dict(old.state_dict())
same(use(new, x), expected)
operators = importlib.import_module("tritonlstm.ops.sequence")
operators.engine = lambda *_: print("the copy") or sys.exit(0)
old(x)
""",
            str(tmp_path),
        )
        assert printed == "the copy"

    def test_a_version_with_other_operators_is_refused(self):
        run(
            _USE
            + """
torch.ops.tritonlstm._schemas["inference"] = "(Tensor input) -> Tensor"
forget()
try:
    import tritonlstm
except ImportError as error:
    assert "another version" in str(error) and "tritonlstm::inference" in str(error)
else:
    raise AssertionError
"""
        )


STUBS = {
    "an empty module": "types.ModuleType('triton')",
    "a module with a spec": "importlib.util.module_from_spec(importlib.machinery.ModuleSpec('triton', None))",
    "a mock": "unittest.mock.MagicMock()",
    "None": "None",
}


@pytest.mark.parametrize("stub", STUBS.values(), ids=STUBS.keys())
def test_a_stub_for_triton_does_not_disturb_layers_on_a_cpu(stub: str, tmp_path: Path):
    """As builds of documentation put it into sys.modules, even beside a user's table that names its Triton."""
    (tmp_path / "cpu.json").write_text('{"schema": 1, "arch": "cpu", "triton": "none", "configs": [], "schedules": []}')
    run(
        f"""
import sys, types, importlib.machinery, importlib.util, unittest.mock, torch
sys.modules["triton"] = {stub}
from tritonlstm import ConvLSTM2d, PeepholeLSTM
ConvLSTM2d(2, 3, 3)(torch.zeros(2, 1, 2, 4, 4))[0].sum().backward()
PeepholeLSTM(2, 3)(torch.zeros(2, 1, 2))
try:
    PeepholeLSTM(2, 3, backend="triton")(torch.zeros(2, 1, 2))
except Exception as error:
    print(type(error).__name__)
else:
    raise AssertionError
""",
        TRITONLSTM_CACHE_DIR=str(tmp_path),
    )


class TestInterpreter:
    """Triton reads TRITON_INTERPRET when it is imported, which is at a layer's first call with backend="triton"."""

    CALL = """
import os, torch
def call():
    from tritonlstm import PeepholeLSTM
    try:
        PeepholeLSTM(2, 3, backend="triton")(torch.zeros(2, 1, 2))
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "works"
"""

    def test_set_between_the_imports_of_this_package_and_of_triton(self):
        assert run(self.CALL + "import tritonlstm; os.environ['TRITON_INTERPRET'] = '1'; print(call())") == "works"

    def test_set_after_the_import_of_triton(self):
        message = run(self.CALL + "import triton; os.environ['TRITON_INTERPRET'] = '1'; print(call())")
        assert message.startswith('ValueError: backend: "triton"')
        assert "TRITON_INTERPRET was set after the import of Triton" in message

    def test_unset_between_the_import_of_triton_and_the_first_call(self):
        code = "import triton; del os.environ['TRITON_INTERPRET']; print(call())"
        message, after = run(
            self.CALL + code + "; os.environ['TRITON_INTERPRET'] = '1'; print(call())", TRITON_INTERPRET="1"
        ).splitlines()
        assert "TRITON_INTERPRET was set when Triton was imported and is unset" in message
        assert after == "works"

    def test_unset_after_the_first_call(self):
        code = "print(call()); del os.environ['TRITON_INTERPRET']; print(call())"
        assert run(self.CALL + code, TRITON_INTERPRET="1") == "works\nworks"

    def test_never_set(self):
        assert "needs a GPU, or TRITON_INTERPRET=1 before Triton is imported" in run(self.CALL + "print(call())")
