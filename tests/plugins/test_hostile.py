"""What a user does at the wrong moment: layers that go, windows that close, two windows on one review."""

import threading

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import keep
from napari_inspection.widgets import MessageBar


def test_findings_whose_layer_was_removed_are_kept(reviewed, until):
    desk = reviewed.session.desk
    desk.judge("accept", [2])
    reviewed.viewer.layers.remove(desk.labels)
    until(lambda: reviewed.session.desk is None)
    assert [layer.name for layer in reviewed.viewer.layers] == ["phantom.nii.gz"]
    assert reviewed.messages.label.text() == "The findings were closed with their layer. The review is kept."
    reviewed.messages.buttons()[0].click()
    until(lambda: reviewed.session.desk is not None)
    assert reviewed.session.desk.review.mark(2).status == "accepted"


def test_an_image_that_was_removed_is_no_longer_the_case(reviewed, until):
    reviewed.viewer.layers.clear()
    until(lambda: reviewed.session.case is None)
    assert reviewed.session.desk is None
    assert reviewed.running.expect.text() == "Open something to run it on."
    reviewed.running.start()
    assert reviewed.messages.label.text() == "There is nothing to run on. Open a scan or an image first."


def test_an_image_that_is_removed_while_the_model_runs(reviewed, until, monkeypatch):
    started, go, real = threading.Event(), threading.Event(), keep.predicted

    def slow(*args):
        started.set()
        go.wait(60)
        return real(*args)

    monkeypatch.setattr(keep, "predicted", slow)
    reviewed.running.start()
    until(started.is_set)
    reviewed.viewer.layers.clear()
    until(lambda: reviewed.session.case is None)
    go.set()
    until(lambda: reviewed.session.idle)
    assert reviewed.messages.label.text() == "phantom.nii.gz was closed while the model ran. Open it and run again."
    assert len(reviewed.viewer.layers) == 0


def test_what_is_done_while_the_model_runs_again_is_not_lost(reviewed, until, monkeypatch):
    desk, read, go, real = reviewed.session.desk, threading.Event(), threading.Event(), keep.opened

    def slow(*args):
        result = real(*args)
        read.set()
        go.wait(60)
        return result

    monkeypatch.setattr(keep, "opened", slow)
    reviewed.running.start()
    until(read.is_set)
    desk.judge("accept", [1])
    go.set()
    until(lambda: reviewed.session.desk is not desk)
    assert reviewed.session.desk.review.mark(1).status == "accepted"


def test_one_review_is_open_in_one_window(reviewed, until):
    desk = reviewed.session.desk
    with pytest.raises(keep.UsageError, match=r"open in another window\. Close it there, or review under another name"):
        keep.claim(desk.folder, desk.reviewer)
    keep.claim(desk.folder, "ben").release()
    folder, reviewer = desk.folder, desk.reviewer
    reviewed.session.leave()
    lock = keep.claim(folder, reviewer)
    reviewed.session.list([desk.case.item.files[0]])
    until(lambda: reviewed.session.case is not None and reviewed.session.idle)
    reviewed.running.run.click()
    until(lambda: reviewed.session.idle)
    assert reviewed.session.desk is None
    assert "open in another window" in reviewed.messages.label.text()
    lock.release()
    reviewed.running.run.click()
    until(lambda: reviewed.session.desk is not None)


def test_a_window_that_closes_during_a_run(napari, qapp, until, phantom_file, monkeypatch):
    """Nothing of the viewer is touched after it is gone, and the job stops."""
    from inspection_core.progress import tick
    from napari_inspection.samples import model_of_phantom

    model_of_phantom()
    viewer = napari.Viewer(show=False)
    _, panel = viewer.window.add_plugin_dock_widget("inspection-suite", "Inspection")
    panel.session.list([phantom_file])
    until(lambda: panel.session.case is not None)
    started, ended = threading.Event(), threading.Event()

    def slow(*_):
        started.set()
        try:
            for step in range(10_000):
                tick(step, 10_000)
                threading.Event().wait(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(keep, "predicted", slow)
    session = panel.session
    panel.running.start()
    until(started.is_set)
    viewer.close()
    until(ended.is_set)
    until(lambda: session.job.finished)
    assert session._closed


def test_a_choice_gives_way_to_the_next_line(qapp, capsys):
    bar = MessageBar()
    pressed = []
    for _ in range(2):
        bar.offer("Two ways", [("One", lambda: pressed.append(1)), ("Two", lambda: pressed.append(2))])
    assert [b.text() for b in bar.buttons()][-2:] == ["One", "Two"]
    bar.buttons()[-1].click()
    assert pressed == [2]
    bar.say("info", "next")
    assert bar.label.text() == "next"
    assert "Traceback" not in capsys.readouterr().err


def test_strokes_outside_of_the_image_change_nothing(reviewed):
    desk = reviewed.session.desk
    before = np.array(desk.review.regions)
    for place in ([3, -50, -50], [3, 1e4, 5]):
        desk.labels.paint(place, 1)
    assert desk.review.corrections == ()
    np.testing.assert_array_equal(desk.review.regions, before)


def test_scores_have_the_scale_of_the_model(reviewed):
    """A calm image looks calm: the colours are not stretched to what one map holds."""
    assert tuple(reviewed.session.desk.score.contrast_limits)[1] == 1.0
