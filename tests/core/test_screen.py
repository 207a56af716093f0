"""Screening a folder: one row for every input, bad files included, and a run that can be gone on with."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from inspection_core import inspector
from inspection_core.card import Policy
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.identity import fingerprint
from inspection_core.io.nifti import write_nifti
from inspection_core.io.results import finding_json
from inspection_core.io.store import RUN_DATABASE
from inspection_core.pictures import Pictures
from inspection_core.screen import COLUMNS, screen

HOSTILE = [
    'it\'s 50% "quoted".png',
    "<img src=x onerror=alert(1)>.png",
    "two\nlines.png",
    "Größe 部品 ⚙.png",
    "=1+1,;.png",
    "NA.png",
]


@pytest.fixture
def folder(tmp_path, parts) -> Path:
    """Three images: part00 is good, part01 has a hole, and sub/part00 is good."""
    good = [parts.brushed(60), parts.hole(parts.brushed(61))]
    parts.write(tmp_path / "images", good)
    parts.write(tmp_path / "images" / "sub", [parts.brushed(62)])
    return tmp_path / "images"


def csv(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "results.csv", dtype={"error": "string"}, keep_default_na=False, na_values=[""])


def screened(monkeypatch) -> list[str]:
    """Return a list that fills with the names of the files that are read from here on."""
    names = []
    read = inspector.open_input
    monkeypatch.setattr(
        inspector, "open_input", lambda item, *rest: names.append(item.files[0].name) or read(item, *rest)
    )
    return names


def test_files_of_a_run(folder, model, tmp_path):
    done = screen(folder, model, tmp_path / "run")
    assert [p.name for p in done.outputs] == ["results.csv", "results.parquet", "report.html"]
    assert all(p.is_file() for p in done.outputs)
    assert done.new == 3
    assert sum(done.counts.values()) == 3
    assert done.counts["failed"] == 0
    table = csv(tmp_path / "run")
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == ["part00.png", "part01.png", "sub/part00.png"]
    assert set(table["status"]) == {"done"}
    assert table["verdict"][1] == "NG"
    assert table["n_findings"][1] >= 1
    assert table["score"][1] > table["score"][0]
    assert (table["seconds"] > 0).all()
    assert table["error"].isna().all()
    assert "part01.png" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_csv_and_parquet_say_the_same(folder, model, tmp_path):
    (folder / "bad.png").write_bytes(b"no picture")
    screen(folder, model, tmp_path / "run")
    parquet = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert tuple(parquet.columns) == COLUMNS
    assert str(parquet["n_findings"].dtype) == "Int64"
    pd.testing.assert_frame_equal(csv(tmp_path / "run"), parquet, check_dtype=False)


def test_rows_are_what_predict_says(folder, model, tmp_path):
    from inspection_core.infer import predict
    from inspection_core.io.raster import read_raster

    row = screen(folder, model, tmp_path / "run").rows[1]
    alone = predict(read_raster(folder / "part01.png"), model)
    assert (row.score, row.p_value, row.verdict) == (alone.image_score, alone.p_value, alone.verdict)
    assert [f["box_index"] for f in row.details["findings"]] == [finding_json(f)["box_index"] for f in alone.findings]


def test_pictures_exist(folder, model, tmp_path):
    run = tmp_path / "run"
    for row in screen(folder, model, run).rows:
        assert (run / row.details["plain"]).is_file()
        assert (run / row.details["picture"]).is_file()
    crops = row_of(run, model, folder, "part01.png").details["crops"]
    assert crops
    for _, finding, good in crops:
        assert (run / finding).is_file()
        assert (run / good).is_file()  # the good images are still where they were at fitting


def row_of(run, model, folder, path):
    return next(r for r in screen(folder, model, run).rows if r.path == path)


def test_pictures_of_good_patches_are_left_out_where_the_good_images_are_gone(folder, model, tmp_path):
    card = replace(model.card, training={**model.card.training, "folder": str(tmp_path / "moved away")})
    elsewhere = LoadedModel(card, model.folder, model.predictor, model.device)
    crops = row_of(tmp_path / "run", elsewhere, folder, "part01.png").details["crops"]
    assert crops
    assert all(good is None for _, _, good in crops)


def test_a_card_cannot_point_out_of_the_folder_of_good_images(tmp_path, model, parts):
    parts.write(tmp_path / "secret", [parts.brushed(1)])
    (tmp_path / "good").mkdir()
    pictures = Pictures(tmp_path / "pictures", model.card)
    pictures.good = tmp_path / "good"
    assert pictures._read_good("../secret/part00.png") is None
    assert pictures._read_good(str(tmp_path / "secret" / "part00.png")) is None


def test_bad_files_are_rows_and_stop_nothing(folder, model, tmp_path):
    (folder / "a_empty.png").write_bytes(b"")
    (folder / "z_text.tif").write_bytes(b"hello")
    done = screen(folder, model, tmp_path / "run")
    assert done.counts["failed"] == 2
    assert sum(done.counts.values()) == 5
    table = csv(tmp_path / "run").set_index("path")
    for name in ("a_empty.png", "z_text.tif"):
        row = table.loc[name]
        assert row["status"] == "failed"
        assert name in row["error"]
        assert row[["score", "p_value", "verdict", "n_findings", "seconds"]].isna().all()


def test_a_second_call_does_nothing_again(folder, model, tmp_path, monkeypatch):
    first = screen(folder, model, tmp_path / "run").rows
    read = screened(monkeypatch)
    second = screen(folder, model, tmp_path / "run")
    assert read == []
    assert second.new == 0
    assert second.rows == first


def test_only_new_changed_and_failed_files_are_done_again(folder, model, parts, tmp_path, monkeypatch):
    (folder / "bad.png").write_bytes(b"no picture")
    first = screen(folder, model, tmp_path / "run").rows
    parts.write(folder / "new", [parts.brushed(70)])
    parts.write(folder, [parts.hole(parts.brushed(71))])  # part00 is another one now
    os.utime(folder / "part00.png", ns=(1, 1))
    read = screened(monkeypatch)
    second = screen(folder, model, tmp_path / "run")
    assert sorted(read) == ["bad.png", "part00.png", "part00.png"]
    assert second.new == 3
    old, new = ({r.path: r for r in rows} for rows in (first, second.rows))
    assert new["part00.png"].score > old["part00.png"].score
    assert new["part01.png"] == old["part01.png"]
    assert "new/part00.png" in new


def test_a_deleted_file_is_forgotten(folder, model, tmp_path):
    screen(folder, model, tmp_path / "run")
    (folder / "part01.png").unlink()
    assert [r.path for r in screen(folder, model, tmp_path / "run").rows] == ["part00.png", "sub/part00.png"]
    assert csv(tmp_path / "run")["path"].tolist() == ["part00.png", "sub/part00.png"]


def test_a_run_goes_on_after_an_interruption(folder, model, tmp_path, second_is_interrupted):
    with pytest.raises(KeyboardInterrupt):
        screen(folder, model, tmp_path / "run")
    assert (tmp_path / "run" / RUN_DATABASE).is_file()
    assert not (tmp_path / "run" / "report.html").exists()
    done = screen(folder, model, tmp_path / "run")
    assert done.new == 2
    assert len(done.rows) == 3


def test_another_model_or_folder_does_not_go_into_the_same_run(folder, model, tmp_path):
    screen(folder, model, tmp_path / "run")
    other = LoadedModel(replace(model.card, version="2"), model.folder, model.predictor, model.device)
    with pytest.raises(UsageError, match=r"holds a run with another model: .* Give a new folder for --out\."):
        screen(folder, other, tmp_path / "run")
    stricter = replace(model.card, policy=Policy(max_false_alarms=0.2, review=0.4))
    other = LoadedModel(stricter, model.folder, model.predictor, model.device)
    with pytest.raises(UsageError, match="holds a run with another model card: "):
        screen(folder, other, tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run with another folder"):
        screen(folder / "sub", model, tmp_path / "run")


def test_no_images(model, tmp_path):
    (tmp_path / "notes.txt").write_text("none here", encoding="utf-8")
    with pytest.raises(UsageError, match=r"Found no PNG, JPEG, TIFF, BMP or WebP image below .*\. Give a folder"):
        screen(tmp_path, model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_inside_the_folder_does_not_screen_its_own_pictures(folder, model):
    names = [r.path for r in screen(folder, model, folder / "run").rows]
    assert [r.path for r in screen(folder, model, folder / "run").rows] == names
    assert len(names) == 3


@pytest.mark.skipif(os.name != "posix", reason="Windows forbids such names")
def test_hostile_names(model, parts, tmp_path):
    folder = tmp_path / "images"
    (good,) = parts.write(tmp_path / "one", [parts.hole(parts.brushed(5))]).iterdir()
    folder.mkdir()
    for name in HOSTILE:
        (folder / name).write_bytes(good.read_bytes())
    (folder / "<b>bad\n<i>.png").write_bytes(b"")
    done = screen(folder, model, tmp_path / "a run? 50% #1")
    expected = sorted([*HOSTILE, "<b>bad\n<i>.png"])
    assert sorted(r.path for r in done.rows) == expected
    assert sorted(csv(done.folder)["path"]) == expected
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "<b>bad" not in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8(model, parts, tmp_path):
    folder = tmp_path / "images"
    (good,) = parts.write(tmp_path / "one", [parts.brushed(5)]).iterdir()
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(good.read_bytes())
    (folder / os.fsdecode(b"bad\xe9.png")).write_bytes(b"")
    done = screen(folder, model, tmp_path / "run")
    assert [(r.path, r.status) for r in done.rows] == [("bad\\xe9.png", "failed"), ("caf\\xe9.png", "done")]
    assert screen(folder, model, tmp_path / "run").new == 1  # the failed one


def test_progress_counts_what_was_there_already(folder, model, tmp_path):
    seen = []
    screen(folder, model, tmp_path / "run", progress=lambda done, total: seen.append((done, total)))
    screen(folder, model, tmp_path / "run", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 3)]


def test_what_the_report_is_told(folder, model, tmp_path):
    done = screen(
        folder,
        model,
        tmp_path / "run",
        paths=[folder / "part01.png"],
        truth={"part01.png": "crack-of-dawn"}.get,
        notes=["a note of mine"],
        metrics=lambda rows: {"image_auroc": 0.5},
        title="My parts",
    )
    assert [r.path for r in done.rows] == ["part01.png"]
    page = done.outputs[2].read_text(encoding="utf-8")
    assert "My parts" in page
    assert "a note of mine" in page


def test_only_the_scans_that_are_given(tmp_path, band):
    """Scan files by their paths, beside others that are not wanted; names are relative to the folder."""
    geometry = Geometry.from_spacing((4, 16, 16), (2.0, 1.0, 1.0))
    array = np.zeros((1, 4, 16, 16), np.int16)
    array[0, 1:3, 4:9, 4:9] = 1000
    for name in ("a/one.nii.gz", "two.nii.gz", "three.nii.gz"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(tmp_path / "scans" / name, Image(array, geometry, ("CT",)))
    paths = [tmp_path / "scans" / "a" / "one.nii.gz", tmp_path / "scans" / "two.nii.gz"]
    done = screen(tmp_path / "scans", Engine("cpu").load(band()), tmp_path / "run", paths=paths)
    assert [(row.path, row.verdict) for row in done.rows] == [("a/one.nii.gz", "NG"), ("two.nii.gz", "NG")]


def test_reviews_hold_all_that_was_found(folder, model, tmp_path):
    """And move along with a file that was renamed."""
    from inspection_core.io.review_store import read_prediction_archive
    from inspection_core.session import Options

    run, options = tmp_path / "run", Options(formats=("reviews",))
    for row in screen(folder, model, run, options=options).rows:
        if row.status == "done":
            prediction, _ = read_prediction_archive(run / "reviews" / row.path)
            assert prediction.image_score == row.score
            assert len(prediction.findings) == row.n_findings
    old = next(row.path for row in screen(folder, model, run, options=options).rows if row.status == "done")
    (folder / old).rename(folder / "renamed.png")
    screen(folder, model, run, options=options)
    assert read_prediction_archive(run / "reviews" / "renamed.png")[0].geometry.ndim == 2
    assert not (run / "reviews" / old).exists()


def test_warnings_of_the_calibration_are_told(folder, model, tmp_path):
    strict = replace(model.card, policy=Policy(max_false_alarms=0.001, review=0.002))
    done = screen(folder, LoadedModel(strict, model.folder, model.predictor, model.device), tmp_path / "run")
    assert done.warnings


def test_fingerprint_of_a_file(tmp_path):
    path = tmp_path / "a"
    assert fingerprint(path) == "unreadable"
    path.write_bytes(np.zeros(7, np.uint8).tobytes())
    os.utime(path, ns=(5, 9))
    assert fingerprint(path) == "7-9"
