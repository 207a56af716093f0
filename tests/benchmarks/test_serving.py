"""The load test of the server runs: it counts answers and refusals, and finds nothing else."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.models.intensity_band import make

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serving.py"


@pytest.mark.slow
def test_a_quick_look(tmp_path):
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed; it comes with the extra [bench]")
    card = ModelCard(
        "band", "1", "intensity-band", "segmentation", ("grey",), "1 - P(background)", classes=("bright",),
        preparation=Preparation(view="slices", short_side=0, multiple=4, tile=32), policy=Policy(kind="band"),
    )  # fmt: skip
    make(tmp_path / "model", card, ((0.9, 2.0),))
    out = tmp_path / "serving.json"
    command = [sys.executable, SCRIPT, "--model", tmp_path / "model", "--side", "32", "--clients", "1,12"]
    done = subprocess.run(
        [*command, "--seconds", "2", "--queue", "0", "--workers", "1", "--local", "1", "--out", out],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    few, many, hasty = result["runs"]["stages"]
    assert few["answered"] > 0
    assert few["refused"] == few["failed"] == many["failed"] == hasty["failed"] == 0
    assert many["refused"] > 0
    assert result["runs"]["exit_status"] == 0
    assert "answered a second" in done.stdout
