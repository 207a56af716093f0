"""What a DICOM SEG says, and SEGs of other tools. Where its segments lie: `test_exports.py`."""

import json
import subprocess
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_regions import LESION, NEOPLASM, type_of
from inspection_core.io.dicom_seg import read_seg, write_seg
from inspection_core.io.volumes import read_volume, write_volume


@pytest.fixture(params=["axial", "oblique", "tilted"])
def case(request, exports, tmp_path):
    """A series with two balls, and what was predicted on it."""
    loaded, _ = exports.two_balls(request.param, tmp_path)
    return loaded, exports.predicted(loaded), tmp_path


def test_what_a_segment_says(case):
    loaded, prediction, folder = case
    write_seg(folder / "seg.dcm", loaded, prediction, site="brain")
    seg = hd.seg.segread(folder / "seg.dcm")
    segment = seg.get_segment_description(1)
    assert segment.segmented_property_category.meaning == "Morphologically Abnormal Structure"
    assert segment.segmented_property_type.value == NEOPLASM.value
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert segment.algorithm_type.value == "AUTOMATIC"
    assert "ab" * 32 in str(segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)
    assert "Research use only" in seg.SeriesDescription
    source = pydicom.dcmread(next((folder / "series").iterdir()))
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    referenced = {str(r.ReferencedSOPInstanceUID) for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced <= {str(pydicom.dcmread(p).SOPInstanceUID) for p in (folder / "series").iterdir()}


def test_edited_by_a_person_is_semiautomatic(case):
    loaded, prediction, folder = case
    mask = ndimage.binary_dilation(prediction.mask, iterations=1).astype(np.uint8)
    write_seg(folder / "seg.dcm", loaded, prediction, mask=mask, edited=True)
    assert hd.seg.segread(folder / "seg.dcm").get_segment_description(1).algorithm_type.value == "SEMIAUTOMATIC"


def test_one_segment_a_class(case):
    loaded, prediction, folder = case
    (region,) = write_seg(folder / "seg.dcm", loaded, prediction, by="class")
    assert region.label == "tumour"


def test_tracking_stays_the_same_for_the_same_finding(case):
    loaded, prediction, folder = case
    a = write_seg(folder / "a.dcm", loaded, prediction)
    b = write_seg(folder / "b.dcm", loaded, prediction)
    assert [r.tracking_uid for r in a] == [r.tracking_uid for r in b]
    assert len({r.tracking_uid for r in a}) == 2


def test_an_unknown_label_is_a_lesion_never_an_organ():
    assert type_of("anomaly") == LESION
    assert type_of("Whole_Tumour") == NEOPLASM


def test_scores_that_are_no_probability_give_the_findings_confidence(case, exports):
    loaded, prediction, folder = case
    large, small = prediction.findings
    findings = (replace(large, confidence=0.75), replace(small, confidence=0.5))
    prediction = exports.predicted(loaded, score=(loaded.image.array[0] / 10).astype(np.float32), findings=findings)
    write_seg(folder / "seg.dcm", loaded, prediction, kind="FRACTIONAL")
    back = read_seg(folder / "seg.dcm", loaded)
    assert back.array.max(axis=(1, 2, 3)).tolist() == pytest.approx([0.75, 0.5], abs=0.003)


@pytest.mark.parametrize("by", ["finding", "class"])
def test_fractions_are_the_score(exports, tmp_path, by):
    loaded, _ = exports.two_balls("oblique", tmp_path)
    ramp = np.linspace(0.5, 1, loaded.image.array[0].size, dtype=np.float32).reshape(loaded.image.geometry.shape)
    prediction = exports.predicted(loaded, score=ramp)
    write_seg(tmp_path / "seg.dcm", loaded, prediction, kind="FRACTIONAL", by=by)
    expected = np.where(prediction.mask > 0, ramp, 0)
    np.testing.assert_allclose(
        read_seg(tmp_path / "seg.dcm", loaded).array.max(axis=0), expected, atol=0.5 / 255 + 1e-6
    )


class TestRefused:
    def test_no_finding(self, dicom, exports, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, np.zeros((4, 8, 8), np.int16)))
        with pytest.raises(UsageError, match="There is no finding"):
            write_seg(tmp_path / "seg.dcm", loaded, exports.predicted(loaded))

    def test_another_grid(self, case, exports):
        loaded, _, folder = case
        shifted = loaded.image.geometry.cropped((1, 0, 0), loaded.image.geometry.shape)
        with pytest.raises(GeometryError, match="another grid"):
            write_seg(folder / "seg.dcm", loaded, exports.predicted(loaded, geometry=shifted))

    def test_no_place_in_the_patient(self, dicom, exports, tmp_path):
        dicom.save(
            dicom.slice_dataset(np.eye(20, dtype=np.uint16) * 1000, (0, 0, 0), Modality="DX"), tmp_path / "a.dcm"
        )
        loaded = read_dicom(tmp_path / "a.dcm")
        with pytest.raises(UsageError, match=r"A SEG needs images with a place in the patient .* write NIfTI or PNG"):
            write_seg(tmp_path / "seg.dcm", loaded, exports.predicted(loaded))

    def test_no_seg(self, tmp_path):
        (tmp_path / "a.dcm").write_text("hello")
        with pytest.raises(ReadError, match="no DICOM SEG"):
            read_seg(tmp_path / "a.dcm")


@pytest.mark.data
def test_segs_of_other_tools(medical_data):
    """Every shared SEG reads with the segments and the foreground that its notes count."""
    folder = medical_data / "dicom" / "rt_seg"
    expected = json.loads((folder / "expected.json").read_text())
    seen = 0
    for name, facts in expected.items():
        path = folder / name
        if facts["modality"] != "SEG" or not path.exists():
            continue
        image = read_seg(path)
        labels = [v for k, v in facts["segments"].items() if k != "0"]
        assert [c.split(" (")[0] for c in image.channels] == labels, name
        if facts["type"] != "LABELMAP":
            assert int((image.array > 0).sum()) == facts["foreground_px"], name
        seen += 1
    assert seen >= 8


SHARED = {
    "23 x 38": ("23x38x3/seg/label.seg", "23x38x3/image", "23x38x3/nrrd/label.nrrd"),
    "24 x 38": ("24x38x3/seg/label.seg", "24x38x3/image", "24x38x3/nrrd/label.nrrd"),
    "liver": ("liver.dcm", "ct-3slice", "liver_seg.nrrd"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SHARED)
def test_a_seg_of_dcmqi_lies_where_its_truth_does(medical_data, exports, name):
    folder = medical_data / "dicom" / "rt_seg" / "dcmqi_ct3slice_and_bitpacking"
    seg, series, truth = (folder / part for part in SHARED[name])
    source = read_dicom(series)
    drawn, known = read_seg(seg, source), read_volume(truth)
    assert drawn.geometry.is_close(source.image.geometry)
    assert int(drawn.array.sum()) == int((known.array > 0).sum())
    np.testing.assert_allclose(exports.centroid(drawn, 0), exports.centroid(known, 0), atol=0.01)


def test_a_seg_made_by_dcmqi_is_read(exports, tmp_path):
    """Labels and series go through itkimage2segimage, and come back onto the series as they were."""
    loaded, _ = exports.two_balls("oblique", tmp_path)
    prediction = exports.predicted(loaded)
    write_volume(tmp_path / "label.nrrd", Image(prediction.mask[None], prediction.geometry, ("label",)))
    code = {"CodeValue": "108369006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Neoplasm"}
    category = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Abnormal"}
    attributes = {
        "labelID": 1, "SegmentDescription": "both", "SegmentLabel": "both", "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": category, "SegmentedPropertyTypeCodeSequence": code,
    }  # fmt: skip
    about = {"ContentCreatorName": "A^B", "SeriesDescription": "of dcmqi", "SeriesNumber": "300", "InstanceNumber": "1"}
    (tmp_path / "meta.json").write_text(json.dumps(about | {"segmentAttributes": [[attributes]]}))
    command = [
        exports.tool("itkimage2segimage"), "--inputImageList", tmp_path / "label.nrrd", "--inputMetadata",
        tmp_path / "meta.json", "--inputDICOMDirectory", tmp_path / "series", "--outputDICOM", tmp_path / "seg.dcm",
    ]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    back = read_seg(tmp_path / "seg.dcm", loaded)
    assert back.channels == ("both",)
    np.testing.assert_array_equal(back.array[0], prediction.mask)
