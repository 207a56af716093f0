"""The figures of a finding as a TID 1500 report. What other tools read in it: `test_exports_tools.py`."""

import pydicom
import pytest

from inspection_core.errors import ReadError, UsageError
from inspection_core.findings import find_labelled
from inspection_core.io.dicom_regions import regions_of
from inspection_core.io.dicom_seg import write_seg
from inspection_core.io.dicom_sr import write_sr


@pytest.fixture
def case(exports, tmp_path):
    loaded, _ = exports.two_balls("axial", tmp_path)
    prediction = exports.predicted(loaded)
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


def test_figures_of_what_a_person_changed_are_never_those_of_the_model(case):
    loaded, prediction, _, folder = case
    mask = prediction.mask.copy()
    a = prediction.findings[0]
    mask[a.start[0] : a.stop[0], a.start[1] : a.stop[1], a.start[2] : a.stop[2]] = 1
    with pytest.raises(UsageError, match="1 of 2 regions were painted or changed"):
        write_sr(folder / "sr.dcm", loaded, prediction, mask=mask)
    _, findings = find_labelled(mask, prediction.score, prediction.geometry, ["tumour"])
    reported = write_sr(folder / "sr.dcm", loaded, prediction, mask=mask, findings=findings, edited=True)
    before = regions_of(loaded, prediction)[1]
    assert {r.tracking_uid for r in reported} == {r.tracking_uid for r in before}
    volumes = {r.tracking_uid: r.finding.size for r in reported}
    assert volumes[before[0].tracking_uid] > a.size
    assert volumes[before[1].tracking_uid] == prediction.findings[1].size
    sr = pydicom.dcmread(folder / "sr.dcm")
    assert f"{volumes[before[0].tracking_uid]:.6g}" in str(sr)
    assert "outlines edited by a person" in [e.value for e in sr.iterall() if e.keyword == "TextValue"]


def test_refused(case):
    loaded, prediction, regions, folder = case
    with pytest.raises(UsageError, match="names both its reviewer and the organization"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, reviewer="Reader^Rita")
    with pytest.raises(UsageError, match="no measured finding"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", [])
    with pytest.raises(UsageError, match="both its path and the regions"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm")
    (folder / "bad.dcm").write_text("hello")
    with pytest.raises(ReadError, match="is no DICOM SEG"):
        write_sr(folder / "sr.dcm", loaded, prediction, folder / "bad.dcm", regions)
