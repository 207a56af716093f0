"""The manifest is valid, names what is there, and costs nothing before it is used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("napari", reason="needs the extra [viewer]")

MANIFEST = Path(__file__).parents[2] / "plugins" / "napari_inspection" / "napari.yaml"


@pytest.fixture(scope="module")
def manifest():
    from npe2 import PluginManifest

    return PluginManifest.from_file(MANIFEST)


def test_every_command_is_there(manifest):
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name))
    known = {c.id for c in manifest.contributions.commands}
    used = [*manifest.contributions.readers, *manifest.contributions.sample_data, *manifest.contributions.widgets]
    assert {u.command for u in used} <= known


def test_the_panel_imports_nothing_heavy():
    code = (
        "import sys, napari_inspection.panel;"
        "print([m for m in ('torch', 'pandas', 'pydicom', 'nibabel', 'SimpleITK', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
