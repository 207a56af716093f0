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


def test_what_was_wanted_stands_beside_what_there_is(script):
    sliding_window = script("sliding_window")
    result = {
        "volume": "3x160x240x240x4",
        "runs": {
            "monai": [{"seconds": 6.0, "cpu_seconds": 12.0, "peak_mib": 400.0}],
            "ours": [{"seconds": 4.0, "cpu_seconds": 5.0, "peak_mib": 100.0}],
        },
        "agree": {"ours": {"worst": 3e-4, "other": 3e-5, "looked": 1.0}},
    }
    (note,) = sliding_window.aims(result)
    assert note.startswith(
        "3 x 160 x 240 x 240, 4 classes: **1.50 times MONAI's speed (2 were wanted; 2.40 by CPU time)"
    )
    assert "falls short**, 0.25 of its memory (0.33 at most), scores within 3.0e-04 (0.001), 0.0030%" in note
    assert sliding_window.aims({**result, "agree": {}}) == []
