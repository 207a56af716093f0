"""Memory of a screening, a small version: flat between a few hundred images and ten times as many."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "screening" / "memory.py"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    out = tmp_path / "memory.json"
    arguments = ["--images", "1500", "--first", "500", "--work", tmp_path / "work", "--json", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert sum(told["counts"].values()) == 1500
    assert told["growth"] <= 0.10
