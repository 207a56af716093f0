"""``evaluate`` of models that segment, on the three layouts of a dataset."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from inspection_core.card import Calibration, FindingCalibration, Policy
from inspection_core.cli import app
from inspection_core.engine import Engine
from inspection_core.errors import ReadError, UsageError
from inspection_core.evaluate_segmentation import evaluate, table
from inspection_core.io.results import dump

SHAPE = (6, 24, 20)
NAMES = ("pre", "flair", "post")


def study(seed: int, lesion=True):
    """Make three channels whose second is bright in a lesion, and in a spot that is none; return them and the mask."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 60, (3, *SHAPE)).astype(np.uint8)
    mask = np.zeros(SHAPE, np.uint8)
    if lesion:
        y, x = rng.integers(2, 8, 2)
        mask[1:4, y : y + 8, x : x + 8] = 1
        array[1][mask > 0] = 230
    array[1, 5, 20:22, 1:3] = 230
    return array, mask


def write_nifti(path, array, spacing=(1.0, 1.0, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def xyz(array):
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def four_d(root, name, array, mask):
    write_nifti(root / "images" / f"{name}.nii.gz", np.stack([xyz(c) for c in array], axis=-1))
    write_nifti(root / "masks" / f"{name}.nii.gz", xyz(mask))


def numbered(root, name, array, mask):
    for k, channel in enumerate(array):
        write_nifti(root / "images" / f"{name}_{k:04d}.nii.gz", xyz(channel))
    write_nifti(root / "masks" / f"{name}.nii.gz", xyz(mask))


def slices(root, name, array, mask, suffix="png"):
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for z in range(len(mask)):  # numbers without zeros in front: 10 comes after 9, not after 1
        PIL.Image.fromarray(array[:, z].transpose(1, 2, 0)).save(root / "images" / f"{name}_{z + 7}.{suffix}")
        PIL.Image.fromarray(mask[z] * 255).save(root / "masks" / f"{name}_{z + 7}.png")


LAYOUTS = {"4-D": four_d, "one file a channel": numbered, "slices": slices}


@pytest.fixture
def segmenter(band):
    """A model of three channels that calls tumour what is bright in the second."""

    def load(**changes):
        folder = band(channels=NAMES, view="slices", window=(0.0, 255.0), bands=((0.6, 2.0),),
                      parameters={"channel": 1}, tile=64)  # fmt: skip
        model = Engine("cpu").load(folder)
        model.card = replace(model.card, **changes)
        return model

    return load


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_figures(layout, segmenter, tmp_path):
    for seed in range(3):
        layout(tmp_path / "data", f"case{seed}", *study(seed, lesion=seed > 0))
    seen = []
    got = evaluate(segmenter(), tmp_path / "data", progress=lambda *a: seen.append(a))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    # The lesion is 3 x 8 x 8 voxels and the spot is 4; the empty study has the spot alone.
    overlap = 2 * 192 / (192 + 196)
    assert [r["dice"] for r in got["cases"]] == pytest.approx([0, overlap, overlap])
    assert got["dice_mean"] == pytest.approx(2 * overlap / 3)
    assert got["dice_median"] == pytest.approx(overlap)
    assert (got["n_lesions"], got["n_findings"], got["n_true_findings"]) == (2, 5, 2)
    assert (got["lesion_recall"], got["lesion_precision"]) == (1, 0.4)
    assert got["lesion_dice"] == pytest.approx(2 / 5)
    assert (got["hd95_defined"], got["n_empty"], got["n_failed"]) == (2, 1, 0)
    in_mm = layout is not slices
    assert (got["unit"], got["size_unit"]) == (("mm", "mm3") if in_mm else ("px", "vox"))
    assert got["cases"][1]["reference_volume"] == pytest.approx(192 * (3 if in_mm else 1))
    assert got["volumes"]["bias"] == pytest.approx(4 * (3 if in_mm else 1))
    assert got["ece_voxel"] < 0.05
    assert got["ece_image"] < got["ece_voxel"]
    assert got["findings_calibrated"] is False
    assert 0 < got["seconds_per_case"] < 60
    assert got["peak_memory_bytes"] > 1e6
    json.loads(dump(got))


def test_what_is_dismissed_leaves_the_mask_and_is_judged_all_the_same(segmenter, tmp_path):
    for seed in range(3):
        four_d(tmp_path / "data", f"case{seed}", *study(seed, lesion=seed > 0))
    by_size = FindingCalibration(("size",), (1.0,), -math.log(50), 20, 10, 5)  # one half at 50 voxels
    model = segmenter(
        calibration=Calibration(finding=by_size), policy=Policy(kind="band", low=0.3, high=0.7, least=0.2)
    )
    got = evaluate(model, tmp_path / "data", out=tmp_path / "out")
    assert [(r["dice"], r["n_findings"], r["verdict"]) for r in got["cases"]] == [
        (1, 0, "OK"),
        (1, 1, "NG"),
        (1, 1, "NG"),
    ]
    assert (got["n_findings"], got["n_true_findings"], got["lesion_precision"]) == (2, 2, 1)
    assert (got["n_judged"], got["n_true_judged"]) == (5, 2)
    assert 0 < got["finding_brier"] < got["finding_base_brier"] == pytest.approx(0.24)
    listed = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert listed["kept"].tolist() == listed["true"].tolist()
    assert model.card.policy.least == 0.2


def test_what_is_written(segmenter, tmp_path):
    for seed in range(3):
        slices(tmp_path / "data", f"case{seed}", *study(seed), suffix="webp" if seed else "png")
    got = evaluate(segmenter(), tmp_path / "data", out=tmp_path / "out", command="inspection evaluate M D")
    rows = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    assert rows["case"].tolist() == ["case0", "case1", "case2"]
    findings = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert findings["true"].sum() == got["n_true_findings"]
    assert (tmp_path / "out" / "reliability.svg").read_text().startswith("<svg")
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'alt="Reliability diagram' in page
    assert "data:image/svg+xml;base64," in page
    assert "uncalibrated: the mean probability inside" in page
    assert "no spacing is known: distances and volumes are in voxels." in page
    shown = table(got)
    assert any("findings, uncalibrated" in str(c) for c in shown.columns[0].cells)


def test_a_calibrated_card_is_judged_as_such(segmenter, tmp_path):
    for seed in range(4):
        slices(tmp_path / "data", f"case{seed}", *study(seed))
    known = Calibration("by hand", finding=FindingCalibration(("size",), (2.0,), -6.0, 40, 20, 9))
    got = evaluate(segmenter(calibration=known), tmp_path / "data")
    assert got["findings_calibrated"] is True
    assert got["finding_brier"] < 0.1 < got["finding_base_brier"]
    assert got["froc"]["sensitivity"][0] == 1  # every lesion comes before every false alarm


# name: (what is wrong, part of the message)
BAD = {
    "no mask": (lambda d: (d / "masks" / "case1.nii.gz").unlink(), "case1 has no mask"),
    "a channel missing": (lambda d: (d / "images" / "case1_0001.nii.gz").unlink(), r"case1 lacks flair (_0001)"),
    "damaged": (lambda d: (d / "images" / "case1_0002.nii.gz").write_bytes(b"no"), "case1_0002.nii.gz"),
    "a mask of another grid": (
        lambda d: write_nifti(d / "masks" / "case1.nii.gz", np.zeros((5, 5, 5), np.uint8)),
        "does not lie on the grid of its image",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_one_bad_case_does_not_stop_the_rest(spoil, message, segmenter, tmp_path):
    for seed in range(3):
        numbered(tmp_path / "data", f"case{seed}", *study(seed))
    spoil(tmp_path / "data")
    got = evaluate(segmenter(), tmp_path / "data", out=tmp_path / "out")
    assert [(r["case"], r["status"]) for r in got["cases"]] == [
        ("case0", "done"),
        ("case1", "failed"),
        ("case2", "done"),
    ]
    (error,) = got["errors"]
    assert message in error["message"]
    assert got["cases"][1]["error"] == error["message"]
    assert (got["n_cases"], got["n_failed"]) == (2, 1)
    assert got["dice_mean_failed_as_zero"] == pytest.approx(got["dice_mean"] * 2 / 3)
    assert any(w.startswith("1 of 3 cases could not be measured and count in no figure") for w in got["warnings"])
    listed = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    assert listed["status"].tolist() == ["done", "failed", "done"]
    assert math.isnan(listed["dice"][1])


def test_a_case_that_failed_fails_the_command_and_the_figures_of_the_rest_are_shown(segmenter, tmp_path):
    for seed in range(3):
        numbered(tmp_path / "data", f"case{seed}", *study(seed))
    folder, report = segmenter().folder, tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["evaluate", str(folder), str(tmp_path / "data"), "--json", str(report)])
    assert (done.exit_code, json.loads(report.read_text())["status"]) == (0, "ok")
    (tmp_path / "data" / "images" / "case1_0001.nii.gz").unlink()
    done = CliRunner().invoke(app, ["evaluate", str(folder), str(tmp_path / "data"), "--json", str(report)])
    figures = json.loads(report.read_text())
    assert (done.exit_code, figures["status"], figures["n_cases"]) == (1, "failed", 2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("inspection evaluate: ")]
    assert "case1_0000.nii.gz: case1 lacks flair (_0001); expected the channels pre, flair, post" in line
    assert "cases that failed, in no other figure" in done.stdout
    for case in ("case0", "case2"):
        (tmp_path / "data" / "images" / f"{case}_0002.nii.gz").write_bytes(b"no")
    done = CliRunner().invoke(app, ["evaluate", str(folder), str(tmp_path / "data")])
    assert (done.exit_code, "None of the 3 cases of" in done.stderr) == (1, True)


def test_several_classes_in_the_reference(segmenter, tmp_path):
    array, mask = study(1)
    mask[3] *= 3
    four_d(tmp_path / "data", "case", array, mask)
    got = evaluate(segmenter(), tmp_path / "data")
    assert got["cases"][0]["dice"] > 0.9
    assert got["warnings"][0] == "the references have several classes, the model one: all of them count as tumour."


def test_a_figure_for_each_class(band, tmp_path):
    array, mask = study(1)
    array[0][mask > 0] = 120
    half = mask.copy()
    half[:, :8] *= 2
    array[0][half == 2] = 230
    write_nifti(tmp_path / "data" / "images" / "a.nii.gz", xyz(array[0]))
    write_nifti(tmp_path / "data" / "masks" / "a.nii.gz", xyz(half))
    model = Engine("cpu").load(
        band(
            channels=("CT",), classes=("core", "rim"), bands=((0.3, 0.6), (0.8, 2)), view="slices", window=(0.0, 255.0)
        )
    )
    got = evaluate(model, tmp_path / "data")
    assert got["dice_by_class"] == {"core": 1, "rim": 1}
    write_nifti(tmp_path / "data" / "masks" / "a.nii.gz", xyz(half * 2))
    with pytest.raises(ReadError, match="its mask holds class 4, and the model has the 2 classes core, rim"):
        evaluate(model, tmp_path / "data")


def test_no_such_dataset(segmenter, model, tmp_path):
    with pytest.raises(UsageError, match="should hold the folders images and masks"):
        evaluate(segmenter(), tmp_path)
    with pytest.raises(UsageError, match="does not segment"):
        evaluate(model, tmp_path)
