"""Writes that are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspection_core.io import atomic
from inspection_core.io.atomic import atomic_path, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_the_last_write_stands(tmp_path, first, second):
    path = tmp_path / "a.bin"
    write_bytes(path, first)
    write_bytes(path, second)
    assert path.read_bytes() == second
    assert names(tmp_path) == ["a.bin"]


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "naïve – 欠陥\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve – 欠陥\n".encode()


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_an_error_leaves_the_old_content_and_no_rubbish(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nothing_is_visible_before_the_end(tmp_path):
    with atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert not (tmp_path / "a.png").exists()
    assert names(tmp_path) == ["a.png"]


def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import os, sys; from pathlib import Path; from inspection_core.io.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t: t.write_text('half'); os._exit(9)"
    )
    root = Path(atomic.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, path], cwd=root).returncode == 9
    assert path.read_text() == "old"
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a.txt"]


NAMES = {
    "plain": ("mask.png", ".png"),
    "two suffixes": ("mask.nii.gz", ".nii.gz"),
    "no suffix": ("mask", ".tmp"),
    "long": ("x" * 250 + ".png", ".png"),
    "long, of letters of three bytes": ("欠" * 80 + ".png", ".png"),
    "a sentence after the dot": ("x." + "y" * 240, ".tmp"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_temporary_name_keeps_the_suffix_and_is_short_enough(tmp_path, name):
    file_name, end = NAMES[name]
    with atomic_path(tmp_path / file_name) as temporary:
        assert temporary.name.endswith(end)
        temporary.write_text("x")
    assert names(tmp_path) == [file_name]


def test_file_and_folder_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    write_text(tmp_path / "a.txt", "x")
    expected = [(tmp_path / "a.txt").stat().st_ino]
    assert synced == expected + ([tmp_path.stat().st_ino] if os.name == "posix" else [])


def test_elsewhere_folders_are_not_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "name", "nt")
    monkeypatch.setattr(atomic.os, "open", None)
    atomic._sync_folder(tmp_path)


def test_an_error_without_a_number_names_the_file_too(tmp_path):
    """So numpy tells of a full disk."""
    with pytest.raises(OSError, match=r"24576 requested and 4096 written") as caught, atomic_path(tmp_path / "a.tiff"):
        raise OSError("24576 requested and 4096 written")
    assert (caught.value.filename, names(tmp_path)) == (str(tmp_path / "a.tiff"), [])


def test_an_error_of_the_system_names_the_file_that_the_user_knows(tmp_path):
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.nii.gz"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []
