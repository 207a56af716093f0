"""Several sequences as one image: matched by headers or names, chosen by the user, on one grid, or refused by name."""

import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom import scan_dicom
from inspection_core.io.dicom.sequence_words import from_words
from inspection_core.io.dicom.sequences import recognise
from inspection_core.io.nifti import write_nifti
from inspection_core.io.resample import resample
from inspection_core.io.study import load_study, read_study

FOUR = ("t1", "t1c", "t2", "flair")
T1 = {"EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE"}
T2 = {"EchoTime": 95, "RepetitionTime": 4500, "ScanningSequence": "SE"}
FLAIR = {"EchoTime": 90, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"]}


def enhanced(dicom, folder, number, array, contrast):
    """An enhanced MR of one file that names its weighting in its functional groups."""
    ds = dicom.slice_dataset(array[0], (0, 0, 0), Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, name)

    def one(**tags):
        entry = Dataset()
        for name, value in tags.items():
            setattr(entry, name, value)
        return Sequence([entry])

    ds.SeriesInstanceUID, ds.SeriesNumber = f"1.2.3.{number}", number
    ds.NumberOfFrames, ds.PixelData = len(array), array.tobytes()
    ds.SharedFunctionalGroupsSequence = one(
        PlaneOrientationSequence=one(ImageOrientationPatient=list(dicom.AXIAL)),
        PixelMeasuresSequence=one(PixelSpacing=[0.5, 0.8], SliceThickness=2.5),
        MRImageFrameTypeSequence=one(AcquisitionContrast=contrast),
    )
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        one(
            PlanePositionSequence=one(ImagePositionPatient=[-20, -30, 40 + 2.5 * k]),
            PixelValueTransformationSequence=one(RescaleSlope=k + 1.0, RescaleIntercept=0.0, RescaleType="US"),
        )[0]
        for k in range(len(array))
    )
    return dicom.save(ds, folder / "enhanced.dcm")


@pytest.fixture
def series(dicom, tmp_path):
    """Write one series of a study: a ball at the same place of the world, on a grid of its own."""

    def write(number, name, orientation=None, spacing=(1.0, 1.0), step=2.5, origin=(-20.0, -20.0, 0.0), **tags):
        orientation = orientation or dicom.AXIAL
        shape = (12, 40, 40)
        affine = dicom.series_affine(orientation, origin, spacing, step)
        array = dicom.blob_at(affine, shape, (2.0, 4.0, 15.0), 7.0) // (number + 1)
        return dicom.write_series(
            tmp_path / f"{number}", array, orientation, origin, spacing, step, Modality="MR", SeriesNumber=number,
            SeriesInstanceUID=f"1.2.3.{number}", SeriesDescription=name, **tags,
        )  # fmt: skip

    return write


@pytest.fixture
def study(series, dicom, tmp_path):
    """Four sequences as they come: other grids, a scout, a diffusion series, a letter."""
    series(1, "localizer", **T1)
    series(2, "AX T1 SE", **T1)
    series(3, "AX T1 SE POST", **T1, ContrastBolusAgent="Gadovist")
    series(4, "sag t2_tse", dicom.SAGITTAL, (0.9, 0.9), 1.2, (9.0, -16.0, 33.0), **T2)
    series(5, "FLAIR dark fluid", spacing=(0.8, 0.8), step=3.0, origin=(-14.0, -12.0, -2.0), **FLAIR)
    series(6, "ep2d_diff b1000", **T2)
    (tmp_path / "letter.txt").write_text("a letter")
    return tmp_path


class TestWords:
    @pytest.mark.parametrize(
        ("said", "sequence"),
        [
            ("T1 pre-contrast", "t1"), ("T1 post-contrast", "t1c"), ("AX T1 SE C+", "t1c"), ("T1 -C", "t1"),
            ("t1_mprage_sag_p2_iso KM", "t1c"), ("t1ce", "t1c"), ("T1Gd", "t1c"), ("t1n", "t1"), ("BRAVO", "t1"),
            ("T2_FLAIR", "flair"), ("t2f", "flair"), ("t2_tirm_tra_dark-fluid", "flair"), ("AX T1 FLAIR", "t1"),
            ("T2 Prep FLAIR", "flair"), ("t2w", "t2"), ("t2_tse_tra", "t2"), ("T2* GRE", "swi"), ("T2 map", "map"),
            ("ep2d_diff_tra", "dwi"), ("ADC map", "adc"), ("T1 POST subtraction", "subtraction"), ("case 7", ""),
            ("PD TSE", "pd"), ("AX TOF 3D", "angiography"), ("gre_field_mapping", "map"),
        ],
    )  # fmt: skip
    def test_what_a_name_speaks_of(self, said, sequence):
        assert from_words(said) == sequence


class TestHeaders:
    @pytest.mark.parametrize(
        ("name", "tags", "sequence", "why"),
        [
            ("a", T1, "t1", "by its times"),
            ("a", T2, "t2", "by its times"),
            ("a", FLAIR, "flair", "by its times"),
            ("a", {**T2, "EchoTime": 12}, "pd", "by its times"),
            ("a", {"EchoTime": 3, "RepetitionTime": 2300, "InversionTime": 900, "ScanningSequence": ["GR", "IR"]}, "t1",
             "by its times"),
            ("a", {"EchoTime": 30, "RepetitionTime": 2000, "ScanningSequence": "EP"}, "", "neither words nor times"),
            ("a", {**T1, "ContrastBolusAgent": "Dotarem"}, "t1c", "with a contrast agent"),
            ("a", {**T1, "ContrastBolusAgent": "NONE"}, "t1", "by its times"),
            ("T1 pre", {**T1, "ContrastBolusAgent": "Dotarem"}, "t1", "by its words"),
            ("T1 +C", T1, "t1c", "by its words"),
            ("a", {**T1, "ProtocolName": "t2 tse"}, "", "its words say T2 and its times say T1"),
            ("T1 tse", T2, "", "its words say T1 and its times say T2"),
            ("FLAIR", T2, "flair", "by its words"),
            ("t1", {**T1, "ImageType": ["DERIVED", "PRIMARY", "P"]}, "", "a phase"),
            ("t1", {**T1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", "image type"),
        ],
    )  # fmt: skip
    def test_three_witnesses(self, series, name, tags, sequence, why):
        (found,) = scan_dicom(series(7, name, **tags)).series
        guess = recognise(found.volumes[0])
        assert guess.name == sequence
        assert why in guess.why

    def test_enhanced_mr_names_its_weighting_and_is_rescaled_frame_by_frame(self, dicom, tmp_path):
        array = dicom.numbered()
        path = enhanced(dicom, tmp_path, 9, array, "FLUID_ATTENUATED")
        image = read_study(path, ["flair"])
        np.testing.assert_array_equal(image.array[0], array * np.arange(1, 7)[:, None, None])

    def test_ct_is_no_sequence(self, dicom, tmp_path):
        (found,) = scan_dicom(dicom.write_series(tmp_path, dicom.numbered())).series
        assert recognise(found.volumes[0]).why == "it is CT, not MR"


class TestMatching:
    def test_four_sequences_on_the_grid_of_the_first(self, study):
        seen = []
        found = load_study(study, FOUR, progress=lambda k, n: seen.append((k, n)))
        assert found.image.channels == FOUR
        assert [m.scan.split(" (")[0] for m in found.matches] == [
            "series 2 'AX T1 SE'", "series 3 'AX T1 SE POST'", "series 4 'sag t2_tse'", "series 5 'FLAIR dark fluid'",
        ]  # fmt: skip
        assert seen == [(k, 4) for k in (1, 2, 3, 4)]
        assert found.image.geometry.is_close(found.reference.image.geometry)
        assert "t1 is series 2" in found.image.notes[0]
        assert any("t2 is resampled to the grid of t1 (linear)" in note for note in found.image.notes)

    def test_the_ball_is_at_its_place_in_every_channel(self, study):
        image = read_study(study, FOUR)
        for channel in image.array:
            inside = np.argwhere(channel > channel.max() / 2)
            np.testing.assert_allclose(image.geometry.index_to_world(inside).mean(axis=0), (2, 4, 15), atol=0.5)

    def test_same_grid_is_not_touched(self, study):
        image = read_study(study, ("t1", "t1c"))
        assert image.array.dtype == np.int16
        assert set(np.unique(image.array[0])) == {0, 1000 // 3}

    def test_another_channels_grid(self, study):
        image = read_study(study, FOUR, grid="flair")
        assert image.geometry.spacing == pytest.approx((3.0, 0.8, 0.8))

    def test_names_as_a_card_writes_them(self, study):
        names = ("T1 pre-contrast", "FLAIR", "T1 post-contrast")
        assert read_study(study, names).channels == names

    def test_missing_is_refused_by_name(self, series, tmp_path):
        series(2, "AX T1", **T1)
        with pytest.raises(
            ReadError, match=r"^flair is missing\. There is t1: series 2 'AX T1' .*with --channel flair= and its id"
        ):
            read_study(tmp_path, ("t1", "flair"))

    def test_t1_after_contrast_does_not_stand_in_for_t1(self, series, tmp_path):
        series(2, "AX T1 POST", **T1)
        with pytest.raises(ReadError, match=r"^t1 is missing\. There is t1c"):
            read_study(tmp_path, ("t1",))

    def test_ambiguous_names_the_candidates(self, series, tmp_path):
        series(2, "AX T1", **T1)
        series(3, "COR T1", **T1)
        with pytest.raises(ReadError, match=r"^t1 is ambiguous: 2 scans may be it: series 2 'AX T1' .*; series 3 'COR"):
            read_study(tmp_path, ("t1",))

    def test_contradiction_is_told(self, series, tmp_path):
        series(2, "T1 tse", **T2)
        with pytest.raises(ReadError, match=r"Not sure of series 2 'T1 tse' .*: its words say T1 and its times say T2"):
            read_study(tmp_path, ("t1",))

    def test_the_user_has_the_last_word(self, study):
        found = load_study(study, ("t1", "other"), choices={"t1": "3", "other": study / "6"})
        assert [m.why for m in found.matches] == ["chosen", "chosen"]
        assert "series 3" in found.matches[0].scan

    def test_one_volume_of_a_series(self, series, tmp_path):
        """A double echo: proton density and T2 under one series number."""
        series(2, "double echo", **{**T2, "EchoTime": 12})
        for file in list((tmp_path / "2").iterdir()):
            ds = pydicom.dcmread(file)
            ds.EchoTime, ds.SOPInstanceUID = 95, generate_uid()
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.save_as(file.with_name(f"late_{file.name}"), enforce_file_format=True)
        assert ":2)" in load_study(tmp_path, ("t2",)).matches[0].scan
        assert load_study(tmp_path, ("late",), choices={"late": "2:2"}).matches[0].why == "chosen"
        with pytest.raises(ReadError, match=r"t2=2 has 2 volumes: .*Say 2:1, 2:2"):
            read_study(tmp_path, ("t2",), choices={"t2": "2"})

    def test_a_scan_stands_in_for_another_where_it_was_chosen_for_both(self, study):
        found = read_study(study, ("t1", "t2"), choices={"t1": "4", "t2": "4"})
        assert (found.array[0] == found.array[1]).all()

    def test_from_an_archive(self, study, tmp_path_factory):
        archive = tmp_path_factory.mktemp("zip") / "study.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for file in (f for f in study.rglob("*") if f.is_file()):
                out.write(file, file.relative_to(study))
        assert read_study(archive, ("t1", "t1c")).array.shape == (2, 12, 40, 40)

    @pytest.mark.parametrize(
        ("channels", "options", "kind", "words"),
        [
            (("t1", "T1w"), {}, UsageError, "mean the same"),
            ((), {}, UsageError, "names of its channels"),
            (("t1",), {"choices": {"t2": "4"}}, UsageError, "for one of the channels t1. Got 't2'"),
            (("t1",), {"grid": "t2"}, UsageError, "grid is that of one of the channels"),
            (("t1",), {"choices": {"t1": "99"}}, ReadError, "neither a path that exists nor the id or number"),
            (("t1", "t2"), {"choices": {"t1": "4"}}, ReadError, "t1 and t2 are both series 4"),
        ],
    )
    def test_requests_that_make_no_sense(self, study, channels, options, kind, words):
        with pytest.raises(kind, match=words):
            read_study(study, channels, **options)

    def test_a_series_that_is_refused_is_refused_with_its_channel(self, series, dicom, tmp_path):
        folder = series(2, "AX T1", **T1)
        by_place = sorted(folder.iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
        by_place[5].unlink()
        with pytest.raises(ReadError, match=r"^t1: MR series is not loaded: slice missing"):
            read_study(tmp_path, ("t1",))
        assert read_study(tmp_path, ("t1",), allow=["gaps"]).array.shape == (1, 12, 40, 40)


class TestFrames:
    def test_another_frame_of_reference_is_refused_in_words(self, series, tmp_path):
        series(2, "T1", **T1)
        series(4, "T2", **T2, FrameOfReferenceUID="1.2.3.77")
        with pytest.raises(ReadError, match=r"^t2 lies in another frame of reference than t1, .*Register them first"):
            read_study(tmp_path, ("t1", "t2"))
        image = read_study(tmp_path, ("t1", "t2"), allow=["frames"])
        assert any("taken as one world, as allowed" in note for note in image.notes)

    def test_no_frame_of_reference_is_said(self, series, tmp_path):
        series(2, "T1", **T1)
        series(4, "T2", **T2, FrameOfReferenceUID=None)
        assert any("t2 names no frame of reference" in n for n in read_study(tmp_path, ("t1", "t2")).notes)

    def test_nothing_in_common(self, series, tmp_path):
        series(2, "T1", **T1)
        series(4, "T2", origin=(500, 0, 0), **T2)
        with pytest.raises(ReadError, match="t2 and t1 show no place in common"):
            read_study(tmp_path, ("t1", "t2"))


def nifti(path, value, shape=(4, 5, 6), spacing=(3, 2, 1), channels=("grey",)):
    array = (
        np.full((len(channels), *shape), value, np.int16)
        + np.arange(len(channels), dtype=np.int16)[:, None, None, None]
    )
    write_nifti(path, Image(array, Geometry.from_spacing(shape, spacing), channels))
    return path


class TestFiles:
    def test_numbered_as_nnu_net_does(self, tmp_path):
        for k in range(4):
            nifti(tmp_path / f"BRATS_001_{k:04d}.nii.gz", 10 * k)
            nifti(tmp_path / f"BRATS_002_{k:04d}.nii.gz", 99)
        image = read_study(tmp_path / "BRATS_001_0000.nii.gz", FOUR)
        assert image.array[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
        with pytest.raises(ReadError, match=r"t1 \(T1\) is ambiguous|t1 is ambiguous"):
            read_study(tmp_path, FOUR)  # two cases

    def test_named_after_the_sequence(self, tmp_path):
        for value, name in enumerate(("p7_flair", "p7_t1", "p7_t1ce", "p7_t2")):
            nifti(tmp_path / f"{name}.nii.gz", value)
        nifti(tmp_path / "p8_t1.nii.gz", 99)
        image = read_study(tmp_path / "p7_t1.nii.gz", FOUR)
        assert image.array[:, 0, 0, 0].tolist() == [1, 2, 3, 0]

    def test_4d_has_its_channels_in_order(self, tmp_path):
        path = nifti(tmp_path / "a.nii.gz", 5, channels=("a", "b", "c", "d"))
        image = read_study(path, FOUR)
        assert (image.channels, image.array[:, 0, 0, 0].tolist()) == (FOUR, [5, 6, 7, 8])
        with pytest.raises(ReadError, match="t1 is missing"):
            read_study(path, ("t1", "t2"))

    def test_other_grids_and_formats(self, tmp_path):
        nifti(tmp_path / "t1.nii.gz", 1)
        from inspection_core.io.volumes import write_volume

        fine = Image(np.full((1, 12, 10, 6), 7, np.uint8), Geometry.from_spacing((12, 10, 6), (1, 1, 1)), ("grey",))
        write_volume(tmp_path / "t2.nrrd", fine)
        image = read_study(tmp_path, ("t1", "t2"))
        assert image.array.shape == (2, 4, 5, 6)
        assert set(np.unique(image.array[1])) == {7.0}

    def test_pixels_cannot_be_brought_together(self, tmp_path):
        nifti(tmp_path / "t1.nii.gz", 1)
        write_nifti(
            tmp_path / "t2.nii.gz", Image(np.zeros((1, 3, 3, 3), np.uint8), Geometry.pixels((3, 3, 3)), ("grey",))
        )
        with pytest.raises(GeometryError, match="Only grids in millimetres"):
            read_study(tmp_path, ("t1", "t2"))

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ReadError, match="No scan was found"):
            read_study(tmp_path, ("t1",))


class TestResample:
    def test_a_linear_field_is_exact_on_any_grid(self, oblique_image):
        world = oblique_image.geometry.index_to_world(
            np.stack(np.meshgrid(*(np.arange(n) for n in oblique_image.geometry.shape), indexing="ij"), axis=-1)
        )
        field = Image((world @ [1.0, -2.0, 0.5])[None], oblique_image.geometry, ("field",))
        grid = oblique_image.geometry.cropped((1, 1, 1), (5, 7, 9)).resized((9, 8, 7))
        values, outside = resample(field, grid)
        inner = grid.index_to_world(np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1))
        assert outside == 0
        np.testing.assert_allclose(values[0], inner @ [1.0, -2.0, 0.5], atol=1e-4)

    @pytest.mark.parametrize("factors", [(3, 1, 1), (2, 4, 3), (1, 1, 2.5)])
    def test_a_coarser_grid_takes_means_and_moves_nothing(self, oblique_image, factors):
        """A constant stays as it is; a blob keeps its centre; stripes finer than the grid give no false pattern."""
        shape = tuple(24 for _ in range(3))
        fine = Geometry(shape, oblique_image.geometry.affine, "mm")
        grid = fine.resized(tuple(round(n / f) for n, f in zip(shape, factors, strict=True)))
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
        blob = np.exp(-((index - np.array([11.0, 12.4, 10.3])) ** 2).sum(axis=-1) / (2 * 3.0**2))
        values, _ = resample(Image(np.stack([np.full(shape, 7.0), blob]), fine, ("flat", "blob")), grid)
        np.testing.assert_allclose(values[0], 7.0, rtol=1e-6)
        coarse = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
        at = (grid.index_to_world(coarse) * values[1][..., None]).sum(axis=(0, 1, 2)) / values[1].sum()
        np.testing.assert_allclose(at, fine.index_to_world((11.0, 12.4, 10.3)), atol=0.05)

    @pytest.mark.parametrize("factor", [2, 3, 4, 5])
    def test_stripes_finer_than_the_grid_do_not_come_back_as_others(self, factor):
        stripes = np.broadcast_to(100.0 * (np.arange(60) % 2), (2, 2, 60))
        fine = Geometry.from_spacing(stripes.shape, (1, 1, 1))
        values, _ = resample(Image(stripes[None], fine, ("stripes",)), fine.resized((2, 2, 60 // factor)))
        inner = values[0, 0, 0, 1:-1]
        assert np.ptp(inner) < 60 / factor  # without means: 100 for odd factors
        assert abs(inner.mean() - 50) < 1

    def test_outside_holds_the_lowest_value_and_is_counted(self):
        image = Image(np.full((1, 2, 2, 2), 9, np.int16), Geometry.from_spacing((2, 2, 2), (1, 1, 1)), ("grey",))
        values, outside = resample(image, Geometry.from_spacing((4, 2, 2), (1, 1, 1)), fill=-1)
        assert outside == 0.5
        assert values[0, :, 0, 0].tolist() == [9, 9, -1, -1]


@pytest.mark.data
def test_a_real_case_of_two_files(medical_data, tmp_path):
    """FLAIR and T1 after contrast of one glioma, published on one grid, come together unchanged."""
    files = sorted((medical_data / "tumour3d").rglob("*.nii.gz"))
    flair = [f for f in files if "flair" in f.name.lower()]
    t1c = [f for f in files if from_words(f.name.removesuffix(".nii.gz")) == "t1c"]
    if len(flair) != 1 or len(t1c) != 1:
        pytest.skip("the shared BraTS case is not there as two files")
    image = read_study([*flair, *t1c], ("t1c", "flair"), assume_mm=True)
    for k, path in enumerate((*t1c, *flair)):
        np.testing.assert_array_equal(image.array[k], np.asarray(nib.load(path).dataobj).T)
