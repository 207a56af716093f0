"""Screening under fire, a small version: killed, its disk full, and in the end every input is there once and equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "screening" / "faults.py"


@pytest.mark.skipif(sys.platform != "linux", reason="kills by a process's CPU time, which Linux tells")
def test_every_input_is_there_once_and_equal(tmp_path):
    out = tmp_path / "faults.json"
    arguments = ["--images", "60", "--kills", "4", "--work", tmp_path / "work", "--json", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert (told["kills"], told["bad"]) == (4, 3)
    assert told["every_input_once"]
    assert told["failed_are_the_bad"]
    assert told["rows_identical"]
    assert told["masks_identical"]
