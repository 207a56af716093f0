"""The benchmark of fitting runs, and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fitting.py"


def test_a_quick_look(tmp_path):
    pytest.importorskip("elpv_dataset")
    out = tmp_path / "fitting.json"
    command = [sys.executable, SCRIPT, "--images", "2", "--presets", "fast", "--json", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["preset"], row["images"]) == ("fast", 2)
    assert 0 < sum(row["seconds"].values()) <= row["wall_s"]
    assert 100 < row["peak_mib"] < 10_000
