"""Figures of a model on a small MVTec-style folder."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from inspection_core.errors import ReadError, UsageError
from inspection_core.evaluate import Case, cases, evaluate, figures, read_mask, table
from inspection_core.io.results import dump

KEYS = (
    "image_auroc",
    "average_precision",
    "f1",
    "precision",
    "recall",
    "accuracy",
    "false_alarm_rate",
    "true_positives",
    "false_positives",
    "true_negatives",
    "false_negatives",
    "pixel_auroc",
    "au_pro",
    "threshold",
    "n_good",
    "n_defect",
    "images_per_second",
    "image_auroc_interval",
    "recall_interval",
    "false_alarm_interval",
)


def mask(shape=(96, 96), at=(30, 60), side=14) -> np.ndarray:
    truth = np.zeros(shape, np.uint8)
    truth[at[0] : at[0] + side, at[1] : at[1] + side] = 255
    return truth


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path)


@pytest.fixture
def dataset(tmp_path, parts) -> Path:
    """Three good images and two with a hole, in MVTec's layout."""
    root = tmp_path / "dataset"
    parts.write(root / "test" / "good", [parts.brushed(s) for s in (80, 81, 82)])
    parts.write(root / "test" / "hole", [parts.hole(parts.brushed(s)) for s in (83, 84)])
    for name in ("part00", "part01"):
        save(root / "ground_truth" / "hole" / f"{name}_mask.png", mask())
    return root


def test_figures_of_a_small_dataset(dataset, model, tmp_path):
    seen = []
    found = evaluate(model, dataset, out=tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert set(KEYS) <= set(found)
    assert (found["n_good"], found["n_defect"]) == (3, 2)
    assert found["image_auroc"] == 1
    assert found["recall"] == 1
    assert found["pixel_auroc"] > 0.9
    assert 0 < found["au_pro"] <= 1
    assert found["n_regions"] == 2
    assert found["false_alarm_rate"] == found["false_positives"] / 3
    assert math.isfinite(found["threshold"])
    assert found["images_per_second"] > 0
    assert found["kinds"]["hole"]["n"] == 2
    assert found["errors"] == []
    assert seen == [(i, 5) for i in range(1, 6)]
    json.loads(dump(found))  # strict JSON, no NaN
    rows = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    assert rows["path"].tolist()[0] == "test/good/part00.png"
    assert rows["kind"].tolist() == ["good"] * 3 + ["hole"] * 2


def test_a_mask_of_the_wrong_size_is_an_error_entry(dataset, model):
    save(dataset / "ground_truth" / "hole" / "part00_mask.png", mask((50, 60)))
    found = evaluate(model, dataset)
    (error,) = found["errors"]
    assert error["path"] == str(dataset / "test" / "hole" / "part00.png")
    assert error["type"] == "ReadError"
    assert "a mask has the size of its image, (96, 96). Got (50, 60)." in error["message"]
    assert found["n_defect"] == 1
    assert f"1 image not measured and counted in no figure. The first: {error['message']}" in found["warnings"]


def test_a_missing_mask_warns_and_counts_at_image_level(dataset, model):
    (dataset / "ground_truth" / "hole" / "part01_mask.png").unlink()
    found = evaluate(model, dataset)
    assert found["n_defect"] == 2
    assert found["n_regions"] == 1
    assert any(w.startswith("1 defective image without a mask, such as ground_truth/") for w in found["warnings"])


def test_a_mask_that_marks_nothing_is_no_truth(dataset, model):
    save(dataset / "ground_truth" / "hole" / "part01_mask.png", np.zeros((96, 96), np.uint8))
    found = evaluate(model, dataset)
    assert (found["n_defect"], found["n_regions"]) == (2, 1)
    assert "1 defective image with a mask that marks nothing: not counted in the pixel figures." in found["warnings"]


def test_a_bad_image_is_an_error_entry(dataset, model):
    (dataset / "test" / "good" / "bad.png").write_bytes(b"nothing")
    found = evaluate(model, dataset)
    assert [Path(e["path"]).name for e in found["errors"]] == ["bad.png"]
    assert found["n_good"] == 3


def test_good_images_alone_leave_figures_undefined(dataset, model):
    for path in (dataset / "test" / "hole").iterdir():
        path.unlink()
    found = evaluate(model, dataset)
    assert found["image_auroc"] is None
    assert found["recall"] is None
    assert found["au_pro"] is None
    assert 0 <= found["false_alarm_rate"] <= 1
    json.loads(dump(found))
    assert table(found).row_count > 5


def test_a_place_that_cannot_be_written_is_found_before_the_work(dataset, model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        evaluate(model, dataset, out=tmp_path / "file", progress=lambda *_: pytest.fail("work was begun"))


def test_no_image_can_be_measured(dataset, model):
    for path in dataset.glob("test/*/*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ReadError, match=r"None of the 5 images of .* could be measured\. The first: "):
        evaluate(model, dataset)


def test_test_images_in_the_layout_of_mvtec(dataset):
    found = cases(dataset)
    truth = dataset / "ground_truth" / "hole"
    assert found[0] == Case(dataset / "test" / "good" / "part00.png", "good", None)
    assert found[3] == Case(dataset / "test" / "hole" / "part00.png", "hole", truth / "part00_mask.png")


@pytest.mark.parametrize("name", ["part00.png", "part00_mask.tif", "part00.bmp"])
def test_other_names_of_masks(dataset, name):
    truth = dataset / "ground_truth" / "hole"
    (truth / "part00_mask.png").unlink()
    save(truth / name, mask())
    assert cases(dataset)[3].mask == truth / name


def no_test_folder(root):
    (root / "train").mkdir()


def no_images(root):
    (root / "test" / "good").mkdir(parents=True)


def no_kind(root):
    save(root / "test" / "a.png", mask())


BAD = {
    "no folder test": (no_test_folder, r"has no folder test\. Expected test/good, test/DEFECT and ground_truth"),
    "no images": (no_images, "holds no PNG, JPEG, TIFF, BMP or WebP image"),
    "no kind": (no_kind, r"a\.png lies in no folder by kind\. Move it to test/good or test/DEFECT\."),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_folders_that_are_no_dataset(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UsageError, match=message):
        cases(tmp_path)


def test_a_mask_is_true_where_any_channel_is_above_0(tmp_path):
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[1, 2, 1] = 1
    save(tmp_path / "m.png", colour)
    truth = read_mask(tmp_path / "m.png", (4, 5))
    assert np.argwhere(truth).tolist() == [[1, 2]]
    with pytest.raises(ReadError, match=r"\(5, 4\)\. Got \(4, 5\)"):
        read_mask(tmp_path / "m.png", (5, 4))


def test_review_is_no_alarm():
    kinds = ["good", "good", "good", "crack", "crack"]
    verdicts = ["OK", "REVIEW", "NG", "REVIEW", "NG"]
    found = figures(
        [{"kind": k, "score": i, "verdict": v} for i, (k, v) in enumerate(zip(kinds, verdicts, strict=True))]
    )
    assert found["false_alarm_rate"] == pytest.approx(1 / 3)
    assert found["recall"] == 0.5
    assert found["review_rate_good"] == pytest.approx(1 / 3)
    assert found["review_rate_defect"] == 0.5
    assert found["kinds"]["crack"]["recall"] == 0.5
    assert found["image_auroc"] == 1
