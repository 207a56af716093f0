"""What an import brings with it: the core is light until somebody computes."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "scipy", "pandas", "skimage", "sqlalchemy", "imagecodecs", "plotly")
VIEWER = ("napari", "qtpy", "magicgui", "PySide6", "PyQt5", "PyQt6")

NO_TORCH = (
    "inspection_core.geometry",
    "inspection_core.image",
    "inspection_core.card",
    "inspection_core.prediction",
    "inspection_core.review",
    "inspection_core.io.raster",
    "inspection_core.doctor",
)
EVERYTHING = (
    "inspection_core.cli, inspection_core.screen, inspection_core.evaluate, inspection_core.demo, "
    "inspection_core.doctor, inspection_core.report, inspection_core.learn, inspection_core.engine, "
    "inspection_core.remote, inspection_core.serve.run"
)


def loaded_by(modules: str) -> set[str]:
    """Return the top-level names of all modules in a fresh process that imports `modules`."""
    code = f"import sys, {modules}; print(*{{m.partition('.')[0] for m in sys.modules}}, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package_itself_is_light():
    assert loaded_by("inspection_core") & {"numpy", *HEAVY, *VIEWER} == set()


def test_command_line_is_light_until_a_command_runs():
    assert loaded_by("inspection_core.cli") & {"numpy", *HEAVY, *VIEWER} == set()


@pytest.mark.parametrize("module", NO_TORCH)
def test_nouns_and_files_need_no_torch(module):
    assert loaded_by(module) & {"torch", "timm", *VIEWER} == set()


def test_no_part_of_the_core_brings_a_viewer():
    assert loaded_by(EVERYTHING) & set(VIEWER) == set()
