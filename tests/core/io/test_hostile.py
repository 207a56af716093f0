"""Folders and headers made to hurt: one clear line each, in bounded time, and nothing is lost in silence."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from inspection_core.convert import convert
from inspection_core.errors import ReadError
from inspection_core.io.dicom import read_dicom, scan_dicom
from inspection_core.io.dicom.discover import find_files
from inspection_core.io.dicom.frames import without_names
from inspection_core.io.dicom.series import _groups
from inspection_core.scan import scan

WRONG = {
    "rows and columns of 65535": ({"Rows": 65535, "Columns": 65535}, "it is truncated"),
    "no rows": ({"Rows": 0}, "its size makes no sense"),
    "a hundred thousand frames": ({"NumberOfFrames": 99_999}, "it is truncated"),
    "frames below zero": ({"NumberOfFrames": -3}, "its size makes no sense"),
    "24 bits": ({"BitsAllocated": 24}, "allocates 24 bits"),
    "more bits stored than allocated": ({"BitsStored": 60_000}, "stores 60000 bits a pixel where it allocates 16"),
    "spacing of 0": ({"PixelSpacing": [0, 0]}, "no usable PixelSpacing"),
    "spacing below 0": ({"PixelSpacing": [-0.5, 0.8]}, "no usable PixelSpacing"),
    "directions of no length": ({"ImageOrientationPatient": [0] * 6}, "no usable orientation"),
    "directions at no right angle": ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "no usable orientation"),
}


# One picture alone needs no place, so spacing and directions matter for several only.
@pytest.mark.parametrize(
    ("case", "slices"),
    [(case, n) for case, (_, words) in WRONG.items() for n in (1, 4) if n == 4 or "usable" not in words],
)
def test_headers_that_make_no_sense_are_refused_once(dicom, tmp_path, case, slices):
    tags, words = WRONG[case]
    dicom.write_series(tmp_path, dicom.numbered((slices, 8, 9)), **tags)
    (series,) = scan_dicom(tmp_path).series
    assert len(series.volumes) <= slices
    assert series.verdict.count(words) == 1
    assert series.summary()["files"] == slices
    with pytest.raises(ReadError, match=words):
        read_dicom(tmp_path)


def test_a_mosaic_of_four_thousand_million_slices(dicom, tmp_path):
    ds = dicom.slice_dataset(dicom.numbered((32, 32)), (0, 0, 0), Modality="MR")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "UL", 4_000_000_000)
    block.add_new(0x0D, "FD", [0.0, 0.0, 1.0])
    dicom.save(ds, tmp_path / "a.dcm")
    start = time.process_time()
    with pytest.raises(ReadError, match="more slices than pixels"):
        read_dicom(tmp_path)
    assert time.process_time() - start < 5


def test_thickness_below_zero_turns_nothing_round(dicom, tmp_path):
    dicom.write_series(tmp_path, dicom.numbered((1, 8, 9)), SliceThickness=-2.5)
    assert scan_dicom(tmp_path).series[0].volumes[0].summary()["orientation"] == "LPS"


def test_a_slope_of_zero_is_told(dicom, tmp_path):
    dicom.write_series(tmp_path, dicom.numbered(), RescaleSlope=0, RescaleIntercept=5)
    assert any("RescaleSlope is 0 in 6 of 6 slices" in note for note in read_dicom(tmp_path).image.notes)


def test_thousands_of_directions_take_seconds(dicom, tmp_path):
    """Comparing each with each would take minutes."""
    dicom.write_series(tmp_path, dicom.numbered((1, 3, 4)))
    frame = scan_dicom(tmp_path).series[0].volumes[0].first
    turns = np.random.default_rng(0).normal(size=(4000, 3))
    frames = [_turned(frame, tuple(map(float, t / np.linalg.norm(t)))) for t in turns]
    start = time.process_time()
    assert len(_groups([*frames, *frames])) > 3500
    assert time.process_time() - start < 10


def _turned(frame, along_row):
    return replace(frame, along_row=along_row)


# Folders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["header", "cannot be opened", "dangling link", "no size"])
def test_a_file_lost_at_the_end_of_a_stack_is_told(dicom, tmp_path, harm, monkeypatch):
    """No gap gives it away, so the volume would be shorter in silence."""
    dicom.write_series(tmp_path / "a", dicom.numbered(), names=lambda k: f"{k}.dcm")
    last = tmp_path / "a" / "5.dcm"
    if harm == "header":
        data = bytearray(last.read_bytes())
        data[140:400] = b"\xff" * 260
        last.write_bytes(data)
    elif harm == "no size":
        ds = pydicom.dcmread(last)
        del ds.Rows
        ds.save_as(last)
    elif harm == "dangling link":
        last.unlink()
        last.symlink_to(tmp_path / "gone")
    else:
        real = Path.open

        def shut(self, *args, **kwargs):
            if self.name == "5.dcm":
                raise PermissionError(13, "no", str(self))
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", shut)
    done = convert(tmp_path / "a", tmp_path / "out.nii.gz")
    assert any("one file beside it cannot be read, so slices may be lacking (5.dcm" in note for _, note in done.notes)


def test_a_folder_that_cannot_be_entered_is_told(dicom, tmp_path, monkeypatch):
    dicom.write_series(tmp_path / "a", dicom.numbered())
    (tmp_path / "a" / "more").mkdir()
    real = os.scandir

    def shut(path="."):
        if str(path).endswith("more"):
            raise PermissionError(13, "no", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", shut)
    inventory = scan_dicom(tmp_path)
    assert [Path(path).name for path, _ in inventory.refused] == ["more"]
    assert "slices may be lacking" in inventory.series[0].volumes[0].notes[-1]


def test_links_in_a_circle(dicom, tmp_path):
    dicom.write_series(tmp_path / "a", dicom.numbered())
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert len(find_files(tmp_path)) == 7
    assert read_dicom(tmp_path).image.geometry.shape[0] == 6


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="neither a file nor a folder"):
        scan(tmp_path / "pipe")
    assert scan(tmp_path).lines() == []


def test_names_that_are_commands_for_a_terminal(dicom, tmp_path):
    odd = "a\x1b[2J\n\u202eb.dcm"
    dicom.write_series(tmp_path, dicom.numbered((1, 3, 4)), Rows=0, names=lambda _: odd)
    (tmp_path / f"{odd}.nii").write_bytes(b"no")
    (tmp_path / f"{odd}.txt").write_bytes(b"no")
    lines = scan(tmp_path).lines()
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J" in line for line in lines)
    with pytest.raises(ReadError) as caught:
        convert(tmp_path, tmp_path / "out.nii")
    assert str(caught.value).isprintable()


def test_scans_with_brackets_and_stars_in_their_names_are_listed(oblique_image, tmp_path):
    from inspection_core.io.nifti import write_nifti

    for place in ("x", "y"):
        write_nifti(tmp_path / place / "a[1]*.nii", oblique_image)
    report = scan(tmp_path)
    assert [Path(s["file"]).parent.name for s in report.series] == ["x", "y"]
    assert report.others == ()


def test_names_of_two_letters_are_taken_out_where_they_are_words():
    ds = pydicom.Dataset()
    ds.PatientName, ds.PatientID = "Wu^Li", generate_uid()
    assert without_names("Li wu: liver, T2 Lift", ds) == "*** ***: liver, T2 Lift"
