"""Running: off the main thread, cancelled, failing, and shared by all viewers."""

import threading

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import engines, keep
from napari_inspection.worker import Job, explain


def test_a_run_shows_mask_score_findings_and_what_made_them(reviewed):
    viewer, desk = reviewed.viewer, reviewed.session.desk
    kinds = {layer.name: type(layer).__name__ for layer in viewer.layers}
    assert kinds == {"phantom.nii.gz": "Image", "score": "Image", "findings": "Labels", "confidence": "Points"}
    assert viewer.layers["score"].colormap.name == "inferno"
    assert len({tuple(layer.scale) for layer in viewer.layers}) == 1
    assert len({str(layer.units) for layer in viewer.layers}) == 1
    shown = desk.case.frame.unshow(np.asarray(viewer.layers["findings"].data))
    np.testing.assert_array_equal(shown > 0, desk.review.prediction.mask > 0)
    assert reviewed.banner.text() == "phantom-lesions, version 1. Research use only, not for diagnosis."
    assert reviewed.review.table.rows.rowCount() == len(desk.findings) > 2


def test_the_card_is_there_before_the_run(reviewed):
    words = reviewed.running.picker.card_view.toPlainText()
    for word in ("phantom-lesions", "Limits:", "Licence:", "Research use only"):
        assert word in words
    assert "as measured on this machine" in reviewed.running.expect.text()


def test_prediction_is_off_the_main_thread(panel, until, phantom_file, monkeypatch, reviewed):
    seen = []
    real = keep.predicted

    def watched(*args):
        seen.append(threading.current_thread() is threading.main_thread())
        return real(*args)

    monkeypatch.setattr(keep, "predicted", watched)
    reviewed.running.start()
    until(lambda: bool(seen) and reviewed.session.job.finished)
    assert seen == [False]


def test_cancel_changes_nothing_and_the_panel_works_on(reviewed, until, monkeypatch):
    from inspection_core.progress import tick

    before, started, real = reviewed.session.desk, threading.Event(), keep.predicted

    def slow(*_):
        for step in range(10_000):
            started.set()
            tick(step, 10_000)
            threading.Event().wait(0.01)

    monkeypatch.setattr(keep, "predicted", slow)
    reviewed.running.start()
    until(started.is_set)
    until(lambda: reviewed.progress.isVisibleTo(reviewed) and reviewed.bar.maximum() == 10_000)
    assert not reviewed.running.run.isEnabled()
    reviewed.stop.click()
    until(lambda: reviewed.session.job.finished)
    assert reviewed.messages.label.text() == "Cancelled. Nothing was changed."
    assert reviewed.session.desk is before
    assert not reviewed.progress.isVisibleTo(reviewed)
    monkeypatch.setattr(keep, "predicted", real)
    reviewed.running.run.click()
    until(lambda: reviewed.session.desk is not before and reviewed.session.desk is not None)


# name: (error, line)
FAILURES = {
    "out of memory": (
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        "Memory ran out. Close other programs or large layers, then run again.",
    ),
    "no memory in the process": (
        MemoryError(),
        "Memory ran out. Close other programs or large layers, then run again.",
    ),
    "a full disk": (
        OSError(28, "No space left on device"),
        "The disk is full. Make room or choose another folder, then try again.",
    ),
    "a full disk, as numpy tells it": (
        OSError("4800 requested and 964 written"),
        "The disk is full. Make room or choose another folder, then try again.",
    ),
    "a disk that is read-only": (
        OSError(30, "Read-only file system", "/media/results"),
        "results may not be written to, or read. Choose another folder, or ask for the right to it.",
    ),
    "a file in the way": (
        OSError(20, "Not a directory", "/media/results"),
        "results is in the way: a file where a folder is needed, or a folder for a file. Choose another folder.",
    ),
    "a broken wire": (
        OSError(5, "Input/output error"),
        "Input/output error. Check the folder and the disk, then try again.",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line_and_the_panel_works_on(reviewed, until, monkeypatch, name):
    error, line = FAILURES[name]

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(keep, "predicted", fail)
        reviewed.running.start()
        until(lambda: reviewed.session.job.finished)
    assert (reviewed.messages.kind, reviewed.messages.label.text()) == ("error", line)
    assert reviewed.running.run.isEnabled()


def test_what_nobody_foresaw_says_where_and_not_what():
    try:
        raise ValueError("Doe^Jane 1970")
    except ValueError as error:
        line = explain(error)
    assert "ValueError in test_run.py" in line
    assert "Jane" not in line


def test_a_missing_model_and_nothing_open(panel, monkeypatch, tmp_path):
    monkeypatch.setattr("inspection_core.engine.EMBEDDED_CARDS", tmp_path / "none come along")
    panel.running.picker.refresh()
    panel.running.start()
    assert panel.messages.label.text() == "There is no model to run. Add the folder of one, or fit one below."
    panel.session.run(engines.store.models_folder())
    assert panel.messages.label.text() == "There is nothing to run on. Open a scan or an image first."


def test_one_engine_for_all(monkeypatch, tmp_path):
    from inspection_core.phantom_ct import make_phantom_model

    make_phantom_model(tmp_path / "phantom-lesions")
    loaded = {id(engines.engine().load(tmp_path / "phantom-lesions")) for _ in range(3)}
    assert len(loaded) == 1


def test_a_job_is_cancelled_even_where_nothing_asks(qtbot):
    ends = []
    go = threading.Event()
    job = Job(go.wait, lambda result: ends.append("done"), ends.append).start()
    job.cancel()
    go.set()
    qtbot.waitUntil(lambda: job.finished, timeout=20_000)
    assert ends == [""]


def test_a_model_that_fits_is_chosen_and_another_one_cannot_run(reviewed):
    from dataclasses import replace

    from inspection_core.card import CARD_NAME

    card = reviewed.running.picker.card
    pictures = replace(card, id="a-pictures", preparation=replace(card.preparation, view="image"))
    folder = engines.store.models_folder() / "a-pictures"
    folder.mkdir()
    (folder / CARD_NAME).write_text(pictures.to_toml(), encoding="utf-8")
    picker = reviewed.running.picker
    picker.refresh(prefer=folder)
    assert picker.card.id == "a-pictures"
    assert not reviewed.running.run.isEnabled()
    assert reviewed.running.expect.text() == "This model is for images, not for scans. Choose another."
    picker.choose_for(reviewed.session.case.image)
    assert picker.card.id == "phantom-lesions"
    assert reviewed.running.run.isEnabled()
