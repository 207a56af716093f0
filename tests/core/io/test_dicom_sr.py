"""The figures of a finding as a TID 1500 report, read back by tools that others wrote."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pydicom
import pytest

from inspection_core.errors import ReadError, UsageError
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_seg import write_seg
from inspection_core.io.dicom_sr import write_sr

_spec = importlib.util.spec_from_file_location("seg_tests", Path(__file__).with_name("test_dicom_seg.py"))
seg_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(seg_tests)


@pytest.fixture
def case(dicom, tmp_path):
    affine = dicom.series_affine()
    array = dicom.blob_at(affine, (12, 40, 36), affine[:3, :3] @ [5, 20, 18] + affine[:3, 3], 4.2)
    dicom.write_series(tmp_path / "series", array)
    loaded = read_dicom(tmp_path / "series")
    prediction = seg_tests.predicted(loaded)
    regions = write_seg(tmp_path / "seg.dcm", loaded, prediction)
    return loaded, prediction, regions, tmp_path


def test_figures_and_state(case):
    loaded, prediction, regions, folder = case
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, site="brain")
    sr = pydicom.dcmread(folder / "sr.dcm")
    assert sr.VerificationFlag == "UNVERIFIED"
    assert "Research use only" in sr.SeriesDescription
    text = str(sr)
    finding = prediction.findings[0]
    for figure in (finding.size, finding.long_axis, finding.short_axis):
        assert f"{figure:.6g}"[:6] in text
    assert regions[0].tracking_uid in text


def test_verified_once_a_named_reviewer_signs(case):
    loaded, prediction, regions, folder = case
    names = {"reviewer": "Reader^Rita", "organization": "A hospital"}
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, **names)
    sr = pydicom.dcmread(folder / "sr.dcm")
    assert sr.VerificationFlag == "VERIFIED"
    assert sr.VerifyingObserverSequence[0].VerifyingObserverName == "Reader^Rita"


def test_dciodvfy_finds_no_error(case):
    loaded, prediction, regions, folder = case
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, site="brain")
    command = [seg_tests.tool("dciodvfy"), "-new", str(folder / "sr.dcm")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []


def test_dcmqi_reads_the_measurements(case):
    loaded, prediction, regions, folder = case
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions)
    command = [
        seg_tests.tool("tid1500reader"),
        "--inputDICOM",
        folder / "sr.dcm",
        "--outputMetadata",
        folder / "sr.json",
    ]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    (group,) = json.loads((folder / "sr.json").read_text())["Measurements"]
    values = {i["quantity"]["CodeMeaning"]: float(i["value"]) for i in group["measurementItems"]}
    assert values["Volume"] == pytest.approx(prediction.findings[0].size, rel=1e-6)
    assert values["Long Axis"] == pytest.approx(prediction.findings[0].long_axis, rel=1e-6)
    assert group["TrackingUniqueIdentifier"] == regions[0].tracking_uid


def test_dcmtk_reads_it(case):
    loaded, prediction, regions, folder = case
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions)
    said = subprocess.run(
        [seg_tests.tool("dsrdump"), str(folder / "sr.dcm")], capture_output=True, text=True, check=True
    )
    assert "Long Axis" in said.stdout


def test_refused(case):
    loaded, prediction, regions, folder = case
    with pytest.raises(UsageError, match="names both its reviewer and the organization"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, reviewer="Reader^Rita")
    with pytest.raises(UsageError, match="no measured finding"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", [])
    (folder / "bad.dcm").write_text("hello")
    with pytest.raises(ReadError, match="is no DICOM SEG"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "bad.dcm", regions)
