"""`inspection predict` on studies of several sequences: found by headers or names, as chosen, or refused by name."""

import json

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_seg import read_seg
from inspection_core.io.nifti import read_nifti, write_nifti

SHAPE = (8, 24, 20)
TIMES = {
    "t1": {"EchoTime": 10, "RepetitionTime": 500, "ScanningSequence": "SE"},
    "t2": {"EchoTime": 95, "RepetitionTime": 4500, "ScanningSequence": "SE"},
    "flair": {"EchoTime": 90, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"]},
}
MR = ("T1", "T1c", "FLAIR")
LAST = {"channels": MR, "parameters": {"channel": 2}}
"""A model of three channels that looks at FLAIR."""


def run(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def series(dicom):
    """Write one series with a ball at the same place of the world, on a grid of its own."""

    def write(folder, number, name, times, value=1.0, spacing=(1.0, 1.0), step=2.5, study="1.2.3.1", **tags):
        affine = dicom.series_affine(dicom.AXIAL, (0.0, 0.0, 0.0), spacing, step)
        array = (dicom.blob_at(affine, SHAPE, (9.0, 11.0, 9.0), 5.0) * value).astype(np.int16)
        return dicom.write_series(
            folder / str(number), array, dicom.AXIAL, (0.0, 0.0, 0.0), spacing, step, Modality="MR",
            SeriesNumber=number, SeriesInstanceUID=f"{study}.{number}", StudyInstanceUID=study,
            SeriesDescription=name, **(TIMES[times] | tags),
        )  # fmt: skip

    return write


@pytest.fixture
def study(series, tmp_path):
    """T1 without anything to see, after contrast too, and a finer FLAIR with a ball; a scout and a T2 beside them."""
    folder = tmp_path / "study"
    series(folder, 1, "localizer", "t1", 1)
    series(folder, 2, "AX T1 SE", "t1", 0)
    series(folder, 3, "AX T1 SE POST", "t1", 0, ContrastBolusAgent="Gadovist")
    series(folder, 4, "AX FLAIR", "flair", 1, spacing=(0.9, 0.9), step=2.4)
    series(folder, 5, "AX T2", "t2", 0)
    return folder


def only(folder):
    (found,) = folder.iterdir()
    return found


def test_a_study_is_one_input_and_its_segments_lie_on_the_reference(study, band, tmp_path):
    out, report = tmp_path / "out", tmp_path / "j.json"
    code, shown, said = run(
        study, "-m", band(**LAST), "-o", out, "--format", "png,dicom-seg,rtstruct,secondary-capture", "--json", report
    )
    assert code == 0
    assert all(line.startswith("note: ") for line in said.splitlines())  # which scan is which channel
    assert "1 of 1 inputs" in shown
    folder = only(out)
    assert folder.name.startswith("study_")
    reference = read_dicom(study / "2")
    seg = read_seg(folder / "seg.dcm", reference)
    at = reference.image.geometry.index_to_world(np.argwhere(seg.array[0])).mean(axis=0)
    np.testing.assert_allclose(at, (9.0, 11.0, 9.0), atol=0.6)
    made = pydicom.dcmread(folder / "seg.dcm")
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.1.2"
    assert read_nifti(folder / "mask.nii.gz").geometry.is_close(reference.image.geometry, 1e-4)
    (prediction,) = json.loads(report.read_text())["predictions"]
    assert [c["name"] for c in prediction["channels"]] == list(MR)
    assert [c["scan"].split()[1] for c in prediction["channels"]] == ["2", "3", "4"]
    warnings = json.loads((folder / "findings.json").read_text())["warnings"]
    assert "FLAIR is resampled to the grid of T1 (linear)" in [w.split(";")[0] for w in warnings]


def test_another_grid(study, band, tmp_path):
    out = tmp_path / "out"
    assert run(study, "-m", band(**LAST), "-o", out, "--grid", "FLAIR", "--format", "png,dicom-seg")[0] == 0
    made = pydicom.dcmread(only(out) / "seg.dcm")
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.1.4"
    reference = read_dicom(study / "4").image
    assert np.array_equal(read_seg(only(out) / "seg.dcm", read_dicom(study / "4")).array, reference.array >= 500)


@pytest.mark.parametrize("scan", ["4", "{study}/4"])
def test_the_user_has_the_last_word(study, band, tmp_path, scan):
    """A channel whose name says nothing, by number and by path."""
    model = band(channels=("T1", "extra"), parameters={"channel": 1})
    code, _, said = run(study, "-m", model, "-o", tmp_path / "no")
    assert (code, "extra is missing" in said) == (1, True)
    code, _, _ = run(study, "-m", model, "-o", tmp_path / "out", "--channel", f"extra={scan.format(study=study)}")
    assert code == 0
    assert len(json.loads((only(tmp_path / "out") / "findings.json").read_text())["findings"]) == 1


def test_short_names_of_contrast(study, band, tmp_path):
    model = band(channels=("pre", "flair", "post"), parameters={"channel": 1})
    report = tmp_path / "j.json"
    assert run(study, "-m", model, "-o", tmp_path / "out", "--json", report)[0] == 0
    (prediction,) = json.loads(report.read_text())["predictions"]
    assert [c["scan"].split()[1] for c in prediction["channels"]] == ["2", "4", "3"]


def test_a_missing_sequence_is_refused_by_name_and_other_studies_go_on(study, series, band, tmp_path):
    """Two studies under one path are two inputs; nothing of one fills up the other."""
    series(study, 12, "AX T1 SE", "t1", 0, study="1.2.4.1")
    series(study, 14, "AX FLAIR", "flair", 1, study="1.2.4.1")
    code, shown, said = run(study, "-m", band(**LAST), "-o", tmp_path / "out")
    assert code == 1
    assert "1 of 2 inputs" in shown
    assert "T1c (T1 after contrast) is missing. There is t1: series 12" in said
    assert "Secret" not in shown + said


def test_a_refused_series_counts_only_where_it_is_needed(study, series, band, tmp_path):
    series(study, 7, "ep2d_diff b1000", "t2", 0, keep={0, 1, 5, 6, 7})
    assert run(study, "-m", band(**LAST), "-o", tmp_path / "out")[0] == 0
    for file in list((study / "3").iterdir())[3:5]:
        file.unlink()
    code, _, said = run(study, "-m", band(**LAST), "-o", tmp_path / "two")
    assert code == 1
    assert "T1c: MR series is not loaded:" in said


def test_another_frame_of_reference_is_refused_unless_allowed(study, series, band, tmp_path):
    series(study, 4, "AX FLAIR", "flair", 1, FrameOfReferenceUID="1.2.9")
    code, _, said = run(study, "-m", band(**LAST), "-o", tmp_path / "out")
    assert (code, "FLAIR lies in another frame of reference than T1" in said) == (1, True)
    assert run(study, "-m", band(**LAST), "-o", tmp_path / "two", "--allow", "frames")[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--channel", "T9=4"), 2, "A choice is for one of the channels T1, T1c, FLAIR. Got 'T9'."),
        (("--grid", "T9"), 2, "The grid is that of one of the channels T1, T1c, FLAIR. Got 'T9'."),
        (("--channel", "T1=99"), 1, "T1=99 is neither a path that exists nor the id or number of a series."),
        (("--channel", "T1=3"), 1, "T1 and T1c are both series 3"),
    ],
)
def test_choices_that_fit_nothing(study, band, tmp_path, options, code, words):
    done, _, said = run(study, "-m", band(**LAST), "-o", tmp_path / "out", *options)
    assert done == code
    assert words in said
    assert not (tmp_path / "out").exists()


def test_choices_are_for_one_study(study, band, tmp_path):
    code, _, said = run(study / "2", study / "3", "-m", band(**LAST), "-o", tmp_path / "out", "--channel", "T1=2")
    assert (code, "--channel is for one study. Got 2 paths; give one." in said) == (2, True)


@pytest.mark.parametrize("one_file", [True, False])
def test_files_named_after_their_sequence(band, tmp_path, one_file):
    """A folder of two cases, or one file that stands for its case; the finer FLAIR comes onto the grid of T1."""
    for case in ("P1", "P2"):
        for name in ("t1", "t1ce", "flair"):
            fine = name == "flair"
            shape, spacing = ((8, 20, 20), (2.0, 1.0, 1.0)) if fine else ((8, 10, 10), (2.0, 2.0, 2.0))
            array = np.zeros((1, *shape), np.int16)
            if fine:
                array[0, 2:6, 4:12, 6:14] = 1000
            image = Image(array, Geometry.from_spacing(shape, spacing), ("grey",))
            write_nifti(tmp_path / "in" / f"{case}_{name}.nii.gz", image)
    path = tmp_path / "in" / "P1_t1.nii.gz" if one_file else tmp_path / "in"
    code, _, said = run(path, "-m", band(**LAST), "-o", tmp_path / "out", "--format", "nifti")
    assert code == 0
    assert all(line.startswith("note: ") for line in said.splitlines())  # which scan is which channel
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == (["P1"] if one_file else ["P1", "P2"])
    mask = read_nifti(tmp_path / "out" / "P1" / "mask.nii.gz")
    assert mask.array.shape == (1, 8, 10, 10)
    assert mask.array.sum() >= 4 * 3 * 3
