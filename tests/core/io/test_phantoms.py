"""Oriented phantoms: objects placed by world coordinates are found there after reading, predicting and writing.

Three balls, each of its own size, at the corners of no symmetric figure: a swap, a flip, a mirror or a shift of half a
voxel moves at least one of them.
"""

import itertools
import json

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.convert import convert
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_seg import read_seg
from inspection_core.io.nifti import read_nifti, read_nifti_scan
from inspection_core.io.scans import write_scan
from inspection_core.prediction import RESEARCH_USE

SHAPE = (14, 40, 36)
PLACES = ((4, 11, 10), (9, 27, 12), (8, 14, 26))
RADII = (5.2, 4.0, 3.1)

# name: how `write_series` writes it
SERIES = {
    "axial": {},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1)},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "oblique": {"orientation": "TURNED"},
    "flipped": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "feet first": {"orientation": (1, 0, 0, 0, -1, 0)},
    "tilted": {"drift": (2.5 * np.tan(np.radians(14)), 0.0)},
}
# name: (order of axes, flips) that an axial volume is stored in
ARRAYS = {
    "axial": ((0, 1, 2), (0, 0, 0)),
    "sagittal": ((2, 0, 1), (1, 0, 0)),
    "coronal": ((1, 0, 2), (0, 1, 1)),
    "mirrored": ((0, 1, 2), (0, 0, 1)),
}
# name: what the model makes of a volume
MODELS = {
    "blocks at another spacing": {"spacing": (2.0, 0.7, 0.7), "tile": 32, "blend": "gaussian"},
    "slices with neighbours": {"view": "slices", "neighbours": 1, "window_size": (40, 40)},
    "blocks as stored": {"orientation": "", "tile": 16},
}


def run(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def volume(balls, geometry) -> np.ndarray:
    """Draw balls given by world centre and radius, whatever the grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    world = geometry.index_to_world(index)
    inside = [np.linalg.norm(world - centre, axis=-1) <= radius for centre, radius in balls]
    return np.where(np.any(inside, axis=0), 1000, 0).astype(np.int16)


def balls_of(geometry):
    return [(geometry.index_to_world(place), radius) for place, radius in zip(PLACES, RADII, strict=True)]


def assert_found(balls, found, geometry):
    """Each ball, largest first, lies at its world coordinates within half a voxel along every axis of the grid."""
    assert len(found) == len(balls)
    for (centre, _), at in zip(balls, found, strict=True):
        apart = geometry.world_to_index(at) - geometry.world_to_index(centre)
        assert np.abs(apart).max() <= 0.5, apart


def check_files(folder, balls, geometry):
    """The findings, and what other programs will see in the NIfTI files."""
    data = json.loads((folder / "findings.json").read_text())
    found = sorted(data["findings"], key=lambda f: -f["size"])
    assert_found(balls, [f["centroid_world"] for f in found], geometry)
    assert (data["verdict"], data["note"], data["unit"]) == ("NG", RESEARCH_USE, "mm")
    for finding, (_, radius) in zip(found, balls, strict=True):
        assert finding["size_unit"] == "mm3"
        assert finding["size"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.2)
        assert finding["calibrated"] is False
    mask, score = read_nifti(folder / "mask.nii.gz"), read_nifti(folder / "score.nii.gz")
    for image in (mask, score):
        assert image.geometry.is_close(geometry, 1e-4)
    assert mask.array.dtype == np.uint8
    assert score.array.dtype == np.float32
    assert_found(balls, blobs(mask.array[0] > 0, mask.geometry), geometry)
    assert_found(balls, blobs(score.array[0] > 0.5, score.geometry), geometry)
    for name in ("mask", "score"):
        header = read_nifti_scan(folder / f"{name}.nii.gz").header
        text = header["descrip"].tobytes() + b"".join(e.get_content() for e in header.extensions)
        assert RESEARCH_USE.encode() in text
    return found


def blobs(mask, geometry):
    """Return the world centroids of connected regions, largest first."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    regions = sorted((np.argwhere(parts == k) for k in range(1, count + 1)), key=len, reverse=True)
    return [geometry.index_to_world(region).mean(axis=0) for region in regions]


@pytest.mark.parametrize("model", ["blocks at another spacing", "slices with neighbours"])
@pytest.mark.parametrize("case", SERIES)
def test_dicom(case, model, dicom, band, tmp_path):
    given = {k: getattr(dicom, v) if isinstance(v, str) else v for k, v in SERIES[case].items()}
    stored = Geometry(SHAPE, dicom.series_affine(**given), "mm")
    balls = balls_of(stored)
    series = dicom.write_series(tmp_path / "series", volume(balls, stored), **given)
    loaded = read_dicom(series)
    shown = run(series, "-m", band(**MODELS[model]), "-o", tmp_path / "out", "--format", "nifti,png,dicom-seg,dicom-sr")
    assert any(line.startswith("finding ") for line in shown.splitlines())

    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.startswith("series_")
    assert sorted(p.name for p in folder.iterdir()) == [
        "findings.json", "mask.nii.gz", "overlay.png", "score.nii.gz", "seg.dcm", "sr.dcm",
    ]  # fmt: skip
    found = check_files(folder, balls, loaded.image.geometry)

    back = read_seg(folder / "seg.dcm", loaded)
    inside = back.array.reshape(3, *loaded.image.geometry.shape)
    segments = sorted((back.geometry.index_to_world(np.argwhere(s)) for s in inside), key=len, reverse=True)
    assert_found(balls, [s.mean(axis=0) for s in segments], stored)
    if not loaded.resampled:
        assert np.array_equal(inside.any(axis=0), read_nifti(folder / "mask.nii.gz").array[0] > 0)
    volumes = sorted(measured(folder / "sr.dcm", "Volume"), reverse=True)
    assert volumes == pytest.approx([f["size"] for f in found], rel=1e-5)
    axes = sorted(measured(folder / "sr.dcm", "Long Axis"))
    assert axes == pytest.approx(sorted(f["long_axis"] for f in found), rel=1e-5)


def measured(path, name):
    """Return the numbers of one kind in a structured report."""
    found = []

    def walk(items):
        for item in items:
            if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == name:
                found.append(float(item.MeasuredValueSequence[0].NumericValue))
            walk(item.get("ContentSequence", []))

    walk(pydicom.dcmread(path).ContentSequence)
    return found


@pytest.mark.parametrize("model", ["blocks at another spacing", "blocks as stored"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("stored", ARRAYS)
def test_files(stored, suffix, model, band, tmp_path):
    axes, flips = ARRAYS[stored]
    geometry = Geometry.from_spacing(SHAPE, (2.5, 0.9, 0.8), (-12.0, 33.0, 7.5)).transposed(axes)
    for axis, flip in enumerate(flips):
        geometry = geometry.flipped(axis) if flip else geometry
    straight = Geometry.from_spacing(SHAPE, (2.5, 0.9, 0.8), (-12.0, 33.0, 7.5))
    balls = balls_of(straight)
    write_scan(tmp_path / f"brain{suffix}", Image(volume(balls, geometry)[None], geometry, ("grey",)))
    run(tmp_path / f"brain{suffix}", "-m", band(**MODELS[model]), "-o", tmp_path / "out", "--format", "nifti")
    check_files(tmp_path / "out" / "brain", balls, geometry)


def test_any_array_order_gives_the_same_answer(band, tmp_path):
    """All 48 ways to store one oblique volume: one score, one mask, one verdict."""
    from inspection_core.engine import Engine
    from inspection_core.infer import predict

    affine = Geometry.from_spacing((8, 11, 10), (3.0, 1.0, 1.3)).affine.copy()
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)) + 3 * np.eye(3))[0]
    affine[:3, :3] = turn @ affine[:3, :3]
    geometry = Geometry((8, 11, 10), affine, "mm")
    array = np.random.default_rng(0).gamma(2.0, 200, geometry.shape).astype(np.float32)
    model = Engine("cpu").load(
        band(spacing=(2.0, 1.5, 1.5), normalise="z-score", bands=((0.8, 9.0),), tile=8, blend="gaussian", crop=True)
    )
    first = predict(Image(array[None], geometry, ("CT",)), model)
    assert first.findings
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)):
        other, place = array.transpose(axes), geometry.transposed(axes)
        score, mask = first.score.transpose(axes), first.mask.transpose(axes)
        for axis in np.flatnonzero(flips):
            other, place = np.flip(other, axis), place.flipped(int(axis))
            score, mask = np.flip(score, axis), np.flip(mask, axis)
        result = predict(Image(np.ascontiguousarray(other)[None], place, ("CT",)), model)
        assert np.abs(result.score - score).max() < 1e-3
        assert (result.mask != mask).mean() < 1e-3
        assert (result.verdict, len(result.findings)) == (first.verdict, len(first.findings))
        assert result.image_score == pytest.approx(first.image_score, abs=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_dicom_and_nifti_of_one_study_alone_or_again_give_the_same(model, dicom, band, tmp_path):
    geometry = Geometry(SHAPE, dicom.series_affine(), "mm")
    series = dicom.write_series(tmp_path / "series", volume(balls_of(geometry), geometry))
    convert(series, tmp_path / "scan.nii.gz")
    folder = band(**MODELS[model])
    run(series, "-m", folder, "-o", tmp_path / "a")
    run(tmp_path / "scan.nii.gz", "-m", folder, "-o", tmp_path / "b")
    run(series, tmp_path / "scan.nii.gz", "-m", folder, "-o", tmp_path / "c")
    places = [*sorted((tmp_path / "a").iterdir()), tmp_path / "b" / "scan", *sorted((tmp_path / "c").iterdir())]
    scores = [read_nifti(place / "score.nii.gz").array for place in places]
    assert len(scores) == 4
    for other in scores[1:]:
        assert np.array_equal(other, scores[0])


def test_pixels_stay_pixels(band, tmp_path):
    """A scan of unknown spacing gets sizes in voxels, and is not scaled; as millimetres it is, if the user says so."""
    import nibabel as nib

    array = np.zeros((20, 18, 16), np.int16)
    array[6:12, 5:11, 4:8] = 1000
    file = nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
    file.header.set_xyzt_units("unknown")
    nib.save(file, tmp_path / "a.nii.gz")
    folder = band(spacing=(3.0, 1.0, 1.0))
    run(tmp_path / "a.nii.gz", "-m", folder, "-o", tmp_path / "px")
    run(tmp_path / "a.nii.gz", "-m", folder, "-o", tmp_path / "mm", "--assume-mm")
    px, mm = (json.loads((tmp_path / d / "a" / "findings.json").read_text()) for d in ("px", "mm"))
    assert (px["unit"], px["findings"][0]["size_unit"], px["findings"][0]["size"]) == ("px", "vox", 144)
    assert any("no spacing is known" in w for w in px["warnings"])
    assert (mm["unit"], mm["findings"][0]["size_unit"]) == ("mm", "mm3")
    assert mm["findings"][0]["size"] == pytest.approx(144 * 12, rel=0.35)
    assert nib.load(tmp_path / "px" / "a" / "mask.nii.gz").header["xyzt_units"] == 0
    assert nib.load(tmp_path / "mm" / "a" / "mask.nii.gz").header["xyzt_units"] == 2
