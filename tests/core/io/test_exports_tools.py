"""Tools that others wrote find no error in what is exported, and read it at the right place.

dciodvfy (Debian dicom3tools), dcmdump, dsrdump and dcmdrle (Debian dcmtk), segimage2itkimage and tid1500reader (PyPI
dcmqi), dcm2niix (PyPI). Each is skipped by its name where it is not installed; plastimatch judges in `test_rtstruct`.
"""

import json
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from inspection_core.findings import find_labelled
from inspection_core.io.dicom.series import scan_dicom
from inspection_core.io.dicom.volume import load_volume
from inspection_core.io.dicom_regions import COLOURS
from inspection_core.io.dicom_seg import write_seg
from inspection_core.io.dicom_sr import write_sr
from inspection_core.io.rtstruct import write_rtstruct
from inspection_core.io.secondary_capture import write_secondary_capture
from inspection_core.io.volumes import read_volume
from inspection_core.prediction import RESEARCH_USE

KINDS = ["axial", "sagittal", "oblique", "flipped", "tilted"]
NAMES = ["seg.dcm", "fractional.dcm", "class.dcm", "rt.dcm", "sr.dcm", "alone.dcm", "sc/sc_0005.dcm", "rle/sc_0005.dcm"]
"""No label map here: Debian's dciodvfy does not know that SOP class yet. highdicom's own checks stand for it."""
REAL = [
    ("mr_siemens_gre_field_sag_gap", 0), ("mr_philips_epi_4d_oblique", 0), ("mr_ge_localizer_three_planes", 1),
    ("mr_philips_enhanced_multiframe_fieldmap", 1),
]  # fmt: skip


def export(loaded, prediction, folder):
    """Write everything that NAMES lists, signed and not."""
    regions = write_seg(folder / "seg.dcm", loaded, prediction, site="brain")
    write_seg(folder / "fractional.dcm", loaded, prediction, kind="FRACTIONAL", edited=True)
    write_seg(folder / "class.dcm", loaded, prediction, by="class")
    write_rtstruct(folder / "rt.dcm", loaded, prediction)
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions, site="brain")
    write_sr(folder / "alone.dcm", loaded, prediction, reviewer="Reader^Rita", organization="A hospital")
    write_secondary_capture(folder / "sc", loaded, prediction)
    write_secondary_capture(folder / "rle", loaded, prediction, compress=True)


@pytest.fixture(scope="module")
def cases(exports, tmp_path_factory):
    """Each kind of series with all its exports, made when first asked for."""
    made = {}

    def case(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            loaded, centres = exports.two_balls(kind, folder)
            prediction = exports.predicted(loaded)
            export(loaded, prediction, folder)
            made[kind] = loaded, prediction, centres, folder
        return made[kind]

    return case


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)


def errors_of(dciodvfy, path):
    """Lines that dciodvfy calls errors; its exit status counts them."""
    said = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error(cases, exports, kind):
    dciodvfy = exports.tool("dciodvfy")
    folder = cases(kind)[3]
    assert {name: errors_of(dciodvfy, folder / name) for name in NAMES} == {name: [] for name in NAMES}


@pytest.mark.data
@pytest.mark.parametrize(("name", "number"), REAL)
def test_dciodvfy_finds_no_error_on_exports_of_real_series(medical_data, exports, tmp_path, name, number):
    dciodvfy = exports.tool("dciodvfy")
    series = scan_dicom(medical_data / "dicom" / "series" / name).series[0]
    loaded = load_volume(series.volumes[number])
    mask = np.zeros(loaded.image.geometry.shape, np.uint8)
    mask[1:4, 10:20, 12:30] = 1
    mask[2:4, 30:35, 12:18] = 1
    score = mask.astype(np.float32)
    mask, findings = find_labelled(mask, score, loaded.image.geometry, ["tumour"])
    prediction = exports.predicted(loaded, score=score, mask=mask, findings=findings)
    write_seg(tmp_path / "seg.dcm", loaded, prediction)
    write_rtstruct(tmp_path / "rt.dcm", loaded, prediction)
    write_sr(tmp_path / "sr.dcm", loaded, prediction)
    write_secondary_capture(tmp_path / "sc", loaded, prediction)
    names = ["seg.dcm", "rt.dcm", "sr.dcm", "sc/sc_0003.dcm"]
    assert {name: errors_of(dciodvfy, tmp_path / name) for name in names} == {name: [] for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_dcmqi_reads_the_seg_at_the_right_place(cases, exports, tmp_path, kind):
    loaded, prediction, centres, _ = cases(kind)
    # dcmqi stacks the frames of every SEG straight, so of a tilted series it wants the straight grid.
    write_seg(tmp_path / "seg.dcm", loaded, prediction, grid="image")
    program = exports.tool("segimage2itkimage")
    run(program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nrrd")
    found = [exports.centroid(read_volume(tmp_path / f"{n}.nrrd"), 0) for n in (1, 2)]
    np.testing.assert_allclose(found, [f.centroid_world for f in prediction.findings], atol=0.01)
    np.testing.assert_allclose(found, centres, atol=0.35)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["segmentAttributes"][0][0]["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"] == "Neoplasm"


@pytest.mark.parametrize("kind", KINDS)
def test_dcmqi_reads_the_measurements(cases, exports, tmp_path, kind):
    _, prediction, _, folder = cases(kind)
    run(exports.tool("tid1500reader"), "--inputDICOM", folder / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert len(groups) == 2
    for group, finding in zip(groups, prediction.findings, strict=True):
        values = {i["quantity"]["CodeMeaning"]: float(i["value"]) for i in group["measurementItems"]}
        stated = {"Volume": finding.size, "Long Axis": finding.long_axis, "Short Axis": finding.short_axis,
                  "Mean confidence of the model inside": finding.mean,
                  "Peak confidence of the model inside": finding.peak}  # fmt: skip
        assert values == pytest.approx(stated, rel=1e-6)
        assert group["segmentationSOPInstanceUID"] == pydicom.dcmread(folder / "seg.dcm").SOPInstanceUID


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_dcm2niix_reads_the_pictures_at_the_right_place(cases, exports, tmp_path, kind):
    """Not those of the tilted series, which it takes for a straight stack."""
    _, prediction, _, folder = cases(kind)
    run(exports.tool("dcm2niix"), "-f", "out", "-o", tmp_path, folder / "sc")
    read = nib.load(tmp_path / "out.nii")
    colours = np.asarray(read.dataobj)
    colours = np.stack([colours["R"], colours["G"], colours["B"]], axis=-1)
    for n, finding in enumerate(prediction.findings):
        line = (colours == COLOURS[n]).all(axis=-1)
        line[:, :60] = False  # the band; NIfTI counts rows from the bottom
        inside = np.stack([ndimage.binary_fill_holes(p) & ~p for p in np.moveaxis(line, 2, 0)], axis=2)
        centre = (read.affine[:3, :3] @ np.argwhere(inside).mean(axis=0) + read.affine[:3, 3]) * [-1, -1, 1]
        np.testing.assert_allclose(centre, finding.centroid_world, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_dcm2niix_reads_the_seg_at_the_right_place(cases, exports, tmp_path, kind):
    """It takes a SEG for one whole stack: several segments, or slices left out, it does not put in their place."""
    loaded, prediction, _, _ = cases(kind)
    write_seg(tmp_path / "in" / "seg.dcm", loaded, prediction, by="class", grid="image")
    run(exports.tool("dcm2niix"), "-f", "out", "-o", tmp_path, tmp_path / "in")
    read = nib.load(tmp_path / "out.nii")
    index = np.argwhere(np.asarray(read.dataobj) > 0)
    centre = (read.affine[:3, :3] @ index.mean(axis=0) + read.affine[:3, 3]) * [-1, -1, 1]
    ours = loaded.image.geometry.index_to_world(np.argwhere(prediction.mask))
    assert len(index) == len(ours)
    np.testing.assert_allclose(centre, ours.mean(axis=0), atol=0.01)


@pytest.mark.parametrize("name", [*NAMES, "labelmap.dcm"])
def test_dcmtk_parses_it_and_finds_the_sentence(cases, exports, name):
    """Every output carries the sentence on research use where people see it: in the list of series."""
    loaded, prediction, _, folder = cases("oblique")
    if name == "labelmap.dcm":
        write_seg(folder / name, loaded, prediction, kind="LABELMAP")
    said = run(exports.tool("dcmdump"), "+P", "SeriesDescription", "--search-first", folder / name)
    assert RESEARCH_USE in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize("name", ["sr.dcm", "alone.dcm"])
def test_dsrdump_reads_the_report(cases, exports, name):
    _, prediction, _, folder = cases("oblique")
    said = run(exports.tool("dsrdump"), "--print-all-codes", "--print-long-values", folder / name)
    assert RESEARCH_USE in said.stdout
    assert f"{prediction.findings[0].long_axis:.8g}" in said.stdout
    assert "E: " not in said.stderr  # it warns that its check of lengths does not know UTF-8


def test_dcmdrle_unpacks_the_same_pixels(cases, exports, tmp_path):
    folder = cases("oblique")[3]
    run(exports.tool("dcmdrle"), folder / "rle" / "sc_0005.dcm", tmp_path / "plain.dcm")
    theirs = pydicom.dcmread(tmp_path / "plain.dcm")
    assert not theirs.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(theirs.pixel_array, pydicom.dcmread(folder / "sc" / "sc_0005.dcm").pixel_array)
