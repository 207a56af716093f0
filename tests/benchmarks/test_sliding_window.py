"""The benchmark of volumes runs; in torch, windows and weights are MONAI's to the last digits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "sliding_window.py"


@pytest.mark.slow
def test_a_quick_look(tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "sliding_window.json"
    words = ["--volumes", "1x97x100x96x3", "--rounds", "1", "--growing", "", "--large", "1x97x100x96x3"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words, "--rows", "monai,torch", "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    (volume,) = result["runs"]["volumes"]
    assert volume["agree"]["torch"]["worst"] < 1e-5
    assert volume["agree"]["torch"]["other"] < 1e-4
    assert "resident memory" in result["notes"][0]
    assert "ours, in torch" in done.stdout
