"""Each short example runs and shows what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAST_LINES = {
    "sequence": "two parts equal the whole: True",
    "one_image": "gradient of the image (2, 3, 16, 16) is there: True",
    "streaming": "steps agree with the sequence: True",
    "scheduled_sampling": "the loss falls to less than half: True",
}


@pytest.mark.parametrize(("name", "last_line"), LAST_LINES.items(), ids=LAST_LINES.keys())
def test_example(name: str, last_line: str, tmp_path: Path):
    program = ROOT / "examples" / f"{name}.py"
    result = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == last_line


def test_the_code_in_the_readme_runs(tmp_path: Path):
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "torch.Size([3, 32, 1, 1])\n"
