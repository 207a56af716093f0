"""The shared real series, against dcm2niix; and the tables in docs/scans.md, which this test keeps true.

To write the tables anew after a change: ``UPDATE_DOCS=1 pytest tests/core/io/test_shared_scans.py``.
"""

import csv
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from inspection_core.convert import convert
from inspection_core.errors import InspectionError, ReadError
from inspection_core.io.dicom import read_dicom, scan_dicom
from inspection_core.io.nifti import orientation, read_nifti

DOCS = Path(__file__).parents[3] / "docs" / "scans.md"
pytestmark = pytest.mark.data

NO_REFERENCE = {"ct_ge_gantry_tilt_varspacing": "dcm2niix's tilt-corrected volume is not kept"}
REFUSED = {
    "ct_ge_gantry_tilt_varspacing": "irregular: steps between slices vary from 1.08 to 7 mm",
    "mr_siemens_prostate_bval_MISSING_SLICE": "slice missing between z = 17.2 and z = 22.9 mm",
}
SERIES = [
    "ct_ge_gantry_tilt_varspacing",
    "mr_ge_epi_4d",
    "mr_ge_localizer_three_planes",
    "mr_philips_enhanced_multiframe_fieldmap",
    "mr_philips_epi_4d_oblique",
    "mr_siemens_gre_field_sag_gap",
    "mr_siemens_mosaic_coronal",
    "mr_siemens_mosaic_sagittal",
    "mr_siemens_prostate_bval_MISSING_SLICE",
    "mr_siemens_prostate_bval_complete",
    "mr_siemens_prostate_t2_tra_oblique",
    "mr_siemens_xa30_enhanced_multiframe_t1",
    "mr_uih_dti_gridded_4d",
]


def keep_table(marker, lines):
    """Hold a table against the one in the docs, or write it there when asked to."""
    text = DOCS.read_text()
    old = re.search(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", text, flags=re.S)
    new = "".join(f"{line}\n" for line in lines)
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(text[: old.start(1)] + new + text[old.end(1) :])
        return
    assert old.group(1) == new, f"docs/scans.md is out of date: run UPDATE_DOCS=1 pytest {Path(__file__).name}"


def test_every_shared_series_is_known(medical_data):
    assert sorted(p.name for p in (medical_data / "dicom" / "series").iterdir()) == SERIES


@pytest.mark.parametrize("name", [n for n in SERIES if n not in REFUSED])
def test_agrees_with_dcm2niix(medical_data, tmp_path, name):
    folder = medical_data / "dicom" / "series" / name
    ours = [nib.as_closest_canonical(nib.load(p)) for p in convert(folder / "dicom", tmp_path).outputs]
    references = sorted((folder / "ref").glob("*.nii.gz"))
    assert len(ours) == len(references)
    for path in references:
        reference = nib.as_closest_canonical(nib.load(path))
        near = [o for o in ours if o.shape == reference.shape and np.abs(o.affine - reference.affine).max() < 1e-3]
        assert near, f"{path.name}: no volume of shape {reference.shape} at the same place"
        theirs = reference.get_fdata()
        if "philips" in name:  # dcm2niix multiplies in single precision there
            limit = 2e-5 * np.abs(theirs).max()
            assert any(np.abs(o.get_fdata() - theirs).max() <= limit for o in near), path.name
        else:
            assert any(np.array_equal(o.get_fdata(), theirs) for o in near), path.name


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_right_reason(medical_data, tmp_path, name):
    with pytest.raises(ReadError, match=re.escape(REFUSED[name])):
        convert(medical_data / "dicom" / "series" / name / "dicom", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_missing_slice_is_where_the_complete_series_has_it(medical_data):
    """Filled from its neighbours on demand, every slice that was there stays as it is."""
    series = medical_data / "dicom" / "series"
    whole = read_dicom(series / "mr_siemens_prostate_bval_complete" / "dicom").image
    filled = read_dicom(series / "mr_siemens_prostate_bval_MISSING_SLICE" / "dicom", allow=["gaps"]).image
    assert filled.array.shape == whole.array.shape
    np.testing.assert_allclose(filled.geometry.affine, whole.geometry.affine, atol=1e-3)
    differs = [k for k in range(19) if not np.array_equal(filled.array[0, k], whole.array[0, k])]
    assert len(differs) == 1


def test_the_tilted_ct_stands_straight_where_its_headers_put_it(medical_data):
    """Random pixels of the slices taken are found at their world coordinates in the resampled volume."""
    loaded = read_dicom(
        medical_data / "dicom" / "series" / "ct_ge_gantry_tilt_varspacing" / "dicom", allow=["irregular"]
    )
    image, frames = loaded.image, loaded.volume.frames[0]
    assert "18.5 degree gantry tilt" in image.notes[0]
    steps = image.geometry.affine[:3, :3] / image.geometry.spacing
    np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-9)
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[image.array[0] > 300] = 1  # bone
    back = loaded.to_slices(labels)
    taken = np.stack([load_volume_slice(frame) for frame in frames]) > 300
    inner = slice(2, 13)  # the first part has even steps; slices there are only moved within their plane
    dice = 2 * (back[inner] & taken[inner]).sum() / (back[inner].sum() + taken[inner].sum())
    assert dice > 0.9


def test_every_voxel_of_the_straightened_ct_is_what_its_two_slices_say(medical_data):
    """Random voxels, taken to the world and looked up in the slices on either side by the headers alone."""
    loaded = read_dicom(
        medical_data / "dicom" / "series" / "ct_ge_gantry_tilt_varspacing" / "dicom", allow=["irregular"]
    )
    image, frames, positions = loaded.image, loaded.volume.frames[0], np.array(loaded.volume.positions)
    taken = np.stack([load_volume_slice(frame) for frame in frames]).astype(float)
    row, column, normal = (np.array(v) for v in (frames[0].along_row, frames[0].along_column, frames[0].normal))
    spacing = np.array(frames[0].spacing)
    for index in np.random.default_rng(5).integers((0, 60, 10), (37, 550, 500), (500, 3)):
        world = image.geometry.index_to_world(index)
        at = float(world @ normal)
        after = int(np.clip(np.searchsorted(positions, at), 1, len(positions) - 1))
        share = (at - positions[after - 1]) / (positions[after] - positions[after - 1])
        value, ends = 0.0, []
        for k, weight in ((after - 1, 1 - share), (after, share)):
            offset = world - np.array(frames[k].position)
            place = np.array([offset @ column, offset @ row]) / spacing
            inside = (place >= 0).all() and (place <= np.array(taken.shape[1:]) - 1).all()
            sample = map_coordinates(taken[k], place[:, None], order=1)[0] if inside else float(taken.min())
            value += weight * sample
            ends.append(sample)
        # A slice within 2 % of a step from a voxel's place is taken as it is, so that even slices are never mixed.
        limit = 4 + 0.08 * abs(ends[0] - ends[1])
        assert abs(value - image.array[0][tuple(index)]) < limit, (index, value, image.array[0][tuple(index)], ends)


def load_volume_slice(frame):
    return read_dicom(frame.file.blob.path).image.array[0, 0]


def test_table_of_series(medical_data):
    rows = ["| series | verdict | result |", "| --- | --- | --- |"]
    for name in SERIES:
        (series,) = scan_dicom(medical_data / "dicom" / "series" / name / "dicom").series
        refused = any(v.refused() for v in series.volumes)
        result = "refused" if refused else "equal to dcm2niix"
        rows.append(f"| `{name}` | {series.verdict} | {result} |")
    keep_table("series", rows)


def odd_rows(medical_data):
    folder = medical_data / "dicom" / "odd_files"
    for row in csv.DictReader((folder / "manifest.csv").read_text().splitlines()):
        if not row["file"].endswith((".nii.gz", ".txt")):
            yield row, folder / row["group"] / row["file"]


def test_odd_files_load_with_pydicoms_values_or_are_refused(medical_data):
    """What pydicom decodes, loads here with the same values, rescaled; what it cannot decode is refused."""
    extra = {"OT-PAL-8-face.dcm"}  # pydicom alone lacks its encoding's name
    for row, path in odd_rows(medical_data):
        decoded = row["pydicom_result"] == "decoded"
        try:
            loaded = read_dicom(path)
        except InspectionError:
            if decoded and not path.name.startswith("emri_small"):
                pytest.fail(f"{path.name} is refused")
            continue
        assert decoded or path.name in extra, path.name
        first = loaded.volume.first
        low, high = (float(v) for v in row["range"].split("..")) if row["range"] else (0, 0)
        if (
            row["photometric"] in ("MONOCHROME2", "RGB")
            and first.corner == (0, 0)
            and decoded
            and len(loaded.volume.frames[0]) == 1
        ):
            got = sorted([loaded.image.array.min(), loaded.image.array.max()])
            np.testing.assert_allclose(
                got, [low * first.slope + first.intercept, high * first.slope + first.intercept], rtol=1e-5
            )


def test_fourteen_encodings_of_one_slice_agree(medical_data):
    folder = medical_data / "dicom" / "odd_files" / "transfer_syntax_same_ct"
    plain = read_dicom(folder / "CTImage.dcm").image.array
    lossless = [p for p in folder.iterdir() if re.search(r"Lossless|Explicit|Process14|RLE", p.name)]
    assert len(lossless) == 7
    for path in lossless:
        np.testing.assert_array_equal(read_dicom(path).image.array, plain, err_msg=path.name)


def test_nine_encodings_of_one_mosaic_agree(medical_data):
    folder = medical_data / "dicom" / "odd_files" / "transfer_syntax_same_mosaic"
    images = [read_dicom(folder / f"{k}.dcm").image for k in range(1, 10)]
    for image in images[1:]:
        np.testing.assert_array_equal(image.array, images[0].array)
        assert image.geometry.is_close(images[0].geometry)


@pytest.mark.parametrize("name", ["jpegls_4slices", "non_isotropic", "rgb"])
def test_small_series_with_published_truth(medical_data, tmp_path, name):
    folder = medical_data / "dicom" / "odd_files" / "geometry_ok_small" / name
    (truth,) = folder.glob("*.nii.gz")
    out = convert(folder, tmp_path / "a.nii.gz").outputs[0]
    ours, theirs = (nib.as_closest_canonical(nib.load(p)) for p in (out, truth))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    a, b = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    if a.dtype.fields is not None and b.dtype.fields is not None:
        assert all(np.array_equal(a[f], b[g]) for f, g in zip(a.dtype.fields, b.dtype.fields, strict=False))
    elif a.dtype.fields is None:
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_orientation_phantom(medical_data):
    """Every axis can be told from every other: a voxel's value is the sum of its indices.

    Its two published forms disagree: slices of the DICOM run to the feet (z = 0, -2, -4 ...), those of the NIfTI to the
    head. dcm2niix reads the DICOM as is done here, so each form is read as it says.
    """
    folder = medical_data / "nifti_odd" / "ibsi2_orientation_phantom"
    ours = read_dicom(folder / "dicom").image
    theirs = read_nifti(folder / "orientation.nii.gz")
    np.testing.assert_array_equal(np.flip(ours.array, axis=1), theirs.array)
    for image, down in ((ours, -2), (theirs, 2)):
        index = image.geometry.world_to_index([2 * 5, 2 * 7, down * 11])
        z, y, x = np.rint(index).astype(int)
        assert image.array[0, z, y, x] == 5 + 7 + 11


def test_pet_series_agrees_with_its_own_activity(medical_data):
    folder = medical_data / "dicom" / "rt_seg" / "sts001_PET_rtstruct" / "image"
    loaded = read_dicom(folder)
    assert loaded.volume.verdict == "regular stack"
    assert loaded.volume.file.modality == "PT"
    suv = read_dicom(folder, suv=True)
    ratio = suv.image.array[loaded.image.array > 0] / loaded.image.array[loaded.image.array > 0]
    assert np.ptp(ratio) < 1e-4 * ratio.mean()


def test_table_of_odd_nifti_files(medical_data):
    """`test_nifti.py` holds what loads here against nibabel, value by value and back to the byte."""
    folder = medical_data / "nifti_odd"
    rows = ["| file | shape (z, y, x) | axes | result |", "| --- | --- | --- | --- |"]
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".nii", ".gz")):
        try:
            image = read_nifti(path)
        except InspectionError as error:
            rows.append(f"| `{path.name}` | | | refused: {str(error).replace(f'{path.name} ', '', 1)} |")
            continue
        count = len(image.array)
        size = " x ".join(str(n) for n in image.geometry.shape) + (f", {count} channels" if count > 1 else "")
        rows.append(
            f"| `{path.name}` | {size} | {orientation(image.geometry)} | {'; '.join(('loads', *image.notes))} |"
        )
    keep_table("nifti", rows)


def test_table_of_odd_files(medical_data):
    rows = ["| file | result |", "| --- | --- |"]
    for group in ("geometry_failures", "geometry_ok_small", "temporal_4d_tiny_panimg"):
        folder = medical_data / "dicom" / "odd_files" / group
        for sub in sorted(p for p in folder.iterdir() if p.is_dir()) or [folder]:
            verdicts = [s.verdict for s in scan_dicom(sub).series]
            rows.append(f"| `{sub.relative_to(folder.parent)}/` | {' / '.join(verdicts)} |")
    loads: dict[str, int] = {}
    for row, path in odd_rows(medical_data):
        try:
            read_dicom(path)
            loads[row["group"].split("/")[0]] = loads.get(row["group"].split("/")[0], 0) + 1
        except InspectionError as error:
            reason = str(error).replace("No DICOM image was found: ", "").replace(f"{path.name} ", "", 1)
            rows.append(f"| `{row['group']}/{path.name[:60]}` | refused: {reason} |")
    rows += [f"| all other {n} of `{group}` | load |" for group, n in loads.items()]
    keep_table("odd", rows)
