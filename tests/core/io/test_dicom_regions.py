"""What all derived DICOM objects share: which region is which finding, and what is copied from the source."""

import logging
import warnings

import numpy as np
import pydicom
import pytest

from inspection_core.errors import GeometryError
from inspection_core.findings import find_labelled
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_regions import corrected, regions_of
from inspection_core.io.dicom_seg import write_seg
from inspection_core.io.dicom_sr import write_sr
from inspection_core.io.rtstruct import write_rtstruct
from inspection_core.io.secondary_capture import write_secondary_capture
from inspection_core.review import Review


@pytest.fixture
def case(exports, tmp_path):
    loaded, _ = exports.two_balls("axial", tmp_path)
    return loaded, exports.predicted(loaded)


def box(finding):
    return tuple(slice(a, b) for a, b in zip(finding.start, finding.stop, strict=True))


class TestAfterAnEdit:
    def test_what_was_not_touched_keeps_its_finding(self, case):
        loaded, prediction = case
        mask = prediction.mask.copy()
        mask[box(prediction.findings[1])] = 1
        before, after = regions_of(loaded, prediction)[1], regions_of(loaded, prediction, mask)[1]
        assert after[0] == before[0]
        assert after[1].finding is None
        assert after[1].tracking_uid == before[1].tracking_uid

    def test_a_new_region_is_no_finding(self, case):
        loaded, prediction = case
        mask = prediction.mask.copy()
        mask[0, :3, :3] = 1
        labels, regions = regions_of(loaded, prediction, mask)
        assert [r.finding is None for r in regions] == [True, False, False]
        assert len({r.tracking_uid for r in regions}) == 3
        assert (labels[0, :3, :3] == 1).all()

    def test_cut_in_two(self, case):
        """One of the parts goes on as the finding, the other is new; neither has the whole's figures."""
        loaded, prediction = case
        mask = prediction.mask.copy()
        mask[prediction.findings[0].start[0] + 1] = 0
        before, after = regions_of(loaded, prediction)[1], regions_of(loaded, prediction, mask)[1]
        assert len(after) == 3
        assert [r.finding for r in after[:2]] == [None, None]
        assert sum(r.tracking_uid == before[0].tracking_uid for r in after) == 1

    def test_measured_again(self, case):
        loaded, prediction = case
        mask = prediction.mask.copy()
        mask[box(prediction.findings[0])] = 1
        _, findings = find_labelled(mask, prediction.score, prediction.geometry, ["tumour"])
        regions = regions_of(loaded, prediction, mask, findings=findings)[1]
        assert {r.finding for r in regions} == set(findings)

    def test_a_corrected_review(self, case):
        _, prediction = case
        review = Review(prediction)
        assert corrected(review)[1] is False
        review.add(review.judge("accept", "reader", [1]))
        assert corrected(review)[1] is False
        review.add(review.change("paint", "reader", (0, 0, 0), np.ones((1, 2, 2), np.uint16)))
        mask, edited = corrected(review)
        assert edited is True
        assert mask[0, :2, :2].all()
        review.undo("reader")
        assert corrected(review)[1] is False


def test_two_classes_that_touch_are_two_regions(case, exports):
    loaded, _ = case
    mask = np.zeros(loaded.image.geometry.shape, np.uint8)
    mask[3:6, 5:10, 5:10] = 1
    mask[3:6, 10:15, 5:10] = 2
    score = (mask > 0).astype(np.float32)
    mask, findings = find_labelled(mask, score, loaded.image.geometry, ["oedema", "tumour"])
    prediction = exports.predicted(loaded, mask=mask, score=score, findings=findings)
    labels, regions = regions_of(loaded, prediction)
    assert [r.label for r in regions] == ["oedema", "tumour"]
    assert all(r.finding is not None for r in regions)
    np.testing.assert_array_equal(labels, mask)
    assert [r.label for r in regions_of(loaded, prediction, by="class", classes=["a", "b"])[1]] == ["a", "b"]


def test_a_mask_of_another_shape(case):
    loaded, prediction = case
    with pytest.raises(GeometryError, match=r"grid of \(12, 40, 36\). Got \(2, 2, 2\)"):
        regions_of(loaded, prediction, np.zeros((2, 2, 2), np.uint8))


ODD = {
    "nothing missing": {},
    "invalid entries": {"PatientSex": "secret", "PatientBirthDate": "31. May", "StudyTime": "noon"},
    "nothing there": dict.fromkeys(["PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyID",
                                    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
                                    "SliceThickness"]),
    "a name that is none": {"PatientName": "Sally Secret the Second=="},
    "another alphabet": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "김희중^철수"},
    "an older code for it": {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": "Gim^Cheolsu=김희중^철수"},
    "de-identified, no method": {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_the_patient_is_copied_into_the_object_and_told_nowhere_else(exports, dicom, tmp_path, name, caplog, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says that what this test writes is odd
        exports.two_balls("oblique", tmp_path)
        for path in (tmp_path / "series").iterdir():
            header = pydicom.dcmread(path)
            for keyword, value in ODD[name].items():
                delattr(header, keyword) if value is None else setattr(header, keyword, value)
            dicom.save(header, path)
    caplog.clear()
    loaded = read_dicom(tmp_path / "series")
    prediction = exports.predicted(loaded)
    with caplog.at_level(logging.DEBUG):
        write_seg(tmp_path / "seg.dcm", loaded, prediction)
        write_rtstruct(tmp_path / "rt.dcm", loaded, prediction)
        write_sr(tmp_path / "sr.dcm", loaded, prediction)
        write_secondary_capture(tmp_path / "sc", loaded, prediction)
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    for path in (tmp_path / n for n in ("seg.dcm", "rt.dcm", "sr.dcm", "sc/sc_0001.dcm")):
        written = pydicom.dcmread(path)
        assert str(written.PatientName) == str(source.get("PatientName", "")), path.name
        assert written.PatientID == source.get("PatientID", ""), path.name
        assert written.StudyInstanceUID == source.StudyInstanceUID
    told = caplog.text + "".join(capfd.readouterr()) + " ".join(str(p) for p in tmp_path.rglob("*"))
    for word in ("Secret", "Sally", "PID-424242", "secret", "noon", "19700101", "김희중", source.SOPInstanceUID):
        assert word not in told


def test_labels_of_any_alphabet(exports, tmp_path):
    loaded, _ = exports.two_balls("axial", tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    prediction = exports.predicted(loaded, label="浮腫")
    write_seg(tmp_path / "seg.dcm", loaded, prediction)
    write_rtstruct(tmp_path / "rt.dcm", loaded, prediction)
    write_sr(tmp_path / "sr.dcm", loaded, prediction)
    seg, rt, sr = (pydicom.dcmread(tmp_path / n) for n in ("seg.dcm", "rt.dcm", "sr.dcm"))
    assert {str(d.PatientName) for d in (seg, rt, sr)} == {"Müller^Jörg"}
    assert seg.SegmentSequence[0].SegmentLabel == "浮腫 1"
    assert rt.StructureSetROISequence[0].ROIName == "浮腫 1"
    assert "浮腫 1" in [e.value for e in sr.iterall() if e.keyword == "TextValue"]
