"""DICOM in: sorted by position, diagnosed in words, loaded right or refused with the reason."""

import tracemalloc
import zipfile
from typing import ClassVar

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from inspection_core.errors import ReadError
from inspection_core.io.dicom import load_volume, read_dicom, scan_dicom


def only(path):
    (series,) = scan_dicom(path).series
    (volume,) = series.volumes
    return volume


class TestSorting:
    @pytest.mark.parametrize("plane", ["AXIAL", "SAGITTAL", "CORONAL", "TURNED"])
    def test_by_position_on_the_normal_whatever_names_and_numbers_say(self, dicom, tmp_path, plane):
        array = dicom.numbered()
        orientation = getattr(dicom, plane)
        loaded = read_dicom(dicom.write_series(tmp_path, array, orientation))
        np.testing.assert_array_equal(loaded.image.array[0], array)
        np.testing.assert_allclose(loaded.image.geometry.affine, dicom.series_affine(orientation), atol=1e-6)
        assert loaded.image.geometry.unit == "mm"

    def test_pixel_spacing_is_row_then_column(self, dicom, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, dicom.numbered(), spacing=(0.5, 0.8)))
        assert loaded.image.geometry.spacing == pytest.approx((2.5, 0.5, 0.8))

    def test_steps_come_from_positions_not_from_headers(self, dicom, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, dicom.numbered(), SliceThickness=9, SpacingBetweenSlices=9))
        assert loaded.image.geometry.spacing[0] == pytest.approx(2.5)
        assert "the header says that slices are 9 mm apart" in loaded.image.notes[0]


class TestDiagnosis:
    """One table: what is done to a regular series, and the words that come back."""

    def test_regular(self, dicom, tmp_path):
        assert only(dicom.write_series(tmp_path, dicom.numbered())).verdict == "regular stack"

    def test_missing_slice_is_named_by_place_and_refused(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), keep={0, 1, 3, 4, 5})
        assert only(tmp_path).verdict == "stack; slice missing between z = 42.5 and z = 47.5 mm"
        with pytest.raises(ReadError, match=r"slice missing between z = 42\.5 and z = 47\.5 mm\. Allow gaps"):
            read_dicom(tmp_path)

    def test_missing_slice_allowed_is_filled_and_said(self, dicom, tmp_path):
        array = dicom.numbered()
        dicom.write_series(tmp_path, array, keep={0, 1, 3, 4, 5})
        loaded = read_dicom(tmp_path, allow=["gaps"])
        np.testing.assert_array_equal(loaded.image.array[0], array)  # linear data: the gap is filled exactly
        np.testing.assert_allclose(loaded.image.geometry.affine, dicom.series_affine(), atol=1e-6)
        assert "1 of 6 slices are interpolated" in loaded.image.notes[-1]
        assert loaded.to_slices(loaded.image.array[0]).shape == (5, 9, 11)
        np.testing.assert_array_equal(loaded.to_slices(loaded.image.array[0]), array[[0, 1, 3, 4, 5]])

    def test_several_missing(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered((12, 3, 4)), keep={0, 1, 2, 3, 4, 5, 6, 9, 11})
        assert (
            "3 slices missing between z = 55.0 and z = 62.5 mm, between z = 62.5 and z = 67.5 mm"
            in only(tmp_path).verdict
        )

    def test_irregular(self, dicom, tmp_path):
        for k, z in enumerate([0, 2, 4.7, 6, 9.1]):
            dicom.save(dicom.slice_dataset(dicom.numbered((3, 4)), (0, 0, z)), tmp_path / f"{k}")
        assert only(tmp_path).verdict == "stack; irregular: steps between slices vary from 1.3 to 3.1 mm"
        with pytest.raises(ReadError, match="Allow irregular"):
            read_dicom(tmp_path)
        assert read_dicom(tmp_path, allow=["irregular"]).image.array.shape == (1, 4, 3, 4)

    def test_gantry_tilt_is_resampled_said_and_mapped_back(self, dicom, tmp_path):
        shape, drift = (9, 40, 30), (2.5 * np.tan(np.radians(14)), 0.0)
        affine = dicom.series_affine(drift=drift)
        centre = affine[:3, :3] @ [4, 22, 14] + affine[:3, 3]
        array = dicom.blob_at(affine, shape, centre, 4.0)
        dicom.write_series(tmp_path, array, drift=drift)
        volume = only(tmp_path)
        assert volume.verdict == "stack; 14 degree gantry tilt"
        loaded = load_volume(volume)
        assert "14 degree gantry tilt: resampled" in loaded.image.notes[0]
        geometry = loaded.image.geometry
        steps = geometry.affine[:3, :3] / geometry.spacing
        np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-9)  # straight
        inside = np.argwhere(loaded.image.array[0] > 500)
        np.testing.assert_allclose(geometry.index_to_world(inside).mean(axis=0), centre, atol=0.15)
        back = loaded.to_slices((loaded.image.array[0] > 500).astype(np.uint8))
        overlap = (back & (array > 500)).sum() * 2 / (back.sum() + (array > 500).sum())
        assert overlap > 0.95

    def test_a_label_on_the_straight_stack_goes_back_to_the_pixels_it_was_drawn_over(self, dicom, tmp_path):
        """By world coordinates: what lies at a voxel of the straight stack lies at the same place of a slice."""
        shape, drift = (9, 40, 30), (2.5 * np.tan(np.radians(14)), 0.0)
        dicom.write_series(tmp_path, np.zeros(shape, np.int16), drift=drift)
        loaded = read_dicom(tmp_path)
        labels = np.zeros(loaded.image.geometry.shape, np.uint8)
        labels[4, 25, 14] = 1
        (k, y, x) = np.argwhere(loaded.to_slices(labels))[0]
        frame = loaded.volume.frames[0][k]
        world = np.array(frame.position) + y * 0.5 * np.array(frame.along_column) + x * 0.8 * np.array(frame.along_row)
        # Half a pixel at most, along the rows that the tilt moves.
        np.testing.assert_allclose(world, loaded.image.geometry.index_to_world([4, 25, 14]), atol=0.26)
        assert loaded.from_slices(loaded.to_slices(labels))[4, 25, 14] == 1

    def test_mr_is_sheared_not_tilted(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), drift=(1.0, 0.0), Modality="MR")
        assert only(tmp_path).verdict == "stack; 21.8 degree shear"

    def test_sheared_unevenly(self, dicom, tmp_path):
        for k, x in enumerate([0, 3, 1, 5, 2]):
            dicom.save(dicom.slice_dataset(dicom.numbered((3, 4)), (x, 0, 2 * k)), tmp_path / f"{k}")
        assert "sheared unevenly: slices shift sideways by up to 3.5 mm" in only(tmp_path).verdict

    def test_copies_are_left_out_and_said(self, dicom, tmp_path):
        dicom.write_series(tmp_path / "a", dicom.numbered())
        for file in (tmp_path / "a").iterdir():
            (tmp_path / "b").mkdir(exist_ok=True)
            (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
        loaded = read_dicom(tmp_path)
        np.testing.assert_array_equal(loaded.image.array[0], dicom.numbered())
        assert loaded.image.notes == ("6 exact copies of files left out",)

    def test_two_different_slices_at_one_place(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), AcquisitionTime="120000")
        extra = dicom.slice_dataset(
            dicom.numbered((9, 11)) * 2, (-20, -30, 45), InstanceNumber=4, AcquisitionTime="120000"
        )
        dicom.save(extra, tmp_path / "extra.dcm")
        assert (
            "duplicated: 1 places have more than one slice, with different pixels (z = 45.0)" in only(tmp_path).verdict
        )
        assert read_dicom(tmp_path, allow=["duplicates"]).image.array.shape == (1, 6, 9, 11)

    def test_three_plane_localiser(self, dicom, tmp_path):
        for plane in ("AXIAL", "SAGITTAL", "CORONAL"):
            dicom.write_series(tmp_path / plane, dicom.numbered((3, 5, 5)), getattr(dicom, plane), spacing=(1, 1))
        (series,) = scan_dicom(tmp_path).series
        assert series.verdict == "three-plane localiser: 3 volumes"
        assert [load_volume(v).image.array.shape for v in series.volumes] == [(1, 3, 5, 5)] * 3
        with pytest.raises(ReadError, match=r"has 3 volumes .* choose one by number"):
            read_dicom(tmp_path)
        assert read_dicom(tmp_path, volume=2).image.array.shape == (1, 3, 5, 5)

    @pytest.mark.parametrize(
        ("tag", "values", "channels", "verdict"),
        [
            (
                "TemporalPositionIdentifier",
                [1, 2, 3],
                ("time point 1", "time point 2", "time point 3"),
                "4-D: 3 time points",
            ),
            ("TriggerTime", [0, 40, 80], ("t = 0 s", "t = 0.04 s", "t = 0.08 s"), "4-D: 3 time points"),
            ("DiffusionBValue", [0, 50.0, 800.0], ("b = 0 s/mm2", "b = 50 s/mm2", "b = 800 s/mm2"), "4-D: 3 b-values"),
        ],
    )
    def test_4d(self, dicom, tmp_path, tag, values, channels, verdict):
        for t, value in enumerate(values):
            dicom.write_series(tmp_path / str(t), dicom.numbered() + t * 1000, Modality="MR", **{tag: value})
        volume = only(tmp_path)
        assert volume.verdict == verdict
        image = load_volume(volume).image
        assert image.channels == channels
        np.testing.assert_array_equal(image.array, [dicom.numbered() + t * 1000 for t in range(3)])

    def test_4d_with_a_slice_missing(self, dicom, tmp_path):
        dicom.write_series(tmp_path / "1", dicom.numbered(), TemporalPositionIdentifier=1)
        dicom.write_series(tmp_path / "2", dicom.numbered(), TemporalPositionIdentifier=2, keep={0, 1, 3, 4, 5})
        assert "4-D with slices missing: point 2 of 2 lacks 1 of 6 slices" in only(tmp_path).verdict

    def test_echoes_are_volumes_of_their_own(self, dicom, tmp_path):
        for te in (5, 9):
            dicom.write_series(tmp_path / str(te), dicom.numbered() + te, Modality="MR", EchoTime=te)
        (series,) = scan_dicom(tmp_path).series
        assert series.verdict == "2 volumes: echo 5 ms, echo 9 ms"

    def test_no_positions(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), ImagePositionPatient=None)
        with pytest.raises(ReadError, match="its 6 slices have no position"):
            read_dicom(tmp_path)
        (series,) = scan_dicom(tmp_path).series
        assert (
            "its 6 slices have no position (ImagePositionPatient), so their order and distance are unknown"
            in series.verdict
        )

    def test_two_slices_say_what_cannot_be_known(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered((2, 3, 4)))
        assert "nothing shows whether one between them is missing" in read_dicom(tmp_path).image.notes[0]

    def test_one_slice_without_thickness_invents_no_depth(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered((1, 3, 4)), SliceThickness=None)
        image = read_dicom(tmp_path).image
        assert image.array.shape == (1, 3, 4)
        assert image.notes == ("one slice without a thickness: read as a 2-D image",)

    def test_a_damaged_file_refuses_its_series_by_name(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered())
        victim = sorted(tmp_path.iterdir())[2]
        victim.write_bytes(victim.read_bytes()[:-100])
        with pytest.raises(ReadError, match=rf"1 of its files cannot be read \({victim.name}: it is truncated"):
            read_dicom(tmp_path)


class TestValues:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32])
    def test_stored_types(self, dicom, tmp_path, dtype):
        array = dicom.numbered((2, 5, 7), dtype)
        image = read_dicom(dicom.write_series(tmp_path, array)).image
        assert image.array.dtype == dtype
        np.testing.assert_array_equal(image.array[0], array)

    def test_rescale_each_slice_by_its_own(self, dicom, tmp_path):
        array = dicom.numbered()
        dicom.write_series(tmp_path, array, RescaleSlope=lambda k: k + 0.5, RescaleIntercept=lambda k: -k)
        image = read_dicom(tmp_path).image
        expected = array * (np.arange(6) + 0.5)[:, None, None] - np.arange(6)[:, None, None]
        np.testing.assert_allclose(image.array[0], expected)
        assert image.array.dtype == np.float32

    def test_hounsfield_units_stay_int16(self, dicom, tmp_path):
        image = read_dicom(dicom.write_series(tmp_path, dicom.numbered(), RescaleSlope=1, RescaleIntercept=-1024)).image
        assert image.array.dtype == np.int16
        assert image.array.min() == -1024

    def test_a_range_that_int16_cannot_hold(self, dicom, tmp_path):
        array = np.full((2, 3, 4), -32768, np.int16)
        image = read_dicom(dicom.write_series(tmp_path, array, RescaleSlope=1, RescaleIntercept=-1024)).image
        assert image.array.dtype == np.int32
        assert image.array.min() == -33792

    def test_bits_outside_the_stored_ones_are_cut_off(self, dicom, tmp_path):
        array = dicom.numbered((2, 3, 4), np.uint16)
        dicom.write_series(tmp_path, array | 0xF000, BitsStored=12, HighBit=11)
        np.testing.assert_array_equal(read_dicom(tmp_path).image.array[0], array)

    def test_sign_of_twelve_bits(self, dicom, tmp_path):
        array = np.array([[[-5, 5], [-2048, 2047]]] * 2, np.int16)
        dicom.write_series(tmp_path, array & 0x0FFF, BitsStored=12, HighBit=11)
        np.testing.assert_array_equal(read_dicom(tmp_path).image.array[0], array)

    def test_windows_are_kept_and_never_applied(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), WindowCenter=[40, 400], WindowWidth=[80, 2000])
        loaded = read_dicom(tmp_path)
        assert loaded.windows == ((40, 80), (400, 2000))
        np.testing.assert_array_equal(loaded.image.array[0], dicom.numbered())

    def test_padding_is_told_on_the_image_scale(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered(), PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-1024)
        assert read_dicom(tmp_path).padding == -3024

    def test_monochrome1_radiograph_is_turned_round(self, dicom, tmp_path):
        array = dicom.numbered((1, 4, 5), np.uint8)
        dicom.write_series(
            tmp_path, array, Modality="DX", PhotometricInterpretation="MONOCHROME1", WindowCenter=55, WindowWidth=10
        )
        loaded = read_dicom(tmp_path)
        np.testing.assert_array_equal(loaded.image.array, 255 - array)
        assert loaded.windows == ((200, 10),)
        assert "MONOCHROME1" in loaded.image.notes[0]

    def test_modality_lut_sequence(self, dicom, tmp_path):
        lut = Dataset()
        lut.LUTDescriptor = [4, 0, 16]
        lut.LUTData = np.array([100, 200, 300, 400], np.uint16).tobytes()
        lut.ModalityLUTType = "US"
        array = np.array([[[0, 1], [2, 3]]], np.uint16)
        dicom.write_series(tmp_path, array, Modality="CR", ModalityLUTSequence=Sequence([lut]))
        np.testing.assert_array_equal(read_dicom(tmp_path).image.array[0], [[100, 200], [300, 400]])

    def test_no_pixel_spacing_reads_as_pixels(self, dicom, tmp_path):
        image = read_dicom(
            dicom.write_series(tmp_path, dicom.numbered((1, 4, 5)), Modality="CR", PixelSpacing=None)
        ).image
        assert image.geometry.unit == "px"

    @pytest.mark.parametrize("modality", ["MG", "DX", "CR"])
    def test_spacing_at_the_detector_is_told_and_not_taken_for_the_patients(self, dicom, tmp_path, modality):
        tags = {"Modality": modality, "PixelSpacing": None, "ImagerPixelSpacing": [0.07, 0.08]}
        dicom.write_series(tmp_path, dicom.numbered((1, 4, 5)), **tags, ImagePositionPatient=None)
        image = read_dicom(tmp_path).image
        assert image.geometry.unit == "px"
        assert "0.07 x 0.08 mm at the detector (ImagerPixelSpacing), less in the patient" in image.notes[0]
        asked = read_dicom(tmp_path, assume_mm=True).image
        assert (asked.geometry.unit, asked.geometry.spacing) == ("mm", (0.07, 0.08))
        assert "at the detector, as asked" in asked.notes[-1]

    def test_spacing_that_is_the_detectors_is_said(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered((1, 4, 5)), Modality="MG", ImagerPixelSpacing=[0.5, 0.8])
        image = read_dicom(tmp_path).image
        assert image.geometry.spacing == (0.5, 0.8)
        assert "in the patient, distances are smaller by the magnification" in image.notes[0]

    @pytest.mark.parametrize("planar", [0, 1])
    def test_colour_ultrasound(self, dicom, tmp_path, planar):
        array = dicom.numbered((4, 6, 3), np.uint8)
        ds = dicom.slice_dataset(array, (0, 0, 0), Modality="US", PixelSpacing=None, ImagePositionPatient=None)
        ds.PlanarConfiguration = planar
        ds.PixelData = (np.moveaxis(array, 2, 0) if planar else array).tobytes()
        image = read_dicom(dicom.save(ds, tmp_path / "a.dcm")).image
        assert image.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(image.array, np.moveaxis(array, 2, 0))

    IMAGE: ClassVar = {"RegionSpatialFormat": 1, "RegionDataType": 1, "PhysicalUnitsXDirection": 3,
             "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.04, "RegionLocationMinX0": 2,
             "RegionLocationMinY0": 1, "RegionLocationMaxX1": 27, "RegionLocationMaxY1": 18}  # fmt: skip

    # name: (changes of each region, spacing in mm or None, what is said)
    ULTRASOUND: ClassVar = {
        "one image of tissue": ([{}], (0.4, 0.5), "hold inside it: columns 2 to 27, rows 1 to 18"),
        "with flow over it": ([{}, {"RegionDataType": 2, "RegionLocationMinX0": 9}], (0.4, 0.5), "calibrated region"),
        "counted upwards": ([{"PhysicalDeltaY": -0.04}], (0.4, 0.5), "calibrated region"),
        "two images": ([{}, {}], None, "2 are images of tissue in centimetres, where one is needed"),
        "a curve beside it": ([{}, {"RegionSpatialFormat": 3}], None, "others, with scales of their own"),
        "flow of another scale": ([{}, {"RegionDataType": 2, "PhysicalDeltaX": 0.1}], None, "scales of their own"),
        "flow outside of it": ([{}, {"RegionDataType": 2, "RegionLocationMaxX1": 29}], None, "scales of their own"),
        "not in centimetres": ([{"PhysicalUnitsYDirection": 4}], None, "0 are images of tissue"),
        "no scale": ([{"PhysicalDeltaX": 0.0}], None, "0 are images of tissue"),
        "no place": ([{"RegionLocationMaxX1": 1}], None, "0 are images of tissue"),
    }

    @pytest.mark.parametrize("frames", [1, 3])
    @pytest.mark.parametrize(("regions", "spacing", "words"), ULTRASOUND.values(), ids=ULTRASOUND)
    def test_calibrated_ultrasound(self, dicom, tmp_path, frames, regions, spacing, words):
        array = dicom.numbered((frames, 20, 30), np.uint8)
        ds = dicom.slice_dataset(array[0], (0, 0, 0), Modality="US", PixelSpacing=None, ImagePositionPatient=None)
        ds.NumberOfFrames, ds.PixelData = frames, array.tobytes()
        ds.SequenceOfUltrasoundRegions = []
        for changes in regions:
            entry = Dataset()
            for name, value in (self.IMAGE | changes).items():
                setattr(entry, name, value)
            ds.SequenceOfUltrasoundRegions.append(entry)
        image = read_dicom(dicom.save(ds, tmp_path / "a.dcm")).image
        assert image.geometry.unit == ("px" if spacing is None else "mm")
        assert spacing is None or image.geometry.spacing == pytest.approx(spacing)
        assert words in "; ".join(image.notes)
        assert ("no PixelSpacing: read as pixels" in "; ".join(image.notes)) == (spacing is None)

    def test_mammogram(self, dicom, tmp_path):
        array = dicom.numbered((1, 40, 30), np.uint16)
        dicom.write_series(
            tmp_path, array, Modality="MG", BitsStored=14, HighBit=13, spacing=(0.07, 0.07), ImagePositionPatient=None
        )
        image = read_dicom(tmp_path).image
        assert image.array.shape == (1, 40, 30)
        assert image.geometry.spacing == (0.07, 0.07)

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_plain_pixels_are_read_as_pydicom_reads_them(self, dicom, tmp_path, syntax, zipped):
        """Both encodings, with data after the pixels, from a folder and from an archive."""
        array = np.random.default_rng(0).integers(-2048, 2048, (3, 7, 5), dtype=np.int16)
        for k, plane in enumerate(array):
            ds = dicom.slice_dataset(plane & 0x0FFF, (0, 0, 2.5 * k), BitsStored=12, HighBit=11)
            ds.file_meta.TransferSyntaxUID = syntax
            ds.DataSetTrailingPadding = b"\0" * 64
            dicom.save(ds, tmp_path / "s" / str(k))
        path = tmp_path / "s"
        if zipped:
            path = tmp_path / "a.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for file in (tmp_path / "s").iterdir():
                    archive.write(file, file.name)
        np.testing.assert_array_equal(read_dicom(path).image.array[0], array)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
    def test_compressed_equals_uncompressed(self, dicom, tmp_path, syntax):
        for k, plane in enumerate(dicom.numbered((3, 32, 32), np.uint16)):
            ds = dicom.slice_dataset(plane, (0, 0, 2.5 * k))
            ds.compress(syntax)
            dicom.save(ds, tmp_path / str(k))
        np.testing.assert_array_equal(read_dicom(tmp_path).image.array[0], dicom.numbered((3, 32, 32)))


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_memory_is_that_of_the_volume_and_a_few_slices(dicom, tmp_path, syntax):
    array = np.random.default_rng(0).integers(0, 4096, (40, 128, 128), dtype=np.uint16)
    for k, plane in enumerate(array):
        ds = dicom.slice_dataset(
            plane, (0, 0, 2.5 * k), BitsStored=12, HighBit=11, RescaleIntercept=-1024, RescaleSlope=1
        )
        if syntax:
            ds.compress(syntax)
        dicom.save(ds, tmp_path / f"{k}")
    volume = only(tmp_path)
    load_volume(volume)  # imports and caches are not counted
    tracemalloc.start()
    try:
        image = load_volume(volume).image
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image.array.dtype == np.int16
    assert peak < 1.6 * image.array.nbytes


class TestPet:
    def header(self, **changes):
        tracer = Dataset()
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 370e6, 6586.2
        tracer.RadiopharmaceuticalStartTime = "110000"
        for name in [n for n in changes if hasattr(tracer, n)]:
            setattr(tracer, name, changes.pop(name))
        tags = {
            "Modality": "PT", "Units": "BQML", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START",
            "PatientWeight": 74.0, "SeriesDate": "20200101", "SeriesTime": "120000", "AcquisitionDate": "20200101",
            "AcquisitionTime": "120000", "RadiopharmaceuticalInformationSequence": Sequence([tracer]),
        }  # fmt: skip
        return tags | changes

    def test_suv_by_body_weight(self, dicom, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, dicom.numbered(), **self.header()), suv=True)
        factor = 74e3 / (370e6 * 2 ** (-3600 / 6586.2))
        np.testing.assert_allclose(loaded.image.array[0], dicom.numbered() * factor, rtol=1e-6)
        assert loaded.units == "SUVbw"

    def test_activity_by_default(self, dicom, tmp_path):
        loaded = read_dicom(dicom.write_series(tmp_path, dicom.numbered(), **self.header()))
        np.testing.assert_array_equal(loaded.image.array[0], dicom.numbered())
        assert loaded.units == "BQML"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"Units": "CNTS"}, "This series is in CNTS"),
            ({"CorrectedImage": ["ATTN"]}, "corrected for attenuation and decay"),
            ({"PatientWeight": 0}, "needs PatientWeight"),
            ({"DecayCorrection": "NONE"}, "The header says NONE"),
            ({"RadionuclideTotalDose": 0}, "needs RadionuclideTotalDose"),
            ({"Modality": "CT"}, "SUV is for PET"),
        ],
    )
    def test_what_suv_needs(self, dicom, tmp_path, changes, words):
        dicom.write_series(tmp_path, dicom.numbered(), **self.header(**changes))
        with pytest.raises(ReadError, match=words):
            read_dicom(tmp_path, suv=True)


SOP = {"CT": "2.1", "MR": "4.1", "PT": "130"}
"""Ends of the classes of enhanced images."""


def enhanced(dicom, array, slopes, modality="CT"):
    """An enhanced CT, MR or PET in one file, frames in a mixed order, each with a slope of its own."""
    order = np.random.default_rng(3).permutation(len(array))
    ds = dicom.slice_dataset(
        array[0], (0, 0, 0), Modality=modality, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{SOP[modality]}"
    )
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, name)
    ds.NumberOfFrames = len(array)
    ds.PixelData = array[order].tobytes()

    def one(**tags):
        item = Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        return Sequence([item])

    ds.SharedFunctionalGroupsSequence = one(
        PlaneOrientationSequence=one(ImageOrientationPatient=list(dicom.TURNED)),
        PixelMeasuresSequence=one(PixelSpacing=[0.5, 0.8], SliceThickness=2.5),
    )
    normal = np.cross(dicom.TURNED[:3], dicom.TURNED[3:])
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [
            one(
                PlanePositionSequence=one(
                    ImagePositionPatient=[float(f"{v:.10g}") for v in np.array([-20, -30, 40]) + 2.5 * k * normal]
                ),
                PixelValueTransformationSequence=one(
                    RescaleSlope=float(slopes[k]), RescaleIntercept=-10.0, RescaleType="HU"
                ),
            )[0]
            for k in order
        ]
    )
    return ds


class TestEnhancedMultiFrame:
    @pytest.mark.parametrize("modality", SOP)
    def test_frames_are_sorted_and_rescaled_each_by_its_own(self, dicom, tmp_path, modality):
        array, slopes = dicom.numbered(), np.arange(1, 7)
        loaded = read_dicom(dicom.save(enhanced(dicom, array, slopes, modality), tmp_path / "a.dcm"))
        assert loaded.volume.verdict == "regular stack"
        np.testing.assert_array_equal(loaded.image.array[0], array * slopes[:, None, None] - 10)
        np.testing.assert_allclose(loaded.image.geometry.affine, dicom.series_affine(dicom.TURNED), atol=1e-6)

    @pytest.mark.parametrize("syntax", [None, RLELossless])
    def test_many_frames_are_shared_among_threads(self, dicom, tmp_path, monkeypatch, syntax):
        monkeypatch.setattr("inspection_core.io.dicom.volume.WORKERS", 3)
        array = dicom.numbered((50, 8, 6), np.uint16)
        ds = enhanced(dicom, array, np.ones(50))
        if syntax:
            ds.compress(syntax)
        seen = []
        loaded = read_dicom(dicom.save(ds, tmp_path / "a.dcm"), progress=lambda n, total: seen.append((n, total)))
        np.testing.assert_array_equal(loaded.image.array[0], array.astype(int) - 10)
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_memory_of_one_large_file(self, dicom, tmp_path):
        array = np.zeros((64, 96, 96), np.int16)
        volume = only(dicom.save(enhanced(dicom, array, np.ones(64)), tmp_path / "a.dcm"))
        load_volume(volume)
        tracemalloc.start()
        try:
            image = load_volume(volume).image
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1.6 * image.array.nbytes

    def test_suv_of_an_enhanced_pet_is_refused_with_the_reason(self, dicom, tmp_path):
        path = dicom.save(enhanced(dicom, dicom.numbered(), np.ones(6), "PT"), tmp_path / "a.dcm")
        with pytest.raises(ReadError, match=r"enhanced multi-frame PET, .* read it without SUV"):
            read_dicom(path, suv=True)

    def test_a_frame_turned_another_way_is_a_volume_of_its_own(self, dicom, tmp_path):
        ds = enhanced(dicom, dicom.numbered(), np.ones(6), "MR")
        turned = Dataset()
        turned.ImageOrientationPatient = list(dicom.SAGITTAL)
        ds.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence = Sequence([turned])
        (series,) = scan_dicom(dicom.save(ds, tmp_path / "a.dcm")).series
        assert series.verdict.startswith("2 volumes of different orientation")

    def test_without_functional_groups_is_refused(self, dicom, tmp_path):
        ds = enhanced(dicom, dicom.numbered(), np.ones(6))
        del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence
        with pytest.raises(ReadError, match="its 6 frames have no position"):
            read_dicom(dicom.save(ds, tmp_path / "a.dcm"))

    def test_frame_count_that_does_not_match(self, dicom, tmp_path):
        ds = enhanced(dicom, dicom.numbered(), np.ones(6))
        ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:4]
        with pytest.raises(ReadError, match="promises 6 frames and describes 4"):
            read_dicom(dicom.save(ds, tmp_path / "a.dcm"))


class TestFinding:
    def test_nested_mixed_and_without_suffix(self, dicom, tmp_path):
        dicom.write_series(tmp_path / "deep" / "er", dicom.numbered(), names=lambda k: f"IM{k}")
        (tmp_path / "deep" / "notes.txt").write_text("a letter")
        (tmp_path / ".hidden").write_text("x")
        inventory = scan_dicom(tmp_path)
        assert len(inventory.series) == 1
        assert inventory.others == (("notes.txt", "notes.txt is not DICOM"),)

    def test_dicomdir_stands_for_its_folder(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered())
        (tmp_path / "DICOMDIR").write_bytes(b"its text names files that are never followed: ../../etc/passwd")
        assert read_dicom(tmp_path / "DICOMDIR").image.array.shape == (1, 6, 9, 11)

    def test_zip(self, dicom, tmp_path):
        dicom.write_series(tmp_path / "s", dicom.numbered())
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "s").iterdir():
                archive.write(file, f"study/{file.name}")
        before = sorted(p.name for p in tmp_path.iterdir())
        np.testing.assert_array_equal(read_dicom(tmp_path / "a.zip").image.array[0], dicom.numbered())
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        "name", ["../evil.dcm", "/etc/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"]
    )
    def test_zip_that_reaches_outside(self, tmp_path, name):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ReadError, match="reaches outside the archive"):
            read_dicom(tmp_path / "a.zip")

    def test_zip_bomb(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("a.dcm", b"\0" * 100_000_000)
        with pytest.raises(ReadError, match="claims 100,000,000 bytes, more than can be in it"):
            read_dicom(tmp_path / "a.zip")

    def test_several_paths_and_none_twice(self, dicom, tmp_path):
        dicom.write_series(tmp_path, dicom.numbered())
        files = sorted(tmp_path.iterdir())
        assert read_dicom([*files, tmp_path]).image.array.shape == (1, 6, 9, 11)

    def test_several_series_ask_for_a_choice(self, dicom, tmp_path):
        dicom.write_series(tmp_path / "a", dicom.numbered())
        dicom.write_series(tmp_path / "b", dicom.numbered() + 1, SeriesInstanceUID="1.2.3.99", SeriesNumber=9)
        with pytest.raises(ReadError, match="2 series are there; choose one"):
            read_dicom(tmp_path)
        assert read_dicom(tmp_path, series="9").image.array.min() == 1
        with pytest.raises(ReadError, match="0 series have the id or number '7'"):
            read_dicom(tmp_path, series="7")

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ReadError, match="Found nothing there"):
            read_dicom(tmp_path / "none")
        with pytest.raises(ReadError, match="No DICOM image was found"):
            read_dicom(tmp_path)

    def test_without_meta_header(self, dicom, tmp_path):
        ds = dicom.slice_dataset(dicom.numbered((3, 4)), (0, 0, 0))
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        full = dicom.save(ds, tmp_path / "full").read_bytes()
        meta = 132 + 12 + int.from_bytes(full[140:144], "little")
        (tmp_path / "bare.dcm").write_bytes(full[meta:])
        np.testing.assert_array_equal(read_dicom(tmp_path / "bare.dcm").image.array[0, 0], dicom.numbered((3, 4)))


def test_no_name_or_number_of_the_patient_is_ever_shown(dicom, tmp_path):
    dicom.write_series(tmp_path, dicom.numbered(), SeriesDescription="T1 Sally SECRET pid-424242", keep={0, 1, 3, 4, 5})
    (series,) = scan_dicom(tmp_path).series
    shown = str(series.summary())
    with pytest.raises(ReadError) as caught:
        read_dicom(tmp_path)
    for text in (shown, str(caught.value)):
        assert "sally" not in text.lower()
        assert "secret" not in text.lower()
        assert "424242" not in text
        assert "1.2.3.2" not in text
    assert "T1 *** *** ***" in shown
