"""Rows of a screened list open with what was found, without the model; and can be looked at while others are done."""

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import keep
from napari_inspection.samples import model_of_phantom


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Three small heads as NIfTI, of which the last has no lesion; for copies, since tests change them."""
    from dataclasses import replace

    from inspection_core.io.nifti import write_nifti
    from inspection_core.phantom_ct import make_phantom

    folder = tmp_path_factory.mktemp("heads")
    image = make_phantom((16, 40, 36), (10.0, 5.0, 5.0)).image
    for name, top in (("köpf 1", 3000), ("head_2", 3000), ("head_3", 40)):
        write_nifti(folder / f"{name}.nii.gz", replace(image, array=np.minimum(image.array, top)))
    return folder


@pytest.fixture
def listed(panel, until, heads, tmp_path):
    model_of_phantom()
    panel.running.picker.refresh()
    panel.running.picker.box.setCurrentText("phantom-lesions 1")
    shutil.copytree(heads, tmp_path / "heads")
    panel.session.list([tmp_path / "heads"])
    until(lambda: panel.opening.model.rowCount() == 3)
    return panel


@pytest.fixture
def screened(listed, until):
    screen(listed, until)
    return listed


def screen(panel, until):
    panel.running.screening.screen_button.click()
    until(lambda: not panel.session.screening)
    assert panel.messages.kind == "info", panel.messages.label.text()


def show(panel, until, name):
    """Show a row by its name, and wait for it."""
    model, rows = panel.opening.model, panel.opening.rows
    source = next(at for at, item in enumerate(model.items) if item.files[0].name.startswith(name))
    panel.opening.open_row(rows.mapFromSource(model.index(source, 0)).row())
    until(lambda: panel.session.idle)
    return source


def test_a_row_opens_with_what_the_run_kept(screened, until, monkeypatch):
    monkeypatch.setattr(keep, "predicted", None)  # no model is run
    panel = screened
    panel.show_tab("Open")
    at = show(panel, until, "köpf")
    desk = panel.session.desk
    result = panel.opening.model.results[at]
    assert len(desk.marks) == result.n_findings > 2
    assert desk.review.prediction.image_score == pytest.approx(result.score)
    assert {"findings", "score", "confidence"} <= {layer.name for layer in panel.viewer.layers}
    shown = desk.case.frame.unshow(np.asarray(panel.viewer.layers["findings"].data))
    assert ((shown > 0) == (desk.review.prediction.mask > 0)).all()
    assert panel.banner.text() == "phantom-lesions, version 1. Research use only, not for diagnosis."
    assert panel.tabs.tabText(panel.tabs.currentIndex()) == "Open", "one goes through the list"
    show(panel, until, "head_3")
    assert panel.session.desk.marks == {}


def test_what_was_corrected_is_there_again_and_in_the_filter(screened, until):
    panel = screened
    at = show(panel, until, "head_2")
    panel.session.desk.judge("accept", [1])
    panel.session.flush()
    show(panel, until, "köpf")
    show(panel, until, "head_2")
    assert panel.session.desk.review.mark(1).status == "accepted"
    assert panel.messages.label.text() == "Your earlier review of this result was continued: 1 corrections."
    panel.session.list([panel.session.listing.inputs[0].given])  # as after a new start
    until(lambda: panel.session.idle and not panel.opening.model.corrected)
    screen(panel, until)
    assert panel.opening.model.corrected == {at}
    panel.opening.filter.setCurrentText("corrected")
    assert panel.opening.rows.rowCount() == 1
    show(panel, until, "head_2")
    panel.messages.buttons()[0].click()  # begin anew
    until(lambda: panel.session.desk is not None and panel.session.desk.review.corrections == ())
    screen(panel, until)
    assert not any(result.corrected for result in panel.session.results.values())


def test_an_image_that_changed_gets_no_stale_findings(screened, until):
    panel = screened
    item = next(i for i in panel.session.listing.inputs if i.files[0].name.startswith("head_2"))
    os.utime(item.files[0], (1, 1))
    show(panel, until, "head_2")
    assert panel.session.case is not None
    assert panel.session.desk is None
    assert panel.messages.label.text().startswith("The image changed since it was screened.")
    kept = panel.session.results
    (archive,) = {r.archive for label, r in kept.items() if "köpf" in label}
    next(archive.iterdir()).write_bytes(b"")
    show(panel, until, "köpf")
    assert panel.session.desk is None
    assert "missing or damaged" in panel.messages.label.text()


def test_what_is_done_is_seen_though_the_record_was_in_use(listed, until, monkeypatch, second_waits):
    from inspection_core.io.store import RunStore

    panel, real, refused = listed, RunStore.rows, []

    def rows(store, **which):
        if len(refused) < 2:
            refused.append(store)
            raise OSError("in use")
        return real(store, **which)

    monkeypatch.setattr(RunStore, "rows", rows)
    monkeypatch.setattr("napari_inspection.screen_panel.LOOK", 0.0)
    panel.running.screening.screen_button.click()
    try:
        until(second_waits.reached.is_set)
        until(lambda: len(panel.opening.model.results) == 1)
    finally:
        second_waits.go.set()
    until(lambda: not panel.session.screening)
    assert len(refused) == 2


def test_rows_are_looked_at_while_others_are_done(listed, until, monkeypatch, second_waits):
    panel, screening = listed, listed.running.screening
    with monkeypatch.context() as patch:
        patch.setattr("napari_inspection.screen_panel.LOOK", 0.0)
        screening._rest = 0.0
        screening.screen_button.click()
        until(second_waits.reached.is_set)
        try:
            until(lambda: panel.bar.maximum() == 3 and panel.bar.value() == 1)  # counted, while it runs
            until(lambda: len(panel.opening.model.results) == 1)
            show(panel, until, second_waits.read[0])
            assert panel.session.screening
            assert len(panel.session.desk.marks) > 2
            assert panel.progress.isVisibleTo(panel)
            assert panel.what.text().startswith("Screening")
            panel.running.start()
            assert panel.messages.label.text().startswith("Something else is still running.")
            screening.pause_button.click()
        finally:
            second_waits.go.set()
        until(lambda: not panel.session.screening)
    assert panel.messages.label.text() == "Paused. What is done is kept; Screen list goes on from there."
    assert not panel.progress.isVisibleTo(panel)
    assert panel.session.desk is not None
    screen(panel, until)
    assert len(panel.opening.model.results) == 3
