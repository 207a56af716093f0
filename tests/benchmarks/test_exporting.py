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
    command = [sys.executable, SCRIPT, "--set", parts, "--no-edge", "--out", out, *words]
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


@pytest.fixture
def exporting(script):
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    return script("exporting")


def test_what_is_installed_counts_without_what_installed_it(exporting, tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, size in {"numpy/core.so": 100, "numpy/__pycache__/a.pyc": 7, "one.py": 10, "pip/main.py": 1000}.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(bytes(size))
    assert exporting.installed_bytes(tmp_path) == 110


def test_a_bundle_that_could_not_be_installed_says_so_beside_what_is_known(exporting):
    known = {"score_difference": 2e-6, "mask_share": 0.0, "other_verdicts": 0, "let_through": True,
             "ms": {"export": 50.0}, "megabytes": 4.2}  # fmt: skip
    alone = {"score_difference": 3e-6, "other_verdicts": 0, "ms": 60.0, "installed_megabytes": 135.0}
    made = exporting.edge_table({"data": "parts", "edge": {**known, "alone": alone}})
    assert made["rows"] == [
        ["the suite's", "2e-06", "0.00%", 0, "yes", "50.0", "4.2", ""],
        ["of its own", "3e-06", "", 0, "", "60.0", "", "135"],
    ]
    made = exporting.edge_table({"data": "parts", "edge": {**known, "alone": {"error": "could not be installed"}}})
    assert made["rows"][1][:2] == ["of its own", "could not be installed"]
    assert {len(row) for row in made["rows"]} == {len(made["columns"])}
