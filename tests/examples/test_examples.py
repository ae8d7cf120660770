"""Each short example runs and shows what it says."""

from pathlib import Path

import pytest

from tests.support.processes import run_script, run_with_torch

ROOT = Path(__file__).parents[2]

LAST_LINES = {
    "sequence": "two parts equal the whole: True",
    "one_image": "gradient of the image (2, 3, 16, 16) is there: True",
    "streaming": "steps agree with the sequence: True",
    "scheduled_sampling": "the loss falls to less than half: True",
}


@pytest.mark.parametrize(("name", "last_line"), LAST_LINES.items(), ids=LAST_LINES.keys())
def test_example(name: str, last_line: str, tmp_path: Path):
    result = run_script(ROOT / "examples" / f"{name}.py", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == last_line


def test_the_code_in_the_readme_runs(tmp_path: Path):
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    result = run_with_torch(code, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "torch.Size([3, 32, 1, 1])\n"
