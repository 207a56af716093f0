"""``inspection scan`` and ``inspection convert`` from a user's chair."""

import json
import zipfile

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.nifti import write_nifti


@pytest.fixture
def nifti(tmp_path):
    write_nifti(
        tmp_path / "brain.nii.gz",
        Image(np.ones((1, 4, 5, 6), np.int16), Geometry.from_spacing((4, 5, 6), (3, 2, 1)), ("grey",)),
    )
    return tmp_path / "brain.nii.gz"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_scan_lists_what_is_there(nifti, tmp_path):
    (tmp_path / "letter.txt").write_text("hello")
    result = run("scan", tmp_path, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "brain.nii.gz" in result.output
    report = json.loads((tmp_path / "out.json").read_text())
    (series,) = report["series"]
    assert series["verdict"] == "regular grid"
    assert series["volumes"][0]["spacing_mm"] == [3.0, 2.0, 1.0]
    assert report["others"] == [{"file": "letter.txt", "reason": "letter.txt is not DICOM"}]


def test_convert_to_another_format_and_back(nifti, tmp_path):
    assert run("convert", nifti, tmp_path / "a.nrrd").exit_code == 0
    assert run("convert", tmp_path / "a.nrrd", tmp_path / "b.nii").exit_code == 0
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, nib.load(nifti).affine)


def test_convert_unchanged_keeps_affine_and_type_to_the_byte(nifti, tmp_path):
    assert run("convert", nifti, tmp_path / "copy.nii.gz", "--json", tmp_path / "out.json").exit_code == 0
    before, after = nib.load(nifti), nib.load(tmp_path / "copy.nii.gz")
    assert before.header.binaryblock == after.header.binaryblock
    assert json.loads((tmp_path / "out.json").read_text())["outputs"] == [str(tmp_path / "copy.nii.gz")]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("convert", "none.nii", "out.nii"), 1, "Found nothing there"),
        (("scan", "none"), 1, "Found nothing there"),
        (("convert", "{nifti}", "{nifti}"), 2, "same file"),
        (("convert", "{nifti}", "out.nii", "--allow", "magic"), 2, "--allow takes gaps, irregular, duplicates, frames"),
        (("convert", "{nifti}", "out.nii", "--scaling", "odd"), 2, "--scaling takes precise or displayed"),
    ],
)
def test_mistakes_get_one_line_and_a_status(nifti, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = run(*[a.format(nifti=nifti) for a in arguments])
    assert result.exit_code == code
    assert words in result.output
    assert "Traceback" not in result.output


def test_zip_with_a_member_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.dcm", b"x")
    result = run("convert", tmp_path / "a.zip", tmp_path / "deep" / "out")
    assert result.exit_code == 1
    assert "reaches outside the archive" in result.output
    assert not (tmp_path.parent / "evil.dcm").exists()


@pytest.fixture
def study(tmp_path):
    """Four sequences as files, one of them finer than the rest."""
    folder = tmp_path / "study"
    folder.mkdir()
    for value, name in enumerate(("t1", "t1c", "t2", "flair"), start=1):
        shape, spacing = ((8, 5, 6), (1.5, 2, 1)) if name == "t2" else ((4, 5, 6), (3, 2, 1))
        image = Image(np.full((1, *shape), value, np.int16), Geometry.from_spacing(shape, spacing), ("grey",))
        write_nifti(folder / f"p1_{name}.nii.gz", image)
    return folder


def test_scan_of_several_paths(nifti, study):
    result = run("scan", nifti, study / "p1_t2.nii.gz", study)
    assert result.exit_code == 0, result.output
    assert [result.output.count(name) for name in ("brain.nii.gz", "p1_t2.nii.gz", "p1_flair.nii.gz")] == [1, 1, 1]


def test_scan_shows_the_sequence(study, tmp_path):
    result = run("scan", study, "--json", tmp_path / "out.json")
    assert "sequence: T1 after contrast (by its file name)" in result.output
    found = {s["id"]: s["volumes"][0]["sequence"] for s in json.loads((tmp_path / "out.json").read_text())["series"]}
    assert found == {f"p1_{name}.nii.gz": name for name in ("t1", "t1c", "t2", "flair")}


def test_convert_of_a_study_to_one_file_on_one_grid(study, tmp_path):
    out, report = tmp_path / "one.nii.gz", tmp_path / "out.json"
    result = run("convert", study, out, "--channels", "flair,t2,t1", "--json", report)
    assert result.exit_code == 0, result.output
    assert "t2 is resampled to the grid of flair" in result.output
    loaded = nib.load(out)
    assert loaded.shape == (6, 5, 4, 3)
    assert np.asarray(loaded.dataobj)[0, 0, 0].tolist() == [4, 3, 1]
    assert [c["scan"] for c in json.loads(report.read_text())["channels"]] == [
        f"p1_{name}.nii.gz" for name in ("flair", "t2", "t1")
    ]


def test_convert_of_a_study_as_chosen(study, tmp_path):
    choice = f"extra={study / 'p1_t1c.nii.gz'}"
    result = run("convert", study, tmp_path / "out", "--channels", "t1,extra", "--channel", choice)
    assert result.exit_code == 0, result.output
    loaded = nib.load(tmp_path / "out" / "study.nii.gz")
    assert np.asarray(loaded.dataobj)[0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--channels", "t1,adc"), 1, "adc (ADC map) is missing. There is flair: p1_flair.nii.gz"),
        (("--channels", "t1,t1"), 2, "t1 mean the same"),
        (("--channels", "t1", "--channel", "t1"), 2, "--channel takes NAME=SCAN"),
        (("--channels", "t1", "--series", "3"), 2, "say --channel NAME=SERIES"),
        (("--channel", "t1=3"), 2, "go with --channels"),
    ],
)
def test_studies_that_are_refused(study, tmp_path, options, code, words):
    result = run("convert", study, tmp_path / "out.nii.gz", *options)
    assert result.exit_code == code
    assert words in result.output
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.data
@pytest.mark.parametrize("spelling", [("--allow", "gaps"), ("--allow-gaps",)])
def test_both_spellings_of_allow(shared_data, tmp_path, spelling):
    folder = shared_data / "medical" / "dicom" / "series" / "mr_siemens_prostate_bval_MISSING_SLICE" / "dicom"
    assert run("convert", folder, tmp_path / "a.nii.gz").exit_code == 1
    assert run("convert", folder, tmp_path / "a.nii.gz", *spelling).exit_code == 0
    assert nib.load(tmp_path / "a.nii.gz").shape == (84, 128, 19)
    assert "; loads" in run("scan", folder, *spelling).output


@pytest.mark.data
def test_scan_of_a_shared_study(shared_data, tmp_path):
    folder = shared_data / "medical" / "dicom" / "series" / "mr_siemens_prostate_bval_MISSING_SLICE"
    result = run("scan", folder, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    assert "slice missing between z = 17.2 and z = 22.9 mm" in result.output
    (series,) = [s for s in json.loads((tmp_path / "out.json").read_text())["series"] if s["modality"] == "MR"]
    assert series["volumes"][0]["loads"] is False
