"""Predictions as files: what lies where, and what is in it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from inspection_core.errors import UsageError
from inspection_core.findings import find
from inspection_core.geometry import Geometry
from inspection_core.io.results import (
    check_formats,
    coco_json,
    dump,
    findings_json,
    finite,
    folder_names,
    region,
    write_prediction,
)
from inspection_core.prediction import RESEARCH_USE, Neighbour, Prediction

FINDING_KEYS = {
    "id",
    "label",
    "box_index",
    "centroid_index",
    "centroid_world",
    "size",
    "size_unit",
    "long_axis",
    "short_axis",
    "peak",
    "mean",
    "confidence",
    "calibrated",
    "p_value",
    "neighbour",
    "spread",
}


def prediction(*boxes: tuple[int, int, int, int], shape=(20, 30), threshold=2.5, p_value=0.04) -> Prediction:
    """Make a prediction whose findings are the boxes ``(y0, y1, x0, x1)``."""
    score = np.ones(shape, np.float32)
    for number, (y0, y1, x0, x1) in enumerate(boxes):
        score[y0:y1, x0:x1] = 5 + number
    return made_of(score, threshold=threshold, p_value=p_value)


def made_of(score: np.ndarray, threshold=2.5, p_value=0.04) -> Prediction:
    geometry = Geometry.pixels(score.shape)
    mask, findings = find(score, 2, 3, geometry, label="anomaly", p_values=lambda values: np.full(len(values), 0.1))
    return Prediction(
        geometry=geometry,
        score=score,
        mask=mask,
        findings=findings,
        image_score=3.5,
        p_value=p_value,
        verdict="NG",
        threshold=threshold,
        model_id="cells",
        model_version="1",
        model_sha256="ab" * 32,
        device="cpu",
        warnings=("few good images",),
        source=Path("parts/part 7.png"),
    )


def test_findings_json_has_the_fixed_keys():
    data = json.loads(dump(findings_json(prediction((3, 6, 10, 14)))))
    assert data["schema_version"] == 1
    assert data["source"] == str(Path("parts/part 7.png"))
    assert data["model"] == {"id": "cells", "version": "1", "sha256": "ab" * 32}
    assert data["unit"] == "px"
    assert (data["image_score"], data["p_value"], data["threshold"], data["verdict"]) == (3.5, 0.04, 2.5, "NG")
    assert data["warnings"] == ["few good images"]
    assert data["note"] == "Research use only, not for diagnosis."
    (finding,) = data["findings"]
    assert set(finding) == FINDING_KEYS
    assert finding["id"] == 1
    assert finding["label"] == "anomaly"
    assert finding["box_index"] == [[3, 10], [6, 14]]  # half-open, (y, x)
    assert finding["centroid_index"] == [4.0, 11.5]
    assert finding["centroid_world"] == [11.5, 4.0]  # (x, y)
    assert (finding["size"], finding["size_unit"]) == (12, "px")
    assert (finding["peak"], finding["mean"]) == (5, 5)
    assert finding["p_value"] == pytest.approx(0.1)
    assert finding["neighbour"] is None


def test_findings_json_tells_the_nearest_good_patch():
    made = prediction((3, 6, 10, 14))
    near = Neighbour("train/good/3.png", (4.0, 5.0), (8.0, 8.0), 1.5)
    explained = replace(made, findings=tuple(replace(f, neighbour=near) for f in made.findings))
    data = json.loads(dump(findings_json(explained)))
    assert data["findings"][0]["neighbour"] == {
        "image": "train/good/3.png",
        "centre": [4.0, 5.0],
        "size": [8.0, 8.0],
        "distance": 1.5,
    }


def test_no_number_for_an_infinite_threshold():
    data = findings_json(prediction(threshold=float("inf"), p_value=None))
    assert data["threshold"] is None
    assert data["p_value"] is None
    assert data["findings"] == []


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (None, None), (float("nan"), None), (float("-inf"), None)])
def test_finite(value, expected):
    assert finite(value) == expected


def test_dump_writes_plain_values_of_numpy_and_paths():
    assert json.loads(dump({"a": np.float32(0.5), "b": np.int64(3), "c": Path("x")})) == {"a": 0.5, "b": 3, "c": "x"}


def test_dump_never_writes_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"a": float("nan")})
    with pytest.raises(TypeError, match="set is no JSON"):
        dump({"a": {1}})


def test_files_of_a_prediction(tmp_path):
    made = prediction((3, 6, 10, 14))
    written = write_prediction(tmp_path / "new" / "part 7", made)
    assert [p.name for p in written] == ["mask.png", "score.tiff", "findings.json"]
    assert sorted(p.name for p in (tmp_path / "new" / "part 7").iterdir()) == sorted(p.name for p in written)
    mask = np.asarray(PIL.Image.open(written[0]))
    np.testing.assert_array_equal(mask, made.mask)
    score = tifffile.imread(written[1])
    assert score.dtype == np.float32
    np.testing.assert_array_equal(score, made.score)
    assert json.loads(written[2].read_text(encoding="utf-8")) == json.loads(dump(findings_json(made)))


def test_coco_is_written_on_request_and_findings_come_last(tmp_path):
    written = write_prediction(tmp_path, prediction((3, 6, 10, 14)), ("png", "coco"))
    assert [p.name for p in written] == ["mask.png", "score.tiff", "coco.json", "findings.json"]


def test_an_unknown_format_is_told_before_anything_is_written(tmp_path):
    expected = r"Formats for 2-D images are png, coco\. Got dicom-seg, nifti\."
    with pytest.raises(UsageError, match=expected):
        check_formats(["nifti", "png", "dicom-seg"])
    with pytest.raises(UsageError, match=expected):
        write_prediction(tmp_path / "out", prediction(), ("nifti", "dicom-seg"))
    assert not (tmp_path / "out").exists()


def decode(segmentation) -> np.ndarray:
    """Read COCO's uncompressed run lengths by their definition: column by column, background first."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(width, height).T.astype(bool)


def test_coco_boxes_and_masks():
    data = coco_json([prediction((3, 6, 10, 14), (10, 12, 0, 5)), prediction()])
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in data["images"]] == [
        (1, "part 7.png", 20, 30),
        (2, "part 7.png", 20, 30),
    ]
    assert data["categories"] == [{"id": 1, "name": "anomaly"}]
    by_box = {tuple(a["bbox"]): a for a in data["annotations"]}
    assert set(by_box) == {(10, 3, 4, 3), (0, 10, 5, 2)}  # x, y, width, height
    expected = np.zeros((20, 30), bool)
    expected[3:6, 10:14] = True
    annotation = by_box[10, 3, 4, 3]
    np.testing.assert_array_equal(decode(annotation["segmentation"]), expected)
    assert (annotation["image_id"], annotation["category_id"], annotation["area"]) == (1, 1, 12)


def test_coco_run_lengths_begin_with_background_even_where_there_is_none():
    (annotation,) = coco_json([prediction((0, 2, 0, 3))])["annotations"]
    assert annotation["segmentation"]["counts"][0] == 0
    assert decode(annotation["segmentation"])[:2, :3].all()


def test_a_finding_that_reaches_into_another_ones_box_is_not_its_own():
    score = np.ones((20, 20), np.float32)
    score[2:12, 2] = score[11, 2:12] = 5  # an L
    score[3:6, 7:10] = 6  # a block inside the L's box
    made = made_of(score)
    assert len(made.findings) == 2
    ell = next(f for f in made.findings if f.start == (2, 2))
    own = region(made, ell)
    assert own.sum() == 19
    areas = {
        tuple(a["bbox"]): (a["area"], int(decode(a["segmentation"]).sum())) for a in coco_json([made])["annotations"]
    }
    assert areas == {(2, 2, 10, 10): (19, 19), (7, 3, 3, 3): (9, 9)}


NAMES = {
    "stems": (["a.png", "b.jpg"], ["a", "b"]),
    "equal stems keep their suffix": (["a.png", "a.jpg", "b.jpg"], ["a.png", "a.jpg", "b"]),
    "case is no difference": (["A.png", "a.jpg"], ["A.png", "a.jpg"]),
    "equal names get their folder": (["x/a.png", "y/a.png"], ["x_a.png", "y_a.png"]),
    "equal folders get a number": (["p/x/a.png", "q/x/a.png"], ["x_a.png_1", "x_a.png_2"]),
    "the same file twice": (["a.png", "a.png"], ["_a.png_1", "_a.png_2"]),
    "dots do not lead out of the folder": (["...png", "..png"], ["_...png", "_..png"]),
}


@pytest.mark.parametrize(("paths", "expected"), NAMES.values(), ids=NAMES)
def test_folder_names(paths, expected):
    assert folder_names([Path(p) for p in paths]) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyX"), st.sampled_from(["a", "A", "b", "a.png"]), st.sampled_from([".png", ".PNG", ".tif"])
        )
    )
)
def test_folder_names_are_distinct_whatever_the_case(parts):
    names = folder_names([Path(folder, stem + suffix) for folder, stem, suffix in parts])
    assert len({n.casefold() for n in names}) == len(parts)


def test_every_file_says_what_it_is_not_for(tmp_path):
    import PIL.Image
    import tifffile

    write_prediction(tmp_path, prediction((3, 6, 10, 14)), ("png", "coco"))
    with PIL.Image.open(tmp_path / "mask.png") as mask:
        assert mask.text["Comment"] == RESEARCH_USE
    with tifffile.TiffFile(tmp_path / "score.tiff") as score:
        assert score.pages[0].description == RESEARCH_USE
    assert json.loads((tmp_path / "findings.json").read_text())["note"] == RESEARCH_USE
    assert json.loads((tmp_path / "coco.json").read_text())["info"]["description"] == RESEARCH_USE
