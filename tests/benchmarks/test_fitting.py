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
    command = [sys.executable, SCRIPT, "--images", "2", "--presets", "fast", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(out.read_text())["runs"]
    assert (run["preset"], run["images"]) == ("fast", 2)
    assert 0 < sum(run["stages"].values()) <= run["process_seconds"]
    assert 100 < run["resident_mib"] < 10_000
    assert "| fast | 2 |" in done.stdout


def test_growth_goes_from_the_fewest_images_to_the_most_that_came_to_an_end(script):
    fitting = script("fitting")
    runs = [
        {"preset": "fast", "images": 100, "resident_mib": 1400.0},
        {"preset": "fast", "images": 2000, "resident_mib": 1600.0},
        {"preset": "fast", "images": 5000, "error": "no end"},
        {"preset": "accurate", "images": 100, "resident_mib": 1500.0},
    ]
    assert fitting.grown(runs) == ["From 100 images to 2,000, `fast` takes 200 MiB more."]
