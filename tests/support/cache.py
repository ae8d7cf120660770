"""A cache folder of its own for a test, and no table left over from another."""

from pathlib import Path

import pytest

from tritonlstm.launch import config


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The path of an empty cache folder, which the test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRITONLSTM_CACHE_DIR", str(folder))
    config.forget()
    yield folder
    config.forget()
