"""What a user does at the wrong moment: layers that go, windows that close, two windows on one review."""

import threading

import numpy as np
import PIL.Image
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


def test_rows_that_cannot_be_opened_say_why_and_the_list_goes_on(panel, until, tmp_path):
    """Truncated, empty, of another kind, and deleted under the list."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a", "b", "c", "d", "e", "f"):
        PIL.Image.fromarray(np.full((20, 30), 90, np.uint8)).save(folder / f"{name}.png")
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:50])
    (folder / "c.png").write_bytes(b"")
    PIL.Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "d.png", format="jpeg")
    panel.session.list([folder])
    until(lambda: panel.opening.model.rowCount() == 6)
    (folder / "e.png").unlink()
    said = {}
    for _ in range(6):
        panel.opening.step(1)
        until(lambda: panel.session.job.finished)
        at = panel.opening.table.currentIndex().row()
        row = [panel.opening.rows.index(at, column).data() for column in (1, 2, 4)]
        said[row[0]] = row[1:]
    assert panel.session.case.name == "f.png"
    assert said["a.png"] == said["f.png"] == ["", "picture"]
    for name, word in (("b", "truncated"), ("c", "empty"), ("d", "JPEG"), ("e", "does not exist")):
        assert said[f"{name}.png"][0] == "failed"
        assert word in said[f"{name}.png"][1]
        assert str(folder) not in said[f"{name}.png"][1], "the reason, and not the path, is what there is room for"
    assert not panel.opening.table.isColumnHidden(4)
    header = panel.opening.table.horizontalHeader()
    assert header.length() <= panel.opening.table.viewport().width(), "nothing is beside the picture's edge"
    panel.opening.filter.setCurrentText("failed")
    assert panel.opening.rows.rowCount() == 4
    panel.opening.filter.setCurrentText("all")
    (folder / "b.png").write_bytes(whole)
    panel.opening.open_row(1)
    until(lambda: panel.session.case.name == "b.png")
    assert panel.opening.rows.index(1, 2).data() == ""


def test_a_file_that_is_deleted_while_it_is_shown_is_still_the_same_case(reviewed, until, phantom_file):
    reviewed.session.desk.judge("accept", [2])
    folder = reviewed.session.desk.folder
    phantom_file.unlink()
    reviewed.running.run.click()
    until(lambda: reviewed.session.idle)
    assert reviewed.session.desk.folder == folder
    assert reviewed.session.desk.review.mark(2).status == "accepted"


def test_what_another_plugin_writes_into_the_layer_is_a_change_like_any_other(reviewed):
    desk = reviewed.session.desk
    before = np.array(desk.review.regions)
    given = np.array(desk.labels.data).astype(np.int64)
    given[5:7, 10:12, 20:24] = 1
    desk.labels.data = given
    assert [c.action for c in desk.review.corrections] == ["paint"]
    np.testing.assert_array_equal(desk.case.frame.unshow(given), desk.review.regions)
    desk.labels.paint([8, 30, 30], 1)
    np.testing.assert_array_equal(desk.case.frame.unshow(np.asarray(desk.labels.data)), desk.review.regions)
    desk.undo()
    desk.undo()
    np.testing.assert_array_equal(desk.review.regions, before)
    desk.labels.data = np.zeros((2, 3, 4), np.uint8)
    assert reviewed.messages.label.text() == (
        "Something put other data into the findings' layer. They do not fit, and were put back."
    )
    np.testing.assert_array_equal(desk.case.frame.unshow(np.asarray(desk.labels.data)), before)


def test_four_axes_sixteen_bits_and_floats(grey_model, viewer, until, tmp_path):
    """What the camera or the scanner gave is shown in its own range, and what a model cannot take is one line."""
    import nibabel
    import tifffile

    rng = np.random.default_rng(0)
    small = (rng.random((20, 30)) * 1e-3).astype(np.float32)
    files = {
        "sixteen.tif": (rng.random((20, 30)) * 4000).astype(np.uint16),
        "tiny.tif": small,
        "signed.tif": (rng.random((20, 30)) * 4000 - 2000).astype(np.int16),
        "many.tif": (rng.random((20, 30)) * 4e9).astype(np.uint32),
    }
    for name, array in files.items():
        tifffile.imwrite(tmp_path / name, array)
        grey_model.session.list([tmp_path / name])
        until(lambda name=name: grey_model.session.case is not None and grey_model.session.case.name == name)
        (layer,) = viewer.layers
        grey_model.view.use("whole range")
        assert tuple(layer.contrast_limits) == (array.min(), array.max()), name
        width = grey_model.view.window_width
        assert width.value() == pytest.approx(float(array.max()) - float(array.min()), rel=0.01), name
        width.stepBy(-1)
        assert 0 < np.ptp(layer.contrast_limits) < float(array.max()) - float(array.min()), name
    series = rng.random((8, 9, 10, 6)).astype(np.float32)
    series[0, 0, 0, 0], series[1, 0, 0, 0] = np.nan, np.inf
    image = nibabel.Nifti1Image(series, np.diag([2, 2, 3, 1]))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "series.nii.gz")
    grey_model.session.list([tmp_path / "series.nii.gz"])
    until(lambda: grey_model.session.case.name == "series.nii.gz")
    (layer,) = viewer.layers
    assert layer.data.shape == (6, 10, 9, 8)
    grey_model.view.use("whole range")
    finite = series[np.isfinite(series)]
    assert tuple(layer.contrast_limits) == pytest.approx((finite.min(), finite.max()))
    grey_model.running.start()
    until(lambda: grey_model.session.idle)
    assert "expected the channel grey. Got 6" in grey_model.messages.label.text()
    grey_model.view.toggle_linked()
    grey_model.view.toggle_linked()
