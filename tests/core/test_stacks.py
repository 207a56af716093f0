"""Studies as pictures, a slice each: found, put in order, and predicted on as one volume."""

import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from inspection_core.cases import find_cases, read_case
from inspection_core.cli import app
from inspection_core.engine import Engine
from inspection_core.errors import ReadError, UsageError
from inspection_core.export_model import export
from inspection_core.inputs import list_inputs, open_input
from inspection_core.screen import screen
from inspection_core.session import Options
from inspection_core.studies import stacks

NAMES = ("pre", "flair", "post")


def write(folder, patient, planes, first=1, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(planes, start=first):
        PIL.Image.fromarray(plane).save(folder / f"{patient}_{k}.{suffix}")


def planes(count, shape=(16, 20, 3)):
    """Make slices whose values tell their number."""
    return [np.full(shape, 10 * k, np.uint8) for k in range(1, count + 1)]


def test_slices_become_one_input_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path / "images", "A_1", planes(11))
    write(tmp_path / "images", "B", planes(2), first=5)
    write(tmp_path, "lone", planes(1))
    PIL.Image.fromarray(planes(1)[0]).save(tmp_path / "photo.png")
    listing = stacks(list_inputs([tmp_path]))
    assert [(i.kind, i.name, len(i.files)) for i in listing.inputs] == [
        ("stack", "A_1", 11), ("stack", "B", 2), ("picture", "lone_1", 1), ("picture", "photo", 1),
    ]  # fmt: skip
    image = open_input(listing.inputs[0], NAMES).image
    assert image.channels == NAMES
    assert image.geometry.unit == "px"
    assert image.array[0, :, 0, 0].tolist() == [10 * k for k in range(1, 12)]
    assert "channels taken as pre, flair, post" in image.notes[0]


def test_a_missing_slice_is_told(tmp_path):
    write(tmp_path, "A", planes(6))
    (tmp_path / "A_3.png").unlink()
    (study,) = stacks(list_inputs([tmp_path])).inputs
    assert open_input(study, NAMES).image.notes[1].startswith("slices are missing (3)")


def test_one_slice_twice_is_refused(tmp_path):
    write(tmp_path, "A", planes(3))
    PIL.Image.fromarray(planes(1)[0]).save(tmp_path / "A_02.png")
    listing = stacks(list_inputs([tmp_path]))
    assert listing.inputs == ()
    assert listing.refused[0][1] == "A has two pictures of slice 2; keep one of each."


# name: (slices, message)
BAD = {
    "grey": (
        planes(3, (16, 20)),
        r"expected the 3 channels pre, flair, post\. Got 1 without a name; give all 3",
    ),
    "sizes differ": ([*planes(2), *planes(1, (8, 20, 3))], r"slices of a study have one size, \(3, 16, 20\)\. Got"),
}


@pytest.mark.parametrize(("some", "message"), BAD.values(), ids=BAD)
def test_slices_that_are_no_study(some, message, tmp_path):
    write(tmp_path, "A", some)
    (study,) = stacks(list_inputs([tmp_path])).inputs
    with pytest.raises(ReadError, match=message):
        open_input(study, NAMES)


def test_predict_on_a_folder_of_slices(tmp_path, band):
    some = planes(5)
    for k in (1, 2, 3):
        some[k][4:9, 5:12, 1] = 250
    write(tmp_path / "A", "A", some, suffix="webp")
    model = band(channels=NAMES, view="slices", window=(0.0, 255.0), bands=((0.6, 2.0),), parameters={"channel": 1})
    done = CliRunner().invoke(
        app,
        ["predict", str(tmp_path / "A"), "--model", str(model), "--out", str(tmp_path / "out"), "--json",
         str(tmp_path / "r.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 findings (uncalibrated)  A" in done.output
    mask = nib.load(tmp_path / "out" / "A" / "mask.nii.gz")
    assert mask.shape == (20, 16, 5)
    assert int(mask.header["xyzt_units"]) & 7 == 0
    found = json.loads((tmp_path / "out" / "A" / "findings.json").read_text())
    assert found["unit"] == "px"
    assert found["findings"][0]["size_unit"] == "vox"
    assert found["findings"][0]["size"] == pytest.approx(3 * 5 * 7, abs=60)
    assert found["findings"][0]["calibrated"] is False
    assert (tmp_path / "out" / "A" / "overlay.png").is_file()


def test_a_folder_of_slices_is_screened_study_by_study(tmp_path, band):
    some = planes(5)
    some[2][4:9, 5:12, 1] = 250
    write(tmp_path / "in", "A", some)
    write(tmp_path / "in" / "deep", "B", planes(2))
    write(tmp_path / "in", "C", planes(2))
    PIL.Image.fromarray(planes(1)[0]).save(tmp_path / "in" / "C_02.png")
    PIL.Image.fromarray(planes(1)[0]).save(tmp_path / "in" / "photo.png")
    folder = band(channels=NAMES, view="slices", window=(0.0, 255.0), bands=((0.6, 2.0),), parameters={"channel": 1})
    model = Engine("cpu").load(folder)
    done = screen(tmp_path / "in", model, tmp_path / "run", options=Options(("masks",)))
    rows = {row.path: row for row in done.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "A": "done", "deep/B": "done", "C": "failed", "photo.png": "failed",
    }  # fmt: skip
    assert (rows["A"].verdict, rows["A"].n_findings, rows["deep/B"].n_findings) == ("NG", 1, 0)
    assert "two pictures of slice 2" in rows["C"].error
    assert "give the slices of a study as CASE_1, CASE_2, ... in one folder" in rows["photo.png"].error
    assert (tmp_path / "run" / "masks" / "A.nii.gz").is_file()
    assert screen(tmp_path / "in", model, tmp_path / "run", options=Options(("masks",))).new <= 2  # what failed, again


def test_an_export_is_compared_on_slices_as_on_any_study(tmp_path, band):
    write(tmp_path / "in", "A", planes(3))
    folder = band(channels=NAMES, view="slices", window=(0.0, 255.0), bands=((0.6, 2.0),), parameters={"channel": 1})
    done = export(Engine("cpu").load(folder), "torchscript", tmp_path / "m", [tmp_path / "in"])
    assert [row.agree for row in done.compared] == [True]


def test_cases_without_masks_are_listed_where_asked(tmp_path):
    write(tmp_path / "images", "A", planes(2))
    write(tmp_path / "images", "B", planes(2))
    write(tmp_path / "masks", "A", planes(2, (16, 20)))
    with pytest.raises(UsageError, match="1 of 2 cases"):
        find_cases(tmp_path)
    one, other = find_cases(tmp_path, lenient=True)
    assert read_case(one, NAMES)[1].shape == (2, 16, 20)
    with pytest.raises(ReadError, match="B has no mask"):
        read_case(other, NAMES)
