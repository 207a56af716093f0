"""What an RT Structure Set says, islands and holes, structure sets of other tools, and what is refused."""

import json
import subprocess

import numpy as np
import pydicom
import pytest

from inspection_core.errors import GeometryError, InspectionError, ReadError, UsageError
from inspection_core.findings import find_labelled
from inspection_core.io.dicom import read_dicom
from inspection_core.io.nifti import read_nifti
from inspection_core.io.rtstruct import read_rtstruct, write_rtstruct


@pytest.fixture
def case(exports, tmp_path):
    loaded, _ = exports.two_balls("oblique", tmp_path)
    return loaded, exports.predicted(loaded), tmp_path


def hollow(exports, loaded):
    """A prediction of a block with two holes, one of which holds an island, and of a second class beside it."""
    mask = np.zeros(loaded.image.geometry.shape, np.uint8)
    mask[3:8, 5:25, 5:25] = 1
    mask[3:8, 8:12, 8:12] = 0
    mask[3:8, 14:22, 14:22] = 0
    mask[3:8, 17:19, 17:19] = 1
    mask[3:8, 28:33, 5:25] = 2
    score = (mask > 0).astype(np.float32)
    mask, findings = find_labelled(mask, score, loaded.image.geometry, ["tumour", "oedema"])
    return exports.predicted(loaded, mask=mask, score=score, findings=findings)


def test_what_it_says(case):
    loaded, prediction, folder = case
    regions = write_rtstruct(folder / "rt.dcm", loaded, prediction)
    rt = pydicom.dcmread(folder / "rt.dcm")
    source = pydicom.dcmread(next((folder / "series").iterdir()))
    assert rt.Modality == "RTSTRUCT"
    assert rt.ApprovalStatus == "UNAPPROVED"
    assert rt.StructureSetName == "Research use only, not for diagnosis."
    assert [r.ROIName for r in rt.StructureSetROISequence] == ["tumour 1", "tumour 2"]
    assert {r.ROIGenerationAlgorithm for r in rt.StructureSetROISequence} == {"AUTOMATIC"}
    assert regions[0].tracking_uid in rt.StructureSetROISequence[0].ROIDescription
    assert {r.RTROIInterpretedType for r in rt.RTROIObservationsSequence} == {""}
    assert rt.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeMeaning == "Neoplasm"
    assert len({tuple(c.ROIDisplayColor) for c in rt.ROIContourSequence}) == 2
    assert float(rt.StructureSetROISequence[0].ROIVolume) * 1000 == pytest.approx(prediction.findings[0].size)
    assert rt.StudyInstanceUID == source.StudyInstanceUID
    assert rt.PatientID == source.PatientID
    frame_of_reference = rt.ReferencedFrameOfReferenceSequence[0]
    assert frame_of_reference.FrameOfReferenceUID == source.FrameOfReferenceUID
    series = frame_of_reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(series.ContourImageSequence) == 12


def test_each_contour_lies_on_the_image_that_it_names(case):
    loaded, prediction, folder = case
    write_rtstruct(folder / "rt.dcm", loaded, prediction)
    position = {h.SOPInstanceUID: h.ImagePositionPatient for h in map(pydicom.dcmread, (folder / "series").iterdir())}
    normal = loaded.volume.first.normal
    for drawn in pydicom.dcmread(folder / "rt.dcm").ROIContourSequence:
        for contour in drawn.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            corner = np.array(position[contour.ContourImageSequence[0].ReferencedSOPInstanceUID], float)
            np.testing.assert_allclose((points - corner) @ normal, 0, atol=2e-4)


def test_edited_by_a_person_and_a_named_type(case):
    loaded, prediction, folder = case
    write_rtstruct(folder / "rt.dcm", loaded, prediction, edited=True, interpreted_type="GTV")
    rt = pydicom.dcmread(folder / "rt.dcm")
    assert {r.ROIGenerationAlgorithm for r in rt.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    assert {r.RTROIInterpretedType for r in rt.RTROIObservationsSequence} == {"GTV"}


def test_holes_and_islands(case, exports):
    loaded, _, folder = case
    prediction = hollow(exports, loaded)
    write_rtstruct(folder / "rt.dcm", loaded, prediction, by="class")
    rt = pydicom.dcmread(folder / "rt.dcm")
    assert [len(c.ContourSequence) for c in rt.ROIContourSequence] == [10, 5]  # block and island on five slices
    back = read_rtstruct(folder / "rt.dcm", loaded)
    assert back.channels == ("tumour", "oedema")
    for value in (1, 2):
        np.testing.assert_array_equal(back.array[value - 1], prediction.mask == value)


def test_plastimatch_fills_the_same_voxels(case, exports):
    """Plastimatch reads the contours with code of its own: holes stay holes, islands islands, all in their place."""
    loaded, _, folder = case
    prediction = hollow(exports, loaded)
    write_rtstruct(folder / "rt.dcm", loaded, prediction, by="class")
    command = [
        exports.tool("plastimatch"), "convert", "--input", folder / "rt.dcm", "--referenced-ct", folder / "series",
        "--output-prefix", folder / "out", "--prefix-format", "nii.gz",
    ]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    for value, name in ((1, "tumour"), (2, "oedema")):
        theirs = read_nifti(folder / "out" / f"{name}.nii.gz", assume_mm=True)
        ours = prediction.geometry.index_to_world(np.argwhere(prediction.mask == value))
        np.testing.assert_allclose(exports.centroid(theirs, 0), ours.mean(axis=0), atol=0.2)
        assert abs(int((theirs.array > 0).sum()) / len(ours) - 1) < 0.03


def test_a_structure_set_of_plastimatch_is_read(case, exports):
    loaded, prediction, folder = case
    exports.tool("plastimatch")
    write_rtstruct(folder / "rt.dcm", loaded, prediction)
    command = [
        "plastimatch", "convert", "--input", folder / "rt.dcm", "--referenced-ct", folder / "series",
        "--output-dicom", folder / "theirs",
    ]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    (path,) = (p for p in (folder / "theirs").iterdir() if pydicom.dcmread(p).Modality == "RTSTRUCT")
    back = read_rtstruct(path, loaded)
    np.testing.assert_array_equal(back.array.any(axis=0), prediction.mask > 0)


@pytest.mark.data
def test_the_shared_structure_set_gives_its_published_mask(medical_data, exports):
    folder = medical_data / "dicom" / "rt_seg" / "sts001_PET_rtstruct"
    drawn = read_rtstruct(folder / "mask" / "RS.dcm", read_dicom(folder / "image"))
    known = read_nifti(folder / "nifti" / "PET_mask.nii.gz")
    facts = json.loads((medical_data / "dicom" / "rt_seg" / "expected.json").read_text())
    assert drawn.channels == tuple(facts["sts001_PET_rtstruct/mask/RS.dcm"]["rois"].values())
    both = np.logical_and(drawn.array[0], known.array[0]).sum()
    assert 2 * both / (drawn.array.sum() + known.array.sum()) == 1.0
    np.testing.assert_allclose(exports.centroid(drawn, 0), exports.centroid(known, 0), atol=0.01)


class TestRefused:
    @pytest.fixture
    def written(self, case):
        loaded, prediction, folder = case
        write_rtstruct(folder / "rt.dcm", loaded, prediction)
        return loaded, pydicom.dcmread(folder / "rt.dcm"), folder / "rt.dcm"

    def test_no_finding(self, dicom, exports, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, np.zeros((4, 8, 8), np.int16)))
        with pytest.raises(UsageError, match="There is no finding"):
            write_rtstruct(tmp_path / "rt.dcm", loaded, exports.predicted(loaded))

    def test_no_structure_set(self, case):
        loaded, _, folder = case
        (folder / "a.dcm").write_text("hello")
        with pytest.raises(ReadError, match=r"a\.dcm is no RT Structure Set"):
            read_rtstruct(folder / "a.dcm", loaded)
        with pytest.raises(ReadError, match="its modality is another"):
            read_rtstruct(next((folder / "series").iterdir()), loaded)

    def test_another_frame_of_reference(self, written):
        loaded, rt, path = written
        rt.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3.99"
        rt.save_as(path)
        with pytest.raises(GeometryError, match="another frame of reference"):
            read_rtstruct(path, loaded)

    def test_beside_the_slices(self, written):
        loaded, rt, path = written
        contour = rt.ROIContourSequence[0].ContourSequence[0]
        points = np.array(contour.ContourData, float).reshape(-1, 3) + 400 * loaded.volume.first.normal
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
        rt.save_as(path)
        with pytest.raises(GeometryError, match="mm from the nearest slice"):
            read_rtstruct(path, loaded)

    def test_across_the_slices(self, written):
        loaded, rt, path = written
        contour = rt.ROIContourSequence[0].ContourSequence[0]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        points[0] += 5 * loaded.volume.first.normal
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
        rt.save_as(path)
        with pytest.raises(GeometryError, match="contours across the slices"):
            read_rtstruct(path, loaded)

    def test_no_area(self, written):
        loaded, rt, path = written
        for drawn in rt.ROIContourSequence:
            for contour in drawn.ContourSequence:
                contour.ContourGeometricType = "POINT"
        rt.save_as(path)
        with pytest.raises(ReadError, match="no closed contour"):
            read_rtstruct(path, loaded)

    def test_points_that_are_no_numbers(self, written):
        loaded, rt, path = written
        rt.ROIContourSequence[0].ContourSequence[0].ContourData = ["1e999"] * 9
        rt.save_as(path)
        with pytest.raises(ReadError, match="points that are no numbers"):
            read_rtstruct(path, loaded)

    def test_damaged_bytes_give_a_region_or_one_clear_error(self, written):
        loaded, _, path = written
        whole = path.read_bytes()
        rng = np.random.default_rng(5)
        refused = []
        for _ in range(150):
            damaged = bytearray(whole[: rng.integers(200, len(whole))] if rng.random() < 0.3 else whole)
            for at in rng.integers(128, len(damaged), 8):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_rtstruct(path, loaded).geometry == loaded.image.geometry
            except InspectionError as error:
                refused.append(str(error))
        assert len(refused) > 20
        assert not [line for line in refused if "Sally" in line or "\n" in line]
