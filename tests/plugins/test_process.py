"""What ends a process from outside: two LLVMs in one, and a Qt binding that loses references."""

import importlib
import sys

import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import llvm
from napari_inspection.widgets import qt_trouble


@pytest.fixture
def maps(tmp_path, monkeypatch):
    monkeypatch.setattr(llvm, "MAPS", tmp_path / "maps")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    yield tmp_path / "maps"
    sys.modules.pop("triton", None)


def test_it_looks_absent_beside_a_driver_with_llvm(maps):
    maps.write_text("7f00 r-xp /usr/lib/x86_64-linux-gnu/libLLVM-15.so.1\n")
    assert llvm.keep_compiler_out()
    with pytest.raises(ImportError):
        importlib.import_module("triton")


@pytest.mark.parametrize("text", [None, "7f00 r-xp /usr/lib/libc.so.6\n"], ids=["no such list", "no llvm"])
def test_otherwise_nothing_changes(maps, text):
    if text is not None:
        maps.write_text(text)
    assert not llvm.keep_compiler_out()
    assert "triton" not in sys.modules


@pytest.mark.parametrize(
    ("binding", "version", "python", "bad"),
    [
        ("PySide6", "6.12.0", (3, 11), True),
        ("PySide6", "6.12.0", (3, 12), False),
        ("PySide6", "6.11.3", (3, 11), False),
        ("PyQt6", None, (3, 11), False),
    ],
)
def test_a_qt_that_ends_the_process_is_named(binding, version, python, bad):
    line = qt_trouble(binding, version, python)
    assert bool(line) is bad
    assert not bad or line.endswith('pip install "PySide6-Essentials<6.12"')
