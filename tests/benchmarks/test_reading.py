"""The benchmark of reading runs, and all readers give the same values."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "reading.py"


def test_a_quick_look(tmp_path):
    out = tmp_path / "reading.json"
    command = [sys.executable, SCRIPT, "--slices", "2", "--images", "2", "--rounds", "1", "--sets", "plain,cold,png"]
    done = subprocess.run(
        [*command, "--readers", "ours,pydicom,simpleitk", "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for result in json.loads(out.read_text())["runs"]:
        runs = [run for reader in result["runs"].values() for run in reader]
        assert [run["voxels"] for run in runs] == [2 if result["set"] == "png" else 2 * 512 * 512] * 3
        assert len({run["sum"] for run in runs}) == 1
    assert "times ours" in done.stdout
