"""Every benchmark says what it does, has its place in the page, and is left out in one line where it cannot run."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
SCRIPTS = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in ("common", "tables"))
NEEDS = {
    "exporting": "INSPECTION_DATA",
    "screening_speed": "INSPECTION_DATA",
    "viewer_start": "a display",
    "viewer_stroke": "a display",
}
"""Scripts that cannot run without something that can be taken away, and what they say that they need."""


def run(name, *words, **environment):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_its_block_in_the_page_and_its_line_in_the_list(name):
    assert f"<!-- bench: {name} -->" in PAGE.read_text(encoding="utf-8")
    assert f"| `{name}.py` |" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_does_and_takes_a_device_and_a_place_for_its_results(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
    assert "--out" in done.stdout


@pytest.mark.parametrize("name", NEEDS)
def test_a_script_that_lacks_what_it_needs_is_left_out_and_writes_nothing(name, tmp_path):
    out = tmp_path / "result.json"
    done = run(name, "--out", out, INSPECTION_DATA="", INSPECTION_PEER="", DISPLAY="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Left out: needs ")
    assert done.stdout.count("\n") == 1
    if not (name.startswith("viewer") and importlib.util.find_spec("napari") is None):
        assert NEEDS[name] in done.stdout or "the extra" in done.stdout
    assert not out.exists()


def test_the_page_says_what_the_published_figures_say(script):
    tables = script("tables")
    page = PAGE.read_text(encoding="utf-8")
    text, done = tables.filled(page, ROOT / "docs" / "benchmarks")
    assert text == page, "python benchmarks/tables.py docs/benchmarks"
    assert set(done) == {p.stem for p in (ROOT / "docs" / "benchmarks").glob("*.json")}


def test_plots_of_the_page_are_there():
    for file in (ROOT / "docs" / "benchmarks").glob("*.json"):
        for plot in json.loads(file.read_text(encoding="utf-8"))["plots"]:
            assert (ROOT / "docs" / "images" / f"{plot['name']}.svg").is_file()
    for image in re.findall(r"\]\((images/[^)]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (ROOT / "docs" / image).is_file()
