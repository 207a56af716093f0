"""Saving where it cannot be done, over an earlier save, and while the reviewer goes on."""

import csv
import subprocess
import threading

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import saving


@pytest.fixture
def part(grey_model, until, tmp_path):
    """A picture with one finding, under review."""
    array = np.zeros((60, 80), np.uint8)
    array[5:20, 5:20] = 220
    (tmp_path / "parts").mkdir()
    PIL.Image.fromarray(array).save(tmp_path / "parts" / "part.v2.png")
    grey_model.session.list([tmp_path / "parts" / "part.v2.png"])
    until(lambda: grey_model.session.case is not None)
    grey_model.running.run.click()
    until(lambda: grey_model.session.desk is not None)
    return grey_model


@pytest.fixture
def save(part, until):
    """Save into a folder; return the line that the user reads."""

    def do(folder):
        part.review.save(folder)
        until(lambda: part.session.job.finished)
        return part.messages.label.text()

    return do


def contents(folder):
    """Everything below a folder, with the bytes of its files."""
    return {p.relative_to(folder).as_posix(): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


SAVED = "Saved in part.v2: mask.png, ground_truth/bright read back the same."


def test_a_file_in_place_of_the_folder(save, tmp_path):
    (tmp_path / "results").write_text("a file")
    assert save(tmp_path / "results") == (
        "Nothing was saved. results is in the way: a file where a folder is needed, or a folder for a file. "
        "Choose another folder."
    )
    assert save(tmp_path / "others") == SAVED


@pytest.mark.parametrize("what", ["part.v2", "ground_truth", "part.v2/mask.png/", "part.v2/findings.json/"])
def test_something_of_the_same_name_in_the_way(save, tmp_path, what):
    """A file where a folder is needed, or the other way round: nothing is left of what was begun."""
    out = tmp_path / "out"
    out.mkdir()
    if what.endswith("/"):
        (out / what).mkdir(parents=True)
    else:
        (out / what).write_text("not ours")
    before = contents(out)
    assert save(out).startswith("Nothing was saved. ")
    assert contents(out) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(size, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_one_that_is_read_only(save, part, small_disk, tmp_path):
    assert save(small_disk) == (
        "Nothing was saved. The disk is full. Make room or choose another folder, then try again."
    )
    assert contents(small_disk) == {}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = save(small_disk)
    assert "may not be written to" in line
    assert "\n" not in line
    part.review.write_trail(small_disk / "trail.csv")
    assert "may not be written to" in part.messages.label.text()
    assert save(tmp_path / "out") == SAVED


def test_an_earlier_save_stands_where_a_later_one_fails(save, part, tmp_path, monkeypatch):
    assert save(tmp_path / "out") == SAVED
    before = contents(tmp_path / "out")
    part.session.desk.labels.paint([40, 40], 1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:  # the last of all that is written
        patch.setattr(saving, "_mvtec", fail)
        assert save(tmp_path / "out").startswith("Nothing was saved. The disk is full.")
    assert contents(tmp_path / "out") == before
    assert save(tmp_path / "out") == SAVED
    assert contents(tmp_path / "out") != before


def test_undo_across_a_save(save, part, tmp_path):
    """What is undone after a save is undone in the next one, and a mask of a class without findings goes."""
    desk, out = part.session.desk, tmp_path / "out"
    mask, truth = out / "part.v2" / "mask.png", out / "ground_truth" / "bright" / "part.v2_mask.png"
    desk.labels.paint([40, 40], 1)
    painted = int((desk.review.mask > 0).sum())
    for step, want in ((None, painted), (part.review.undo, 225), (part.review.redo, painted)):
        if step is not None:
            step()
        assert save(out) == SAVED
        assert np.count_nonzero(np.asarray(PIL.Image.open(mask))) == want
        assert np.count_nonzero(np.asarray(PIL.Image.open(truth))) == want
    desk.judge("reject", [1])
    assert save(out) == "Saved in part.v2: mask.png read back the same."
    assert not truth.exists()
    part.review.undo()
    assert save(out) == SAVED
    assert truth.is_file()


def test_masks_of_a_data_set_that_are_not_ours_stay(save, part, tmp_path):
    """Where the case was never saved, a mask beside it is somebody else's ground truth."""
    truth = tmp_path / "out" / "ground_truth" / "bright" / "part.v2_mask.png"
    truth.parent.mkdir(parents=True)
    truth.write_bytes(b"theirs")
    part.session.desk.judge("reject", [1])
    save(tmp_path / "out")
    assert truth.read_bytes() == b"theirs"


def test_the_reviewer_goes_on_while_it_is_written(part, until, tmp_path, monkeypatch):
    """Mask and audit trail are those of the moment when it was asked for."""
    desk, go, real = part.session.desk, threading.Event(), saving.save

    def slow(job):
        go.wait(60)
        return real(job)

    monkeypatch.setattr(saving, "save", slow)
    desk.labels.paint([40, 40], 1)
    asked = int((desk.review.mask > 0).sum())
    part.review.save(tmp_path / "out")
    desk.labels.paint([50, 60], 1)
    desk.judge("reject", [1])
    go.set()
    until(lambda: part.session.job.finished)
    assert np.count_nonzero(np.asarray(PIL.Image.open(tmp_path / "out" / "part.v2" / "mask.png"))) == asked
    with (tmp_path / "out" / "part.v2" / "audit_trail.csv").open(encoding="utf-8", newline="") as file:
        assert [row["action"] for row in csv.DictReader(file)] == ["paint"]


def test_a_class_with_an_odd_name_stays_in_the_folder(save, part, tmp_path):
    part.session.desk.relabel([1], "../../scratch: deep")
    assert "ground_truth/_.._scratch_ deep" in save(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"part.v2", "ground_truth"}
