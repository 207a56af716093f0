"""A known blob goes out as DICOM SEG and comes back where it was, on every kind of grid; others' tools agree."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.findings import find
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_regions import LESION, NEOPLASM, type_of
from inspection_core.io.dicom_seg import read_seg, write_seg
from inspection_core.io.volumes import read_volume
from inspection_core.prediction import Prediction

GRIDS = {
    "axial": {},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "oblique": {"orientation": "TURNED"},
    "flipped": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "tilted": {"drift": (2.5 * np.tan(np.radians(14)), 0.0)},
}


def tool(name):
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def predicted(loaded, label="tumour", **changes):
    """A prediction that is right: the score is the picture itself."""
    score = (loaded.image.array[0] / 1000).astype(np.float32).clip(0, 1)
    mask, findings = find(score, 0.5, 0.6, loaded.image.geometry, label=label)
    given = {
        "geometry": loaded.image.geometry, "score": score, "mask": mask, "findings": findings, "image_score": 1.0,
        "p_value": None, "verdict": "NG", "threshold": 0.5, "model_id": "demo", "model_version": "1",
        "model_sha256": "ab" * 32, "device": "cpu",
    }  # fmt: skip
    return Prediction(**(given | changes))


@pytest.fixture(params=GRIDS)
def case(request, dicom, tmp_path):
    """A series with two balls at known world coordinates."""
    grid = {k: getattr(dicom, v) if isinstance(v, str) else v for k, v in GRIDS[request.param].items()}
    shape = (12, 40, 36)
    affine = dicom.series_affine(**grid)
    centres = [affine[:3, :3] @ i + affine[:3, 3] for i in ([4, 12, 11], [8, 28, 25])]
    array = dicom.blob_at(affine, shape, centres[0], 4.2) + dicom.blob_at(affine, shape, centres[1], 3.1)
    dicom.write_series(tmp_path / "series", array, **grid)
    return read_dicom(tmp_path / "series"), centres, tmp_path


def centroid(image, channel):
    index = np.argwhere(image.array[channel] > 0.4)
    return image.geometry.index_to_world(index).mean(axis=0)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_blobs_come_back_where_they_were(case, kind):
    loaded, centres, folder = case
    prediction = predicted(loaded)
    assert len(prediction.findings) == 2
    regions = write_seg(folder / "seg.dcm", loaded, prediction, kind=kind)
    assert [r.finding.id for r in regions if r.finding] == [1, 2] or {r.finding.id for r in regions} == {1, 2}
    back = read_seg(folder / "seg.dcm", loaded)
    assert back.geometry.is_close(loaded.image.geometry)
    found = sorted([centroid(back, 0), centroid(back, 1)], key=lambda c: np.linalg.norm(c - centres[0]))
    np.testing.assert_allclose(found, centres, atol=0.35)
    if not loaded.resampled:
        np.testing.assert_array_equal((back.array > 0.4).any(axis=0), prediction.mask > 0)
        alone = read_seg(folder / "seg.dcm")
        found = sorted([centroid(alone, 0), centroid(alone, 1)], key=lambda c: np.linalg.norm(c - centres[0]))
        np.testing.assert_allclose(found, centres, atol=0.35)


def test_what_a_segment_says(case):
    loaded, _, folder = case
    write_seg(folder / "seg.dcm", loaded, predicted(loaded), site="brain")
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


def test_dciodvfy_finds_no_error(case):
    loaded, _, folder = case
    write_seg(folder / "seg.dcm", loaded, predicted(loaded))
    said = subprocess.run(
        [tool("dciodvfy"), "-new", str(folder / "seg.dcm")], capture_output=True, text=True, check=False
    )
    errors = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
    assert errors == []


def test_dcmqi_reads_it_at_the_right_place(case):
    loaded, centres, folder = case
    # dcmqi stacks the frames of every SEG straight, so of a tilted series it wants the straight grid.
    write_seg(folder / "seg.dcm", loaded, predicted(loaded), grid="image")
    (folder / "out").mkdir()
    command = [
        tool("segimage2itkimage"),
        "--inputDICOM",
        folder / "seg.dcm",
        "--outputDirectory",
        folder / "out",
        "-t",
        "nrrd",
    ]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    images = [read_volume(p) for p in sorted((folder / "out").glob("*.nrrd"))]
    found = sorted((centroid(i, 0) for i in images), key=lambda c: np.linalg.norm(c - centres[0]))
    np.testing.assert_allclose(found, centres, atol=0.35)
    meta = json.loads(next((folder / "out").glob("*.json")).read_text())
    assert meta["segmentAttributes"][0][0]["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"] == "Neoplasm"


def test_dcmtk_reads_it(case):
    loaded, _, folder = case
    write_seg(folder / "seg.dcm", loaded, predicted(loaded))
    said = subprocess.run([tool("dcmdump"), "-q", str(folder / "seg.dcm")], capture_output=True, text=True, check=True)
    assert re.search(r"SegmentNumber\b", said.stdout)


def test_edited_by_a_person_is_semiautomatic(case):
    loaded, _, folder = case
    prediction = predicted(loaded)
    mask = ndimage.binary_dilation(prediction.mask, iterations=1).astype(np.uint8)
    write_seg(folder / "seg.dcm", loaded, prediction, mask=mask, edited=True)
    assert hd.seg.segread(folder / "seg.dcm").get_segment_description(1).algorithm_type.value == "SEMIAUTOMATIC"


def test_one_segment_a_class(case):
    loaded, _, folder = case
    (region,) = write_seg(folder / "seg.dcm", loaded, predicted(loaded), by="class")
    assert region.label == "tumour"


def test_tracking_stays_the_same_for_the_same_finding(case):
    loaded, _, folder = case
    a = write_seg(folder / "a.dcm", loaded, predicted(loaded))
    b = write_seg(folder / "b.dcm", loaded, predicted(loaded))
    assert [r.tracking_uid for r in a] == [r.tracking_uid for r in b]
    assert len({r.tracking_uid for r in a}) == 2


def test_an_unknown_label_is_a_lesion_never_an_organ():
    assert type_of("anomaly") == LESION
    assert type_of("Whole_Tumour") == NEOPLASM


def test_scores_that_are_no_probability_give_the_findings_confidence(case):
    loaded, _, folder = case
    prediction = predicted(loaded, score=(loaded.image.array[0] / 10).astype(np.float32))
    write_seg(folder / "seg.dcm", loaded, prediction, kind="FRACTIONAL")
    assert read_seg(folder / "seg.dcm", loaded).array.max() == pytest.approx(
        prediction.findings[0].confidence, abs=0.01
    )


class TestRefused:
    def test_no_finding(self, dicom, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, np.zeros((4, 8, 8), np.int16)))
        with pytest.raises(UsageError, match="There is no finding"):
            write_seg(tmp_path / "seg.dcm", loaded, predicted(loaded))

    def test_another_grid(self, case):
        loaded, _, folder = case
        shifted = loaded.image.geometry.cropped((1, 0, 0), loaded.image.geometry.shape)
        with pytest.raises(GeometryError, match="another grid"):
            write_seg(folder / "seg.dcm", loaded, predicted(loaded, geometry=shifted))

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
