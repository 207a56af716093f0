"""Reviews on disk: every correction comes back, also after the process is killed, and the trail says it all."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from inspection_core.errors import ReadError
from inspection_core.findings import find_labelled
from inspection_core.geometry import Geometry
from inspection_core.io.review_store import (
    PREDICTION,
    REVIEW_DATABASE,
    TRAIL_COLUMNS,
    ReviewStore,
    open_review,
    read_prediction_archive,
    reviewing,
    trail,
    write_prediction_archive,
    write_trail,
)
from inspection_core.prediction import Neighbour, Prediction

CLASSES = ("a", "b")


def prediction(shape=(4, 8, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 1:3, 1:5] = 1
    mask[1:3, 5:7, 6:10] = 2
    score = (mask * 0.4).astype(np.float32)
    geometry = Geometry.from_spacing(shape, (2.5, 0.7, 0.7), (-3, 4, 5))
    mask, findings = find_labelled(mask, score, geometry, CLASSES)
    return Prediction(
        geometry, score, mask, findings, 0.8, None, "NG", np.inf, "model", "3", "ab" * 32, "cpu float32",
        {"infer": 0.5}, ("memory ran short",),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_prediction_archive(tmp_path, prediction(), CLASSES)
    return tmp_path


def corrected(review):
    """Do one thing of each kind; yield the corrections as they are made."""
    for correction in (
        review.change("paint", "ann", (0, 0, 0), np.full((1, 2, 2), 3, np.uint16), label="b", note="missed"),
        review.judge("accept", "ann", [1]),
        review.relabel("ann", [2], "a"),
    ):
        review.add(correction)
        yield correction
    review.undo("ann")
    yield review.corrections[-1]


def test_a_prediction_comes_back(folder):
    before, (after, classes) = prediction(), read_prediction_archive(folder)
    assert classes == CLASSES
    np.testing.assert_array_equal(after.mask, before.mask)
    np.testing.assert_allclose(after.score, before.score, rtol=1e-3)
    assert after.findings == before.findings
    assert after.geometry == before.geometry
    for name in ("image_score", "p_value", "verdict", "threshold", "model_id", "model_sha256", "warnings", "timings"):
        assert getattr(after, name) == getattr(before, name), name


def test_the_nearest_good_patch_comes_back(tmp_path):
    import dataclasses

    before = prediction()
    near = Neighbour("good/1.png", (3.0, 4.0), (8.0, 8.0), 1.5)
    first = dataclasses.replace(before.findings[0], neighbour=near)
    write_prediction_archive(tmp_path, dataclasses.replace(before, findings=(first,)), CLASSES)
    assert read_prediction_archive(tmp_path)[0].findings[0].neighbour == near


def test_a_review_is_continued_with_all_its_history(folder):
    with reviewing(folder, "ann") as (store, review):
        for correction in corrected(review):
            store.put("ann", correction)
        want = review
    with reviewing(folder, "ann") as (_, again):
        np.testing.assert_array_equal(again.regions, want.regions)
        assert again.marks == want.marks
        assert trail(again) == trail(want)
        again.redo("ann")
        assert again.mark(2).label == "a"


def test_reviewers_are_kept_apart_and_one_can_begin_anew(folder):
    with reviewing(folder, "ann") as (store, review):
        for correction in corrected(review):
            store.put("ann", correction)
        assert store.reviewers() == {"ann": 4}
    with reviewing(folder, "ben") as (store, review):
        assert review.corrections == ()
        store.put("ben", review.judge("reject", "ben", [1]))
        assert store.reviewers() == {"ann": 4, "ben": 1}
        store.forget("ben")
        assert store.reviewers() == {"ann": 4}


def test_what_was_committed_outlives_a_killed_process(folder):
    script = f"""
        import os, signal
        from pathlib import Path
        from inspection_core.io.review_store import open_review
        store, review = open_review(Path({str(folder)!r}), "ann")
        for number in (1, 2):
            correction = review.judge("accept", "ann", [number])
            review.add(correction)
            store.put("ann", correction)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, env=os.environ.copy())
    assert done.returncode == -signal.SIGKILL
    with reviewing(folder, "ann") as (_, review):
        assert [c.action for c in review.corrections] == ["accept", "accept"]
        assert {m.status for m in review.marks.values()} == {"accepted"}


def test_the_trail_as_csv_and_json(folder, tmp_path):
    store, review = open_review(folder, "ann")
    store.close()
    list(corrected(review))
    write_trail(tmp_path / "trail.csv", review)
    with (tmp_path / "trail.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == TRAIL_COLUMNS
    assert [r["action"] for r in rows] == ["paint", "accept", "relabel", "undo"]
    assert rows[0] | {"time": ""} == {
        "number": "1", "time": "", "reviewer": "ann", "action": "paint", "findings": "3", "labels": "b",
        "statuses": "open", "voxels_changed": "4", "box_start": "0 0 0", "box_stop": "1 2 2", "model": "model",
        "model_version": "3", "model_sha256": "ab" * 32, "note": "missed",
    }  # fmt: skip
    write_trail(tmp_path / "trail.json", review)
    data = json.loads((tmp_path / "trail.json").read_text(encoding="utf-8"))
    assert [c["findings"] for c in data["corrections"]] == [[3], [1], [2], [2]]
    assert data["corrections"][0]["time"].endswith("+00:00")


def test_a_note_is_no_formula_to_a_spreadsheet(folder, tmp_path):
    _, review = open_review(folder, "ann")
    review.add(review.change("paint", "=1+1", (0, 0, 0), np.full((1, 1, 1), 3, np.uint16), note="@cmd"))
    text = write_trail(tmp_path / "trail.csv", review).read_text(encoding="utf-8")
    assert "'=1+1" in text
    assert "'@cmd" in text


class TestErrors:
    @pytest.mark.parametrize("kept", [0, 0.5], ids=["empty", "half"])
    def test_a_damaged_prediction(self, folder, kept):
        data = (folder / PREDICTION).read_bytes()
        (folder / PREDICTION).write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(
            ReadError, match=r"^The kept prediction of this review is missing or damaged; run the model"
        ):
            read_prediction_archive(folder)

    def test_no_prediction(self, tmp_path):
        with pytest.raises(ReadError, match="missing or damaged"):
            open_review(tmp_path, "ann")

    def test_another_file_under_the_name(self, tmp_path):
        (tmp_path / REVIEW_DATABASE).write_bytes(b"no database at all, but long enough to be one" * 99)
        with pytest.raises(ReadError, match=r"^review\.sqlite here is no database of a review; move it away"):
            ReviewStore(tmp_path)

    def test_another_suffix(self, folder, tmp_path):
        _, review = open_review(folder, "ann")
        with pytest.raises(ReadError, match=r"^An audit trail is written as \.csv or \.json\. Got trail\.txt\.$"):
            write_trail(tmp_path / "trail.txt", review)
