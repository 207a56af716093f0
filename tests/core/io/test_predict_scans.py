"""`inspection predict` on scans: what is listed, refused, written, and said."""

import json
import re
import resource
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pydicom
import pytest
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.export import FORMATS, check_fit
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.inputs import Choices, list_inputs
from inspection_core.io.dicom import read_dicom
from inspection_core.io.dicom_seg import read_seg
from inspection_core.io.nifti import read_nifti
from inspection_core.io.rtstruct import read_rtstruct
from inspection_core.io.scans import write_scan
from inspection_core.prediction import RESEARCH_USE

SHAPE = (8, 20, 18)


def run(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def bright(shape=SHAPE):
    array = np.zeros(shape, np.int16)
    array[3:6, 5:10, 6:12] = 1000
    return array


def nifti(path, array=None, channels=("grey",)):
    array = bright()[None] if array is None else array
    write_scan(path, Image(array, Geometry.from_spacing(array.shape[1:], (2.0, 1.0, 1.0)), channels))
    return path


def test_every_series_is_an_input_and_a_refused_one_stops_nothing(dicom, band, tmp_path):
    study = tmp_path / "study"
    for k, keep in enumerate([None, {0, 1, 2, 5, 6, 7}, None]):
        dicom.write_series(study / str(k), bright(), keep=keep, SeriesInstanceUID=f"1.2.9.{k}", SeriesNumber=k + 1)
    (study / "notes.txt").write_text("a note")
    code, shown, said = run(study, "-m", band(), "-o", tmp_path / "out", "--json", tmp_path / "j.json")
    data = json.loads((tmp_path / "j.json").read_text())
    assert code == 1
    assert shown.splitlines()[-1] == f"2 of 3 inputs: {tmp_path / 'out'}"
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert len(data["inputs"]) == 3
    (error,) = data["errors"]
    assert "slices missing between" in error["message"]
    assert error["message"].endswith("Use --allow gaps to go on all the same.")
    assert said.count("\n") == 1
    assert "Secret" not in shown + said + json.dumps(data)

    code, _, _ = run(study, "-m", band(), "-o", tmp_path / "all", "--allow", "gaps")
    assert code == 0
    assert len(list((tmp_path / "all").iterdir())) == 3
    code, shown, _ = run(study, "-m", band(), "-o", tmp_path / "one", "--series", 3)
    assert code == 0
    (folder,) = (tmp_path / "one").iterdir()
    assert folder.name.startswith("2_")


def test_a_series_that_is_not_there(dicom, band, tmp_path):
    dicom.write_series(tmp_path / "s", bright())
    code, _, said = run(tmp_path / "s", "-m", band(), "-o", tmp_path / "out", "--series", "9")
    assert code == 1
    assert "No series is '9' here. There are: " in said


def test_a_zip_archive_and_a_single_file(dicom, band, tmp_path):
    series = dicom.write_series(tmp_path / "s", bright())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in series.iterdir():
            archive.write(path, f"deep/{path.name}")
    code, _, _ = run(tmp_path / "study.zip", "-m", band(), "-o", tmp_path / "out")
    assert code == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.startswith("study_")
    code, shown, _ = run(sorted(series.iterdir())[0], "-m", band(), "-o", tmp_path / "one", "--format", "dicom-seg")
    assert code == 0
    assert "1 of 1 inputs" in shown


def test_damaged_dicom_is_named(band, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 40)
    code, _, said = run(tmp_path / "a.dcm", "-m", band(), "-o", tmp_path / "out")
    assert code == 1
    assert said.startswith("inspection predict: ")
    assert said.count("\n") == 1


def test_no_finding_is_said_and_leaves_no_segments(dicom, band, tmp_path):
    series = dicom.write_series(tmp_path / "s", np.zeros(SHAPE, np.int16))
    code, shown, _ = run(
        series, "-m", band(), "-o", tmp_path / "out", "--format", "dicom-seg,dicom-sr", "--json", tmp_path / "j"
    )
    assert code == 0
    assert shown.startswith("no finding  score 0  0 findings")
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["findings.json", "mask.nii.gz", "score.nii.gz"]
    data = json.loads((folder / "findings.json").read_text())
    assert (data["verdict"], data["image_score"], data["p_value"], data["findings"]) == ("OK", 0, None, [])
    assert data["warnings"] == ["no finding, so there is nothing to write as dicom-seg and dicom-sr"]
    assert json.loads((tmp_path / "j").read_text())["warnings"]


def test_between_the_cuts_it_is_to_be_checked(band, tmp_path):
    array = bright()[None] // 2  # the very edge of the band
    array[array > 0] += 2
    nifti(tmp_path / "a.nii.gz", array)
    code, shown, _ = run(tmp_path / "a.nii.gz", "-m", band(), "-o", tmp_path / "out")
    assert code == 0
    assert shown.startswith("check ")
    assert json.loads((tmp_path / "out" / "a" / "findings.json").read_text())["verdict"] == "REVIEW"


def referred(sr):
    entries = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return {str(i.ReferencedSOPInstanceUID) for s in entries for i in s.ReferencedSOPSequence}


def test_a_report_refers_to_the_segments_where_both_are_asked_for(dicom, band, tmp_path):
    series = dicom.write_series(tmp_path / "s", bright())
    assert run(series, "-m", band(), "-o", tmp_path / "out", "--format", "dicom-sr,dicom-seg")[0] == 0
    (folder,) = (tmp_path / "out").iterdir()
    seg, sr = pydicom.dcmread(folder / "seg.dcm"), pydicom.dcmread(folder / "sr.dcm")
    assert str(seg.SOPInstanceUID) in referred(sr)
    for made in (seg, sr):
        assert RESEARCH_USE in str(made)


@pytest.mark.parametrize("formats", [("dicom-sr",), ("dicom-sr", "dicom-seg", "--segments", "class")], ids=len)
def test_a_report_stands_on_contours_where_no_segment_is_its_finding(dicom, band, tmp_path, formats):
    """Alone, and beside a SEG whose segments are classes."""
    array = bright()
    array[0:2, 15:19, 14:17] = 1000
    series = dicom.write_series(tmp_path / "s", array)
    names, options = [f for f in formats[:2] if f.startswith("dicom")], formats[2:]
    assert run(series, "-m", band(), "-o", tmp_path / "out", "--format", ",".join(names), *options)[0] == 0
    (folder,) = (tmp_path / "out").iterdir()
    sr = pydicom.dcmread(folder / "sr.dcm")
    sources = {str(pydicom.dcmread(f).SOPInstanceUID) for f in series.iterdir()}
    assert referred(sr) <= sources
    assert (folder / "seg.dcm").exists() == (len(names) == 2)
    assert len(re.findall("'POLYLINE'", str(sr))) == 3 + 2


@pytest.mark.parametrize(
    ("options", "kind", "segments"),
    [
        ((), "BINARY", 2),
        (("--segments", "class"), "BINARY", 1),
        (("--segmentation-type", "fractional"), "FRACTIONAL", 2),
        (("--segmentation-type", "labelmap", "--segments", "finding"), "LABELMAP", 2),
    ],
)
def test_segments_as_asked_for_come_back(dicom, band, tmp_path, options, kind, segments):
    array = bright()
    array[0:2, 15:19, 14:17] = 1000
    series = dicom.write_series(tmp_path / "s", array)
    assert run(series, "-m", band(), "-o", tmp_path / "out", "--format", "dicom-seg", *options)[0] == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert pydicom.dcmread(folder / "seg.dcm").SegmentationType == kind
    back = read_seg(folder / "seg.dcm", read_dicom(series))
    assert len(back.channels) == segments
    assert np.array_equal(back.array.max(axis=0) > 0, array > 0)


def test_contours_come_back(dicom, band, tmp_path):
    series = dicom.write_series(tmp_path / "s", bright(), dicom.TURNED)
    assert run(series, "-m", band(), "-o", tmp_path / "out", "--format", "rtstruct")[0] == 0
    (folder,) = (tmp_path / "out").iterdir()
    back = read_rtstruct(folder / "rtstruct.dcm", read_dicom(series))
    mask = read_nifti(folder / "mask.nii.gz").array[0]
    assert mask.any()
    assert np.array_equal(back.array[0], mask)
    assert RESEARCH_USE in str(pydicom.dcmread(folder / "rtstruct.dcm"))


@pytest.mark.parametrize("found", [True, False])
def test_pictures_for_viewers_that_show_no_segments(dicom, band, tmp_path, found):
    """A picture a slice, also where nothing was found; each at the place of its slice."""
    series = dicom.write_series(tmp_path / "s", bright() * found)
    out, report = tmp_path / "out", tmp_path / "j.json"
    assert run(series, "-m", band(), "-o", out, "--format", "secondary-capture", "--json", report)[0] == 0
    (folder,) = out.iterdir()
    made = [pydicom.dcmread(f) for f in sorted((folder / "secondary-capture").iterdir())]
    assert [m.ImagePositionPatient[2] for m in made] == [40 + 2.5 * k for k in range(len(made))]
    assert len(made) == SHAPE[0]
    coloured = [bool((np.ptp(m.pixel_array[:-80].astype(int), axis=2) > 60).any()) for m in made]
    assert coloured == [found and 3 <= k < 6 for k in range(SHAPE[0])]
    assert sum("sc_0" in name for name in json.loads(report.read_text())["outputs"]) == SHAPE[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--segments", "lesion"), "--segments takes finding or class. Got 'lesion'."),
        (("--segmentation-type", "BIN"), "--segmentation-type takes binary, fractional or labelmap. Got 'BIN'."),
        (("--allow", "magic"), "--allow takes gaps, irregular, duplicates, frames. Got 'magic'."),
        (("--channel", "CT"), "--channel takes NAME=SCAN, such as t1c=7. Got 'CT'."),
        (("--channel", "CT=3"), "--channel and --grid are for models of several channels. This one takes CT."),
    ],
)
def test_options_that_make_no_sense(band, tmp_path, options, words):
    nifti(tmp_path / "a.nii.gz")
    code, _, said = run(tmp_path / "a.nii.gz", "-m", band(), "-o", tmp_path / "out", *options)
    assert (code, said) == (2, f"inspection predict: {words}\n")


def test_what_cannot_be_opened_is_listed_and_the_rest_goes_on(dicom, band, tmp_path):
    study = tmp_path / "study"
    dicom.write_series(study / "s", bright())
    with zipfile.ZipFile(study / "hostile.zip", "w") as archive:
        archive.writestr("../../evil.dcm", b"x" * 200)
    (study / "cut.zip").write_bytes((study / "hostile.zip").read_bytes()[:150])
    (study / "dead").symlink_to(study / "gone.dcm")
    (study / "round").symlink_to(study / "round")
    (study / "s" / "up").symlink_to(study, target_is_directory=True)
    code, shown, said = run(study, "-m", band(), "-o", tmp_path / "out", "--json", tmp_path / "j.json")
    assert code == 1
    assert "1 of 5 inputs" in shown
    errors = {
        e["path"].rpartition("/")[2]: e["message"] for e in json.loads((tmp_path / "j.json").read_text())["errors"]
    }
    assert "reaches outside the archive" in errors["hostile.zip"]
    assert "cut.zip is a damaged zip archive (BadZipFile)" in errors["cut.zip"]
    assert errors["dead"] == "dead is a link that leads nowhere."
    assert errors["round"] == "round is a link that leads nowhere."
    assert said.count("\n") == 4
    code, _, said = run(study / "hostile.zip", "-m", band(), "-o", tmp_path / "out2")
    assert (code, "reaches outside the archive" in said) == (1, True)


# name: (what is there, format, what is said)
MISFITS = {
    "seg of nifti": ("nifti", "dicom-seg", "it refers to a DICOM series, and this is none; nifti fits it."),
    "contours of nifti": ("nifti", "rtstruct", "it refers to a DICOM series, and this is none; nifti fits it."),
    "captures of nifti": ("nifti", "secondary-capture", "it shows the slices of a DICOM series, and this is none."),
    "sr of a picture": ("picture", "dicom-sr", "it refers to a DICOM series, and this is a picture."),
    "coco of a scan": ("nifti", "coco", "it is for 2-D images."),
    "nifti of a picture": ("picture", "nifti", "it is for scans with slices."),
    "seg of slices without positions": ("flat", "dicom-seg", "it refers to slices with positions"),
}


@pytest.mark.parametrize(("kind", "name", "message"), MISFITS.values(), ids=MISFITS)
def test_a_format_that_does_not_fit_is_refused_before_any_work(kind, name, message, dicom, band, tmp_path):
    path = tmp_path / "a"
    if kind == "nifti":
        path = nifti(tmp_path / "a.nii.gz")
    elif kind == "picture":
        path = tmp_path / "a.png"
        PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    else:
        dicom.save(dicom.slice_dataset(np.zeros((8, 9), np.int16), (0, 0, 0), Modality="DX"), path / "a.dcm")
    code, _, said = run(path, "-m", band(), "-o", tmp_path / "out", "--format", f"png,{name}")
    assert code == 2
    assert said.startswith(f"inspection predict: --format {name} does not fit ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_help_names_every_format():
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["predict", "--help"]).output
    assert ", ".join(FORMATS) in " ".join(shown.split())


def test_a_missing_channel_is_refused_by_name(dicom, band, tmp_path):
    folder = band(channels=("T1", "FLAIR", "T1c"))
    nifti(tmp_path / "p_0000.nii.gz")
    nifti(tmp_path / "p_0002.nii.gz")
    nifti(tmp_path / "four.nii.gz", np.repeat(bright()[None], 4, 0), tuple("abcd"))
    dicom.write_series(tmp_path / "series", bright())
    code, _, said = run(tmp_path, "-m", folder, "-o", tmp_path / "out")
    assert code == 1
    assert "p lacks FLAIR (p_0001.nii.gz); the model takes T1, FLAIR, T1c, numbered from 0000 in this order." in said
    assert "four.nii.gz: expected the 3 channels T1, FLAIR, T1c. Got 4 without names; give all 3" in said
    assert "T1 is missing. There is no sequence that is recognised." in said
    nifti(tmp_path / "p_0001.nii.gz")
    code, shown, _ = run(tmp_path / "p_0000.nii.gz", "-m", folder, "-o", tmp_path / "out")
    assert (code, shown.split()[0]) == (0, "finding")


def test_a_nifti_sources_own_header_comes_back(band, tmp_path):
    """Codes, both forms and the unit of the source stay; what tells of its values or its patient does not."""
    import nibabel as nib

    affine = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    file = nib.Nifti1Image(bright(), affine)
    file.set_sform(affine, code=4)
    file.set_qform(affine, code=2)
    file.header.set_xyzt_units("mm")
    file.header["descrip"], file.header["cal_max"] = b"Secret^Sally", 4000
    file.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Secret^Sally"))
    nib.save(file, tmp_path / "a.nii.gz")
    assert run(tmp_path / "a.nii.gz", "-m", band(), "-o", tmp_path / "out")[0] == 0
    for name in ("mask", "score"):
        made = nib.load(tmp_path / "out" / "a" / f"{name}.nii.gz")
        assert made.shape == file.shape
        assert np.array_equal(made.affine, nib.load(tmp_path / "a.nii.gz").affine)
        assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == (4, 2)
        assert made.header["descrip"].item().decode() == RESEARCH_USE
        assert (len(made.header.extensions), float(made.header["cal_max"])) == (0, 0)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out" / "a" / "mask.nii.gz").dataobj), bright() > 0)


def test_a_mask_of_a_4d_file_is_3d(band, tmp_path):
    nifti(tmp_path / "a.nii.gz", np.repeat(bright()[None], 3, 0), tuple("abc"))
    folder = band(channels=("T1", "FLAIR", "T1c"), parameters={"channel": 2})
    assert run(tmp_path / "a.nii.gz", "-m", folder, "-o", tmp_path / "out")[0] == 0
    mask = read_nifti(tmp_path / "out" / "a" / "mask.nii.gz")
    assert np.array_equal(mask.array, bright()[None] > 0)


def test_a_radiograph_is_a_2d_image(dicom, band, tmp_path):
    pixels = np.zeros((20, 30), np.int16)
    pixels[5:9, 12:20] = 1000
    path = dicom.save(dicom.slice_dataset(pixels, (0, 0, 0), Modality="DX"), tmp_path / "hand" / "a.dcm")
    model = band(view="slices", spacing=(0, 1, 1))
    code, shown, _ = run(path, "-m", model, "-o", tmp_path / "out", "--format", "png,coco")
    assert (code, shown.split()[0]) == (0, "finding")
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["coco.json", "findings.json", "mask.png", "score.tiff"]
    (finding,) = json.loads((folder / "findings.json").read_text())["findings"]
    assert finding["size_unit"] == "mm2"
    assert finding["centroid_index"] == pytest.approx([6.5, 15.5], abs=0.5)


def test_the_overlay_says_what_it_is_not_for(band, tmp_path):
    nifti(tmp_path / "a.nii.gz")
    assert run(tmp_path / "a.nii.gz", "-m", band(), "-o", tmp_path / "out")[0] == 0
    with PIL.Image.open(tmp_path / "out" / "a" / "overlay.png") as picture:
        assert picture.text["Comment"] == RESEARCH_USE
        assert len(np.unique(np.asarray(picture))) > 3


def test_several_classes_come_with_their_names(dicom, band, tmp_path):
    array = bright()
    array[6:8, 12:16, 12:16] = 400
    series = dicom.write_series(tmp_path / "s", array)
    folder = band(classes=("oedema", "enhancing tumour"), bands=((0.2, 0.6), (0.8, 2.0)))
    assert run(series, "-m", folder, "-o", tmp_path / "out", "--format", "dicom-seg")[0] == 0
    (result,) = (tmp_path / "out").iterdir()
    mask = read_nifti(result / "mask.nii.gz").array[0]
    assert np.array_equal(mask, np.where(array == 400, 1, np.where(array == 1000, 2, 0)))
    segments = pydicom.dcmread(result / "seg.dcm").SegmentSequence
    meanings = {s.SegmentLabel[:-2]: s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in segments}
    assert meanings == {"oedema": "Edema", "enhancing tumour": "Neoplasm"}


def test_a_mosaic_gets_no_seg(medical_data):
    listing = list_inputs([medical_data / "dicom" / "series" / "mr_siemens_mosaic_coronal" / "dicom"], Choices())
    from inspection_core.errors import UsageError

    with pytest.raises(UsageError, match="a mosaic has no frame to refer to; nifti fits it"):
        check_fit(["dicom-seg"], listing.inputs)


@pytest.mark.slow
def test_memory_of_a_large_scan_stays_bounded(band, tmp_path):
    """300 slices of 512 x 512 take less than six times their own 157 MB on top of what was loaded before."""
    code = f"""
import numpy as np, resource
from inspection_core.engine import Engine
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
array = np.zeros((1, 300, 512, 512), np.int16)
array[0, 100:120, 200:260, 300:330] = 1000
image = Image(array, Geometry.from_spacing(array.shape[1:], (1.5, 0.7, 0.7)), ("CT",))
model = Engine("cpu").load({str(band(view="slices", tile=512, spacing=(0, 2.0, 2.0)))!r})
array.sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prediction = predict(image, model)
print(len(prediction.findings), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / array.nbytes)
"""
    if not hasattr(resource, "RUSAGE_SELF"):
        pytest.skip("needs a system that counts memory")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    findings, times = done.stdout.split()
    assert int(findings) == 1
    assert float(times) < 6
