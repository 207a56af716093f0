"""NIfTI in and out: what stays to the byte, what is said, and what is refused."""

import csv
import gzip
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from inspection_core.errors import GeometryError, InspectionError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.nifti import orientation, read_nifti, read_nifti_scan, write_nifti


def nifti_file(path, data, affine=None, **fields):
    """Write a NIfTI with nibabel, and set header fields to whatever the test wants."""
    image = nib.Nifti1Image(data, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if fields:
        raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        header = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for name, value in fields.items():
            header[name] = value
        raw[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


class TestAxesAndWorld:
    def test_array_is_c_z_y_x(self, tmp_path):
        data = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # nibabel's order: x, y, z
        image = read_nifti(nifti_file(tmp_path / "a.nii", data))
        assert image.array.shape == (1, 4, 3, 2)
        assert image.array[0, 3, 1, 0] == data[0, 1, 3]

    def test_ras_becomes_lps_at_this_edge(self, tmp_path):
        affine = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
        image = read_nifti(nifti_file(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8), affine))
        np.testing.assert_allclose(image.geometry.index_to_world([0, 0, 0]), [10, -20, 30])
        np.testing.assert_allclose(image.geometry.index_to_world([1, 1, 1]), [8, -23, 34])
        assert orientation(image.geometry) == "RAS"

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_oblique_round_trip(self, tmp_path, oblique_image, suffix):
        write_nifti(tmp_path / f"a{suffix}", oblique_image)
        back = read_nifti(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(back.array, oblique_image.array)
        np.testing.assert_allclose(back.geometry.affine, oblique_image.geometry.affine, atol=1e-5)  # float32 header
        assert back.array.dtype == np.int16
        assert back.geometry.unit == "mm"

    def test_sheared_grid_has_no_qform(self, tmp_path):
        affine = np.array([[0, 0, 1.0, 0], [1.5, 1.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]])
        write_nifti(
            tmp_path / "a.nii", Image(np.zeros((1, 2, 3, 4), np.uint8), Geometry((2, 3, 4), affine, "mm"), ("grey",))
        )
        header = nib.load(tmp_path / "a.nii").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
        np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").geometry.affine, affine)

    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2), (5, 4, 1, 1, 3)])
    def test_two_to_five_axes(self, tmp_path, shape):
        data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        scan = read_nifti_scan(nifti_file(tmp_path / "a.nii", data))
        write_nifti(tmp_path / "b.nii", scan.image, header=scan.header)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "b.nii").dataobj), data)

    def test_time_points_are_named(self, tmp_path):
        path = nifti_file(tmp_path / "a.nii", np.zeros((2, 2, 2, 3), np.int16), pixdim=[1, 2, 3, 4, 1.5, 0, 0, 0])
        assert read_nifti(path).channels == ("t = 0 s", "t = 1.5 s", "t = 3 s")

    def test_colours(self, tmp_path):
        image = Image(
            np.arange(3 * 24, dtype=np.uint8).reshape(3, 2, 3, 4),
            Geometry.from_spacing((2, 3, 4), (1, 1, 1)),
            ("red", "green", "blue"),
        )
        write_nifti(tmp_path / "a.nii.gz", image)
        back = read_nifti(tmp_path / "a.nii.gz")
        assert back.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(back.array, image.array)


class TestForms:
    def test_disagreement_is_said_and_sform_wins(self, tmp_path):
        path = nifti_file(tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), qform_code=1, sform_code=1, qoffset_x=7.0)
        image = read_nifti(path)
        assert image.notes == ("qform and sform disagree by up to 7; the sform is used",)

    def test_unusable_sform_gives_way_to_qform(self, tmp_path):
        path = nifti_file(
            tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), sform_code=1, qform_code=1, srow_x=[0, 0, 0, 0]
        )
        image = read_nifti(path)
        assert "the qform is used" in image.notes[0]
        assert image.geometry.spacing == (4.0, 3.0, 2.0)

    def test_neither_form_is_said(self, tmp_path):
        path = nifti_file(tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), sform_code=0, qform_code=0)
        assert "left and right, and the origin, are unknown" in read_nifti(path).notes[0]

    def test_nan_affine_is_refused(self, tmp_path):
        path = nifti_file(
            tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), sform_code=1, qform_code=0, srow_y=[np.nan] * 4
        )
        with pytest.raises(GeometryError, match=r"a\.nii: The affine must be finite"):
            read_nifti(path)


class TestUnits:
    def test_no_unit_reads_as_pixels_and_says_so(self, tmp_path):
        path = nifti_file(tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), xyzt_units=0)
        image = read_nifti(path)
        assert image.geometry.unit == "px"
        assert image.geometry.spacing == (1, 1, 1)
        assert "--assume-mm" in image.notes[0]

    def test_assume_mm(self, tmp_path):
        path = nifti_file(tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), xyzt_units=0)
        image = read_nifti(path, assume_mm=True)
        assert image.geometry.spacing == (4, 3, 2)
        assert image.geometry.unit == "mm"

    @pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001)])
    def test_metres_and_micrometres_become_mm(self, tmp_path, code, factor):
        path = nifti_file(tmp_path / "a.nii", np.zeros((5, 5, 5), np.uint8), xyzt_units=code)
        assert read_nifti(path).geometry.spacing == pytest.approx((4 * factor, 3 * factor, 2 * factor))

    def test_pixels_write_as_unit_0_with_steps_of_1(self, tmp_path):
        write_nifti(tmp_path / "a.nii", Image(np.zeros((1, 2, 3, 4), np.uint8), Geometry.pixels((2, 3, 4)), ("grey",)))
        header = nib.load(tmp_path / "a.nii").header
        assert int(header["xyzt_units"]) & 7 == 0
        assert header.get_zooms() == (1, 1, 1)


class TestValues:
    @pytest.mark.parametrize(
        ("slope", "inter", "dtype", "value"),
        [(1, -1024, np.int16, -1021), (0.5, 0, np.float32, 1.5), (0, 7, np.int16, 3), (2, 0, np.int16, 6)],
    )
    def test_scaling(self, tmp_path, slope, inter, dtype, value):
        data = np.full((2, 2, 2), 3, np.int16)
        image = read_nifti(nifti_file(tmp_path / "a.nii", data, scl_slope=slope, scl_inter=inter))
        assert image.array.flat[0] == value
        assert image.array.dtype == (np.uint8 if (slope, value) == (2, 6) else dtype)

    @pytest.mark.parametrize("code", ["<", ">"])
    @pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
    def test_unchanged_is_unchanged_to_the_byte(self, tmp_path, dtype, code):
        data = np.arange(60).reshape(3, 4, 5).astype(dtype)
        header = nib.Nifti1Header(endianness=code)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm")
        image = nib.Nifti1Image(data, np.diag([0.1, 0.2, 0.3, 1.0]), header)
        nib.save(image, tmp_path / "a.nii")
        scan = read_nifti_scan(tmp_path / "a.nii")
        write_nifti(tmp_path / "b.nii", scan.image, header=scan.header, description="")
        before, after = (tmp_path / "a.nii").read_bytes(), (tmp_path / "b.nii").read_bytes()
        scaling = slice(112, 120)  # nibabel writes NaN for "no scaling" and so do we
        assert before[scaling] == after[scaling]
        assert before == after

    def test_new_values_under_an_old_header_are_stored_whole(self, tmp_path):
        scan = read_nifti_scan(nifti_file(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8)))
        floats = Image(np.full((1, 4, 3, 2), 0.25, np.float32), scan.image.geometry, ("score",))
        write_nifti(tmp_path / "b.nii", floats, header=scan.header)
        np.testing.assert_array_equal(read_nifti(tmp_path / "b.nii").array, floats.array)

    def test_research_use_is_written(self, tmp_path, oblique_image):
        write_nifti(tmp_path / "a.nii", oblique_image)
        assert b"Research use only" in nib.load(tmp_path / "a.nii").header["descrip"].tobytes()

    def test_research_use_beside_another_description(self, tmp_path):
        scan = read_nifti_scan(nifti_file(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8), descrip=b"made by FSL"))
        write_nifti(tmp_path / "b.nii", scan.image, header=scan.header)
        header = nib.load(tmp_path / "b.nii").header
        assert header["descrip"].tobytes().startswith(b"made by FSL")
        assert b"Research use only" in header.extensions[0].get_content()


def _broken(name, tmp_path):
    path = nifti_file(tmp_path / f"{name}.nii", np.zeros((8, 8, 8), np.int16))
    raw = bytearray(path.read_bytes())
    match name:
        case "empty":
            raw = b""
        case "text":
            raw = b"This is a letter, not a scan.\n" * 40
        case "header_only":
            raw = raw[:352]
        case "half":
            raw = raw[: len(raw) // 2]
        case "absurd_size":
            struct.pack_into("<8h", raw, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
        case "negative_size":
            struct.pack_into("<8h", raw, 40, 3, -8, 8, 8, 1, 1, 1, 1)
        case "complex":
            struct.pack_into("<hh", raw, 70, 32, 64)
        case "nan_scaling":
            struct.pack_into("<ff", raw, 112, 2.0, np.nan)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "is empty"),
        ("text", "is not NIfTI"),
        ("header_only", "truncated, or its header is damaged: it claims 1,024 bytes of voxels"),
        ("half", "truncated"),
        ("absurd_size", "truncated, or its header is damaged: it claims 70,"),
        ("negative_size", "is not NIfTI|every axis"),
        ("complex", "holds complex numbers"),
        ("nan_scaling", "fields that make no sense"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, name, words):
    with pytest.raises(ReadError, match=words) as caught:
        read_nifti(_broken(name, tmp_path))
    assert "\n" not in str(caught.value)
    assert f"{name}.nii" in str(caught.value)


def test_truncated_gzip(tmp_path):
    path = nifti_file(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20), dtype=np.int16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ReadError, match="truncated or damaged: its compressed data break off"):
        read_nifti(path)


def test_wrong_checksum_of_gzip(tmp_path):
    path = nifti_file(tmp_path / "a.nii.gz", np.zeros((20, 20, 20), np.int16))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ReadError, match="truncated or damaged"):
        read_nifti(path)


def test_missing_file(tmp_path):
    with pytest.raises(ReadError, match="Found no file there"):
        read_nifti(tmp_path / "none.nii")


def test_half_a_pair(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(ReadError, match="half of a NIfTI pair"):
        read_nifti(tmp_path / "a.hdr")


@pytest.mark.parametrize("how", ["a type", "the source's header"])
def test_what_is_written_is_not_copied_as_a_whole(how, tmp_path):
    array = np.random.default_rng(0).normal(size=(1, 40, 200, 200)).astype(np.float32)
    image = Image(array, Geometry.from_spacing(array.shape[1:], (2.0, 1.0, 1.0)), ("score",))
    write_nifti(tmp_path / "a.nii", image)  # imports and caches are not counted
    header = read_nifti_scan(tmp_path / "a.nii").header if how == "the source's header" else None
    tracemalloc.start()
    try:
        write_nifti(tmp_path / "b.nii.gz", image, header=header, dtype=np.float32 if header is None else None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.3 * array.nbytes
    assert np.array_equal(read_nifti(tmp_path / "b.nii.gz").array, array)


def test_other_suffixes_are_not_written(tmp_path, oblique_image):
    with pytest.raises(ReadError, match=r"end in \.nii"):
        write_nifti(tmp_path / "a.txt", oblique_image)


@pytest.mark.data
def test_every_shared_file_reads_as_nibabel_reads_it_or_is_refused(medical_data, tmp_path):
    """Orientation, affine and values as nibabel gives them; written again, affine, type and values to the byte."""
    folder = medical_data / "nifti_odd"
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    refused = {"not-nifti.nii": "is not NIfTI", "MADE_truncated_gzip.nii.gz": "truncated"}
    for row in rows:
        path = folder / row["file"]
        if path.name in refused:
            with pytest.raises(InspectionError, match=refused[path.name]):
                read_nifti(path)
            continue
        theirs = nib.load(path)
        scan = read_nifti_scan(path, assume_mm=True)
        assert orientation(scan.image.geometry) == row["orientation"], path.name
        np.testing.assert_allclose(
            np.diag([-1, -1, 1, 1]) @ scan.image.geometry.affine[:, [2, 1, 0, 3]],
            theirs.affine,
            atol=1e-6,
            err_msg=path.name,
        )
        out = tmp_path / "again.nii.gz"
        write_nifti(out, scan.image, header=scan.header)
        again = nib.load(out)
        assert again.affine.tobytes() == theirs.affine.tobytes(), path.name
        assert again.get_data_dtype() == theirs.get_data_dtype(), path.name
        np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(theirs.dataobj), err_msg=path.name)
        if theirs.get_data_dtype().fields is None:
            values = np.asarray(theirs.dataobj)
            np.testing.assert_allclose(
                scan.image.array,
                values.reshape(*(*values.shape, 1, 1)[:3], -1, order="F").T,
                rtol=1e-6,
                err_msg=path.name,
            )
