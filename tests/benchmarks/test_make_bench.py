"""`make bench` runs every script, whichever of them fail, and fills the page at the end from this run alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITES = "import sys; print('written for', *sys.argv[1:]); open('benchmark-results/{}.json', 'w').close()\n"


@pytest.fixture
def project(tmp_path):
    """Return a project with the Makefile, three benchmarks of which one fails, and what an earlier run left."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("benchmarks", "benchmark-results", "venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "venv" / "installed").touch()
    (tmp_path / "venv" / "bench").touch()
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "benchmark-results" / "earlier.json").touch()
    scripts = {
        "common": "raise SystemExit('is no benchmark')\n",
        "broken": "raise SystemExit('this one is broken')\n",
        "first": WRITES.format("first"),
        "second": WRITES.format("second"),
        "tables": "import os; print('published', sorted(os.listdir('benchmark-results')))\n",
    }
    for name, text in scripts.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_script_that_fails_does_not_keep_the_others_from_being_published(project):
    words = ["make", "bench", "VENV=venv", "HAVE_DISPLAY=true", "DEVICE=cuda"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this one is broken" in done.stderr
    assert "== benchmarks/broken.py failed" in done.stdout
    assert done.stdout.count("written for --device cuda") == 2
    assert "benchmarks/second.py, 3 of 3" in done.stdout
    assert "== benchmarks/second.py took" in done.stdout
    assert done.stdout.splitlines()[-1] == "published ['first.json', 'second.json']"
