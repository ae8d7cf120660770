"""`make clean` deletes what this checkout's own commands made, and nothing else."""

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a build, a folder of tests and an environment; another environment is beside it."""
    folder = tmp_path / "checkout"
    for name in ("build", "tests", "demo"):
        (folder / name).mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for path in (folder / ".venv", tmp_path / "elsewhere/venv"):
        venv.create(path, symlinks=True)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    return folder


def clean(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", "clean", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_clean_deletes_what_was_made(checkout: Path):
    for _ in range(2):
        assert clean(checkout).returncode == 0
        assert {path.name for path in checkout.iterdir()} == {"Makefile", "pyproject.toml", "tests", "link"}
    venv.create(checkout / "own", symlinks=True)
    assert clean(checkout, f"ENV={checkout}/own").returncode == 0
    assert not (checkout / "own").exists()


@pytest.mark.parametrize(
    "env",
    [
        "{}/elsewhere",
        "{}/elsewhere/venv",
        "../elsewhere/venv",
        "link",
        "link/venv",
        ".",
        "..",
        "/",
        "tests",
        "tests/..",
    ],
)
def test_clean_deletes_nothing_where_the_environment_is_not_ours(env: str, checkout: Path, tmp_path: Path):
    before = set(tmp_path.rglob("*"))
    result = clean(checkout, f"ENV={env.format(tmp_path)}")
    assert result.returncode == 2
    assert "ENV must be a virtual environment inside" in result.stderr
    assert set(tmp_path.rglob("*")) == before


def test_clean_deletes_nothing_outside_a_checkout(checkout: Path, tmp_path: Path):
    (tmp_path / "build").mkdir()
    result = clean(tmp_path, "--file", str(checkout / "Makefile"))
    assert result.returncode == 2
    assert "no checkout of tritonlstm" in result.stderr
    assert (tmp_path / "build").is_dir()
