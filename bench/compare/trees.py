"""A version of the package, laid out as it is installed: the kernels, which stand beside it in the tree, inside it."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench.environment import ROOT


def of_ref(ref: str, folder: Path) -> Path:
    """The package at a commit of this repository."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", ref, "tritonlstm", "kernels"]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"{ref}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return _nest(folder)


def of_working_tree(folder: Path) -> Path:
    """The package as it stands here, changes included."""
    for name in ("tritonlstm", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return _nest(folder)


def _nest(folder: Path) -> Path:
    shutil.move(folder / "kernels", folder / "tritonlstm" / "kernels")
    return folder
