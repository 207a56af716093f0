"""The benchmark of exports runs: each form in a row, and what does not end in time is said to."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "exporting.py"


@pytest.fixture
def parts(tmp_path):
    """Return a small set: flat grey parts, some with a bright square."""
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 6), ("test/good", 2), ("test/spot", 2)):
        (tmp_path / "parts" / place).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(100, 140, (96, 96), dtype=np.uint8)
            if place == "test/spot":
                pixels[40:60, 30:50] = 255
            Image.fromarray(pixels).save(tmp_path / "parts" / place / f"{k}.png")
    return tmp_path / "parts"


def run(parts, out, *words):
    command = [sys.executable, SCRIPT, "--set", parts, "--out", out, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_quick_look(parts, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    done = run(parts, tmp_path / "exporting.json", "--forms", "onnx-fp32")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "exporting.json").read_text())
    original, exported = result["runs"][0]["rows"]
    assert (original["form"], exported["form"]) == ("original", "onnx")
    assert exported["let_through"]
    assert original["value"] == exported["value"] == 1.0
    assert "| onnx fp32 | 1.0000 |" in done.stdout
    done = run(parts, tmp_path / "exporting.json", "--forms", "onnx-fp32", "--limit", "0.2")
    assert done.returncode == 1
    assert "| onnx fp32 | failed: no end within 0 s |" in done.stdout
