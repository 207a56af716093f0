"""The project's own tools have nothing to say about it."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "layers": ["lint-imports"],
}


@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS)
def test_tool_is_content(command):
    tool = shutil.which(command[0], path=sysconfig.get_path("scripts")) or shutil.which(command[0])
    if tool is None:
        pytest.skip(f"{command[0]} is not installed; it comes with the extra [dev]")
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
