"""The wheel: everything in it, nothing beside it, and it works where the repository is not."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of what git would see, so that the build leaves nothing behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tritonlstm", "kernels", "tests", "bench", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = target.glob("*.whl")
    return built


def expected_files() -> set[str]:
    """Every module, table and document of the package, where the wheel should have it."""
    wanted = {f"tritonlstm/{path.relative_to(ROOT / 'tritonlstm')}" for path in (ROOT / "tritonlstm").rglob("*.py")}
    wanted |= {f"tritonlstm/kernels/{path.relative_to(ROOT / 'kernels')}" for path in (ROOT / "kernels").rglob("*.py")}
    wanted |= {f"tritonlstm/kernels/tuned/{path.name}" for path in (ROOT / "kernels/tuned").glob("*.json")}
    return wanted | {"tritonlstm/py.typed", "tritonlstm/kernels/DERIVATION.md"}


def test_holds_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected_files()
    assert any(name.endswith("tuned/default.json") for name in names)


_USE = """
import importlib.util, sys, torch, tritonlstm
from tritonlstm import kernels, launch
assert tritonlstm.__file__.startswith(sys.argv[1]), tritonlstm.__file__
assert kernels.__file__.startswith(sys.argv[1]), kernels.__file__
assert launch.pick_config("gates_forward", "sm_90", 2, 64).block > 0
layer = tritonlstm.ConvLSTM2d(1, 2, 3, backend=sys.argv[2])
output, _ = layer(torch.ones(2, 1, 1, 3, 3))
output.sum().backward()
assert layer.layers[0].peephole.grad.abs().sum() > 0
assert importlib.util.find_spec("kernels") is None
assert "tritonlstm.tuning" not in sys.modules
"""


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_works_from_another_directory(wheel: Path, tmp_path: Path, backend: str):
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    environment = os.environ | {"PYTHONPATH": str(target), "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _USE, str(target), backend],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_depends_on_torch_alone(wheel: Path):
    """Above all not on Triton, which torch's wheels for CUDA and ROCm bring in a version of their own."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert [requirement for requirement in required if "extra ==" not in requirement] == ["torch>=2.11"]
    (triton,) = [requirement for requirement in required if requirement.startswith("triton>=")]
    assert "extra == 'triton'" in triton.replace('"', "'")


def test_has_the_command(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    (entry_points,) = target.glob("*.dist-info/entry_points.txt")
    assert "tritonlstm = tritonlstm.cli:main" in entry_points.read_text()
    environment = os.environ | {"PYTHONPATH": str(target), "TRITONLSTM_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "tritonlstm", "info"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "kernels/tuned/default.json" in result.stdout


def test_the_kernels_folder_is_no_package_of_its_own():
    result = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "ImportError: this package is tritonlstm.kernels" in result.stderr
