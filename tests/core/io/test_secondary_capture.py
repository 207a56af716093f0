"""Pictures for viewers that show no SEG: every slice in its place, outlines that hide nothing, words one can read."""

import numpy as np
import pydicom
import pytest

from inspection_core.errors import UsageError
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_regions import COLOURS, Region
from inspection_core.io.secondary_capture import LEAST_WIDTH, draw, write_secondary_capture


@pytest.fixture
def case(exports, tmp_path):
    loaded, _ = exports.two_balls("oblique", tmp_path)
    return loaded, exports.predicted(loaded), tmp_path


def written(folder):
    return [pydicom.dcmread(p) for p in sorted(folder.iterdir())]


def test_what_it_says(case):
    loaded, prediction, folder = case
    write_secondary_capture(folder / "sc", loaded, prediction)
    pictures = written(folder / "sc")
    sources = {h.SOPInstanceUID: h for h in map(pydicom.dcmread, (folder / "series").iterdir())}
    assert len(pictures) == 12
    assert len({p.SeriesInstanceUID for p in pictures}) == 1
    assert [p.InstanceNumber for p in pictures] == list(range(1, 13))
    for picture in pictures:
        (reference,) = picture.SourceImageSequence
        source = sources.pop(reference.ReferencedSOPInstanceUID)
        assert picture.SeriesInstanceUID != source.SeriesInstanceUID
        assert picture.StudyInstanceUID == source.StudyInstanceUID
        assert picture.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert picture.ImageOrientationPatient == pytest.approx(source.ImageOrientationPatient)
        assert "Research use only, not for diagnosis" in picture.DerivationDescription
        assert "Research use only" in picture.SeriesDescription
        assert picture.BurnedInAnnotation == "NO"  # of the standard: no text that names patient and date
        assert picture.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert picture.PhotometricInterpretation == "RGB"


def test_text_that_the_source_holds_is_told_on(dicom, exports, tmp_path):
    loaded, _ = exports.two_balls("axial", tmp_path, BurnedInAnnotation="YES")
    write_secondary_capture(tmp_path / "sc", loaded, exports.predicted(loaded))
    assert {p.BurnedInAnnotation for p in written(tmp_path / "sc")} == {"YES"}
    dicom.save(dicom.slice_dataset(dicom.numbered((20, 24), np.uint16), (0, 0, 0), Modality="US"), tmp_path / "a.dcm")
    picture = read_dicom(tmp_path / "a.dcm")
    write_secondary_capture(tmp_path / "us", picture, exports.predicted(picture))
    assert "BurnedInAnnotation" not in written(tmp_path / "us")[0]  # not known, so not said


def test_a_picture_without_a_place_is_drawn_too(dicom, exports, tmp_path):
    array = np.zeros((40, 300), np.uint16)
    array[10:20, 30:60] = 1000
    header = dicom.slice_dataset(array, (0, 0, 0), Modality="DX", ImagePositionPatient=None, FrameOfReferenceUID=None)
    loaded = read_dicom(dicom.save(header, tmp_path / "a.dcm"))
    (region,) = write_secondary_capture(tmp_path / "sc", loaded, exports.predicted(loaded))
    (picture,) = written(tmp_path / "sc")
    assert "ImagePositionPatient" not in picture
    assert (picture.pixel_array == COLOURS[region.number - 1]).all(axis=-1).any()


def test_no_finding_is_said(dicom, exports, tmp_path):
    loaded = read_dicom(dicom.write_series(tmp_path / "series", np.zeros((3, 20, 24), np.int16)))
    assert write_secondary_capture(tmp_path / "sc", loaded, exports.predicted(loaded)) == ()
    assert len(written(tmp_path / "sc")) == 3


def test_written_again_leaves_one_series(case):
    loaded, prediction, folder = case
    (folder / "sc").mkdir()
    (folder / "sc" / "sc_0099.dcm").write_bytes(b"of a longer series")
    (folder / "sc" / "mine.txt").write_text("not ours")
    write_secondary_capture(folder / "sc", loaded, prediction)
    names = sorted(p.name for p in (folder / "sc").iterdir())
    assert names == ["mine.txt", *(f"sc_{k:04d}.dcm" for k in range(1, 13))]


def test_compressed_holds_the_same_pixels(case):
    loaded, prediction, folder = case
    write_secondary_capture(folder / "plain", loaded, prediction)
    write_secondary_capture(folder / "rle", loaded, prediction, compress=True)
    for plain, rle in zip(written(folder / "plain"), written(folder / "rle"), strict=True):
        assert rle.file_meta.TransferSyntaxUID.is_compressed
        np.testing.assert_array_equal(rle.pixel_array, plain.pixel_array)


class TestDraw:
    REGIONS = (Region(1, 1, "tumour", None, "1.2"), Region(2, 1, "oedema", None, "1.3"))

    @pytest.fixture
    def labels(self):
        labels = np.zeros((30, 40), np.uint8)
        labels[5:15, 5:15] = 1
        labels[5:15, 15:25] = 2
        return labels

    def test_nothing_of_the_picture_inside_a_region_or_away_from_it_is_hidden(self, labels, exports, case):
        grey = np.random.default_rng(0).integers(1, 250, (30, 40, 1), dtype=np.uint8).repeat(3, axis=2)
        drawn, zoom = draw(grey, labels, self.REGIONS, case[1], edited=False)
        large = grey.repeat(zoom, axis=0).repeat(zoom, axis=1)
        rows, columns = large.shape[:2]
        assert columns >= LEAST_WIDTH
        changed = (drawn[:rows] != large).any(axis=-1)
        inside = labels.repeat(zoom, axis=0).repeat(zoom, axis=1) > 0
        assert not changed[inside].any()
        assert changed[~inside].mean() < 0.2
        assert drawn.shape[0] > rows

    def test_each_region_has_its_colour(self, labels, case):
        drawn, _ = draw(np.full((30, 40, 3), 128, np.uint8), labels, self.REGIONS, case[1], edited=True)
        for colour in COLOURS[:2]:
            assert (drawn == colour).all(axis=-1).any()

    def test_more_names_than_fit_are_counted(self, case):
        labels = np.arange(1, 41, dtype=np.uint8)[None].repeat(30, axis=0)
        regions = tuple(Region(k, 1, f"a long name {k}", None, "1.2") for k in range(1, 41))
        drawn, _ = draw(np.zeros((30, 40, 3), np.uint8), labels, regions, case[1], edited=False)
        assert drawn.shape[1] >= LEAST_WIDTH


@pytest.mark.data
def test_mosaics_are_refused(medical_data, exports, tmp_path):
    loaded = read_dicom(medical_data / "dicom" / "series" / "mr_siemens_mosaic_coronal")
    prediction = exports.predicted(loaded)
    with pytest.raises(UsageError, match="A mosaic has no frame that a picture could refer to"):
        write_secondary_capture(tmp_path, loaded, prediction)
