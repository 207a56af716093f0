"""Reviewing: verdicts, strokes and smart tools in one history, kept as they are made, and written at the end."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from qtpy.QtCore import Qt

from napari_inspection import keep, store, tools


def numbers(desk):
    """What the picture shows must be what the review holds; return it."""
    shown = np.asarray(desk.case.frame.unshow(np.asarray(desk.labels.data)))
    np.testing.assert_array_equal(shown, desk.review.regions)
    return np.array(desk.review.regions)


@pytest.fixture
def at(reviewed):
    """Go to a finding as a click in the table does; return the desk."""

    def go(number):
        reviewed.review.go_to(number)
        return reviewed.session.desk

    return go


class TestTable:
    def test_the_most_doubtful_comes_first_and_is_looked_at(self, reviewed):
        desk, table = reviewed.session.desk, reviewed.review.table
        doubts = [desk.doubt(n) for n in table.shown()]
        assert doubts == sorted(doubts, reverse=True)
        assert table.selected() == [table.shown()[0]]

    def test_a_click_jumps_to_the_finding(self, reviewed, qtbot):
        viewer, desk, table = reviewed.viewer, reviewed.session.desk, reviewed.review.table
        row = table.rows.rowCount() - 1
        rectangle = table.visualRect(table.rows.index(row, 1))
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=rectangle.center())
        number = table.number(row)
        assert table.selected() == [number]
        place = np.rint(desk.case.frame.index(np.array(viewer.dims.point))).astype(int)
        assert desk.review.regions[place[0]].max() >= number
        z, y, x = np.rint(desk.case.frame.index(desk.centre(number))).astype(int)
        assert desk.review.regions[z, y, x] == number
        np.testing.assert_allclose(viewer.scene.camera.center[-2:], desk.centre(number)[-2:], atol=1e-6)
        assert desk.labels.selected_label == number

    def test_keys_accept_reject_and_go_on(self, reviewed):
        desk, review = reviewed.session.desk, reviewed.review
        first = review.table.selected()[0]
        left = desk.left
        review.keys()["A"]()
        assert desk.review.mark(first).status == "accepted"
        assert desk.left == left - 1
        second = review.table.selected()[0]
        assert second != first
        review.keys()["R"]()
        assert desk.review.mark(second).status == "rejected"
        assert f"{left - 2} of {len(desk.marks)} left, 1 accepted, 1 rejected" in review.count.text()
        assert not (desk.review.mask[desk.review.regions == second]).any()
        while desk.left:
            review.keys()["A"]()
        review.keys()["N"]()
        assert reviewed.messages.label.text() == "Every finding has a verdict."

    def test_keys_are_bound_in_the_viewer(self, reviewed):
        bound = {str(key) for key in reviewed.viewer.keymap}
        assert {"A", "R", "N", "U", "G", "T", "Q", "J", "K", "Ctrl+Z", "Ctrl+Shift+Z"} <= bound

    def test_filters(self, reviewed, at):
        desk = at(1)
        desk.judge("accept", [1])
        for name, want in (("accepted", [1]), ("rejected", []), ("all", sorted(desk.marks))):
            reviewed.review.filter.setCurrentText(name)
            assert sorted(reviewed.review.table.shown()) == want
        reviewed.review.filter.setCurrentText("rejected")
        reviewed.review.go_to(1)
        assert reviewed.review.table.selected() == [1], "a jump leaves a filter that hides its target"

    def test_relabel(self, reviewed, at):
        desk = at(1)
        reviewed.review.label.setCurrentText("cyst")
        reviewed.review.relabel()
        assert desk.review.mark(1).label == "cyst"
        assert desk.findings[1].label == "cyst"

    def test_merge_and_undo(self, reviewed):
        desk, review = reviewed.session.desk, reviewed.review
        before = numbers(desk)
        review.table.pick([2, 3])
        review.merge()
        assert set(np.unique(numbers(desk))) == set(np.unique(before)) - {3}
        assert desk.findings[2].size == pytest.approx(desk.origin[2].size + desk.origin[3].size)
        assert 3 not in desk.marks
        review.undo()
        np.testing.assert_array_equal(numbers(desk), before)
        assert desk.findings[3].size == pytest.approx(desk.origin[3].size)

    def test_a_thousand_findings_do_not_lag(self, panel, until, tmp_path, monkeypatch):
        import dataclasses

        from inspection_core.findings import find_labelled
        from inspection_core.geometry import Geometry
        from inspection_core.image import Image
        from inspection_core.inputs import Opened
        from inspection_core.io.review_store import open_review
        from inspection_core.prediction import Prediction
        from napari_inspection.layers import make_case

        mask = np.zeros((330, 330), np.uint8)
        mask.reshape(33, 10, 33, 10)[:, 2:5, :, 3:6] = 1
        geometry = Geometry.pixels(mask.shape)
        score = np.random.default_rng(0).random(mask.shape).astype(np.float32)
        mask, findings = find_labelled(mask, score, geometry, ("dot",))
        assert len(findings) == 1089
        prediction = Prediction(geometry, score, mask, findings, 1, None, "NG", 0.5, "m", "1", "", "cpu")
        case = make_case(Opened(Image(score[None], geometry, ("grey",))), "dots")
        panel.session.show(case)
        kept, review = open_review(tmp_path / "r", "ann", (prediction, ("dot",)))
        panel.session._sit_down(keep.Opened(case, review, kept, tmp_path / "r", "ann"))
        assert panel.review.table.rows.rowCount() == 1089
        with monkeypatch.context() as patch:  # a verdict measures nothing again, and tells the table of one row
            patch.setattr("napari_inspection.desk.find_numbered", None)
            changed = []
            panel.review.table.findings.dataChanged.connect(lambda a, b, *_: changed.append(b.row() - a.row() + 1))
            panel.review.table.findings.modelReset.connect(lambda: changed.append(1089))
            for _ in range(5):
                panel.review.judge("accept")
        assert panel.session.desk.left == 1084
        assert changed == [1] * 5
        assert dataclasses.is_dataclass(prediction)


class TestHistory:
    def test_a_stroke_of_the_mouse_is_one_step(self, reviewed, at, stroke):
        desk = at(1)
        before = numbers(desk)
        middle = desk.centre(1)[-2:]
        reviewed.edit.mode("paint")
        stroke(reviewed.viewer, [middle + np.array((0, across)) for across in (0, 12, 24)])
        after = numbers(desk)
        assert (after == 1).sum() > (before == 1).sum()
        assert [c.action for c in desk.review.corrections] == ["paint"]
        assert desk.review.mark(1).edited
        desk.settle()
        assert desk.findings[1].size > desk.origin[1].size
        desk.labels.undo()  # what napari's own Ctrl+Z calls
        np.testing.assert_array_equal(numbers(desk), before)
        assert [c.action for c in desk.review.corrections] == ["paint", "undo"]
        desk.labels.redo()
        np.testing.assert_array_equal(numbers(desk), after)

    def test_eraser_fill_and_a_new_finding(self, reviewed, at):
        desk = at(1)
        place = [int(v) for v in desk.case.frame.to_shown(np.array(desk.findings[1].centroid_index)).round()]
        desk.labels.paint(place, 0)
        assert numbers(desk)[tuple(np.rint(desk.case.frame.from_shown(place)).astype(int))] == 0
        reviewed.edit.new_finding()
        number = int(desk.labels.selected_label)
        assert number not in desk.marks
        desk.labels.fill(place, number)
        assert desk.review.mark(number).edited
        assert number in reviewed.review.table.shown()
        assert desk.doubt(number) == 0

    def test_everything_is_undone_in_the_order_that_it_was_done(self, reviewed, at):
        desk = at(1)
        states = [(numbers(desk), desk.review.marks)]
        steps = [
            lambda: desk.judge("accept", [1]),
            lambda: tools.grow(desk, 1),
            lambda: desk.labels.paint([2, 2, 2], 1),
            lambda: tools.smooth(desk, 1),
            lambda: desk.merge([1, 2]),
            lambda: desk.judge("reject", [1]),
        ]
        for step in steps:
            step()
            states.append((numbers(desk), desk.review.marks))
        for regions, marks in reversed(states[:-1]):
            reviewed.review.undo()
            np.testing.assert_array_equal(numbers(desk), regions)
            assert desk.review.marks == marks
        reviewed.review.undo()
        assert reviewed.messages.label.text() == "There is nothing to undo."
        for regions, marks in states[1:]:
            reviewed.review.redo()
            np.testing.assert_array_equal(numbers(desk), regions)
            assert desk.review.marks == marks

    def test_a_stroke_touches_no_more_than_its_box(self, reviewed, at, monkeypatch):
        """What it costs beside napari's own is measured in benchmarks/viewer_stroke.py."""
        desk = at(1)
        with monkeypatch.context() as patch:
            patch.setattr("napari_inspection.desk.find_numbered", None)  # findings are measured once the hand rests
            for k in range(3):
                desk.labels.paint([10, 20 + k, 20], 1)
        side = desk.labels.brush_size + 1
        assert all(np.prod(c.after.shape) <= side * side for c in desk.review.corrections)


class TestTools:
    @pytest.mark.parametrize(
        "name", ["Grow", "Shrink", "Smooth", "Fill holes", "Drop islands", "Grow from seeds", "Delete"]
    )
    def test_each_button_is_one_step_that_undo_takes_back(self, reviewed, at, name):
        desk = at(1)
        before, others = numbers(desk), numbers(desk) > 1
        reviewed.edit.tools[name].click()
        assert reviewed.messages.kind != "error", reviewed.messages.label.text()
        assert len(desk.review.corrections) == 1
        after = numbers(desk)
        np.testing.assert_array_equal(after[others], before[others], "other findings keep their voxels")
        reviewed.edit.undo()
        np.testing.assert_array_equal(numbers(desk), before)

    def test_grow_and_shrink_by_a_quarter(self, reviewed, at):
        desk = at(1)
        size = (numbers(desk) == 1).sum()
        reviewed.edit.tools["Grow"].click()
        assert (numbers(desk) == 1).sum() == size + round(size / 4)
        reviewed.edit.undo()
        reviewed.edit.tools["Shrink"].click()
        assert (numbers(desk) == 1).sum() == size - round(size / 4)

    def test_interpolate_between_painted_slices(self, reviewed):
        desk = reviewed.session.desk
        reviewed.edit.new_finding()
        number = int(desk.labels.selected_label)
        for z in (2, 6):
            desk.labels.paint([z, 30, 30], number)
        desk.select(number)
        reviewed.edit.tools["Interpolate"].click()
        planes = np.flatnonzero((numbers(desk) == number).any(axis=(1, 2)))
        assert planes.tolist() == [2, 3, 4, 5, 6]

    def test_split_gives_the_parts_numbers_of_their_own(self, reviewed):
        desk = reviewed.session.desk
        reviewed.review.table.pick([2, 3])
        reviewed.review.merge()
        reviewed.review.split()
        found = set(np.unique(numbers(desk))) - {0}
        assert 2 in found
        assert max(found) > max(desk.origin)
        assert desk.review.mark(max(found)).label == "lesion"

    def test_the_slider_previews_and_is_one_step_when_let_go(self, reviewed, at):
        desk = at(1)
        before = numbers(desk)
        slider = reviewed.edit.slider
        slider.sliderPressed.emit()
        for position in (tools.Level.STEPS // 2, tools.Level.STEPS):
            slider.setValue(position)
        assert desk.review.corrections == ()
        assert (desk.canvas == 1).sum() < (before == 1).sum()
        slider.sliderReleased.emit()
        assert [c.action for c in desk.review.corrections] == ["level"]
        assert (numbers(desk) == 1).sum() < (before == 1).sum()
        reviewed.edit.undo()
        np.testing.assert_array_equal(numbers(desk), before)

    def test_without_a_finding_they_say_what_to_do(self, reviewed):
        desk = reviewed.session.desk
        desk.select(0)
        desk.labels.selected_label = 0
        reviewed.edit.use(tools.grow)
        assert reviewed.messages.label.text() == "Select a finding in the table first, or paint a new one."


class TestKept:
    def test_a_review_is_continued_where_it_was(self, reviewed, at, until, phantom_file):
        desk = at(1)
        desk.judge("accept", [1])
        desk.labels.paint([10, 20, 20], 2)
        want, marks = numbers(desk), desk.review.marks
        reviewed.session.flush()
        reviewed.session.list([phantom_file])
        until(lambda: bool(reviewed.messages.buttons()))
        assert "2 corrections, model phantom-lesions 1" in reviewed.messages.label.text()
        reviewed.messages.buttons()[0].click()
        until(lambda: reviewed.session.desk is not None and reviewed.session.desk is not desk)
        again = reviewed.session.desk
        np.testing.assert_array_equal(numbers(again), want)
        assert again.review.marks == marks
        reviewed.review.undo()
        assert (numbers(again) != want).any(), "the history came back too"

    def test_a_new_run_goes_on_too_and_can_begin_anew(self, reviewed, at, until):
        desk = at(1)
        desk.judge("accept", [1])
        reviewed.session.flush()
        reviewed.running.run.click()
        until(lambda: reviewed.session.desk is not None and reviewed.session.desk is not desk)
        assert reviewed.session.desk.review.mark(1).status == "accepted"
        reviewed.messages.buttons()[0].click()
        until(lambda: reviewed.session.desk is not None and reviewed.session.desk.review.corrections == ())
        assert reviewed.session.desk.review.mark(1).status == "open"

    def test_after_a_kill_nothing_is_lost(self, home, phantom_file, until, panel):
        """A process that reviews is killed; the next one is offered the review and continues it."""
        from napari_inspection.samples import model_of_phantom

        script = f"""
            import os, signal
            from pathlib import Path
            from napari_inspection import engines, files, keep
            case = files.open_case(files.list_paths([Path({str(phantom_file)!r})]).inputs[0])
            result = keep.predicted(case, None, Path({str(model_of_phantom())!r}), engines.Place("cpu"))
            opened = keep.opened(result, "ann")
            correction = opened.review.judge("accept", "ann", [2])
            opened.review.add(correction)
            opened.store.put("ann", correction)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        environment = {**os.environ, "INSPECTION_HOME": str(home)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], check=False, env=environment
        )
        assert done.returncode == -signal.SIGKILL
        panel.session.list([phantom_file])
        until(lambda: bool(panel.messages.buttons()))
        assert "A review of this case by ann: 1 corrections" in panel.messages.label.text()
        panel.messages.buttons()[0].click()
        until(lambda: panel.session.desk is not None)
        assert panel.session.desk.review.mark(2).status == "accepted"
        assert panel.session.desk.reviewer == "ann"

    def test_two_reviewers_are_kept_apart_and_compared(self, reviewed, at, until):
        desk = at(1)
        desk.judge("accept", [1])
        first = desk.reviewer
        reviewed.review.reviewer.setText("ben")
        reviewed.review.reviewer.editingFinished.emit()
        until(lambda: reviewed.session.desk is not None and reviewed.session.desk.reviewer == "ben")
        second = reviewed.session.desk
        assert second.review.corrections == ()
        tools.delete(second, 2)
        reviewed.review.other.setCurrentText(first)
        reviewed.review.compare_button.click()
        until(lambda: "Dice" in reviewed.messages.label.text())
        assert reviewed.messages.label.text().startswith(f"ben and {first}: Dice 0.")
        assert store.user() == "ben"


class TestCompared:
    def test_with_the_model_as_coloured_overlap(self, reviewed, at, until):
        desk = at(1)
        size = int((numbers(desk) == 1).sum())
        tools.delete(desk, 1)
        reviewed.review.compare_with("the model")
        until(lambda: "comparison" in reviewed.viewer.layers)
        layer = reviewed.viewer.layers["comparison"]
        assert np.bincount(np.asarray(layer.data).ravel(), minlength=4)[[2, 3]].tolist() == [0, size]
        assert layer.metadata["names"] == ("both", f"{desk.reviewer} alone", "the model alone")
        assert reviewed.messages.label.text().startswith(f"{desk.reviewer} and the model: Dice 0.")

    def test_with_ground_truth(self, reviewed, until, tmp_path):
        from inspection_core.geometry import Geometry
        from inspection_core.image import Image
        from inspection_core.io.nifti import write_nifti

        desk = reviewed.session.desk
        truth = Image(desk.review.mask[None], desk.case.image.geometry, ("mask",))
        write_nifti(tmp_path / "truth.nii.gz", truth)
        reviewed.review.compare_with(str(tmp_path / "truth.nii.gz"))
        until(lambda: "Dice" in reviewed.messages.label.text())
        assert f"{desk.reviewer} and truth.nii.gz: Dice 1.000" in reviewed.messages.label.text()
        other = Image(np.zeros((1, 4, 4, 4), np.uint8), Geometry.from_spacing((4, 4, 4), (1, 1, 1)), ("mask",))
        write_nifti(tmp_path / "other.nii.gz", other)
        reviewed.review.compare_with(str(tmp_path / "other.nii.gz"))
        until(lambda: reviewed.messages.kind == "error")
        assert "lies on another grid" in reviewed.messages.label.text()

    def test_ground_truth_of_the_dataset_is_offered(self, panel, until, tmp_path, phantom_file):
        from inspection_core.io.nifti import read_nifti, write_nifti
        from napari_inspection.samples import model_of_phantom

        (tmp_path / "set" / "images").mkdir(parents=True)
        phantom_file.rename(tmp_path / "set" / "images" / "head.nii.gz")
        model_of_phantom()
        panel.running.picker.refresh()
        panel.session.list([tmp_path / "set" / "images" / "head.nii.gz"])
        until(lambda: panel.session.case is not None)
        panel.running.run.click()
        until(lambda: panel.session.desk is not None)
        assert panel.review.other.findText("ground truth") < 0, "there is none"
        image = read_nifti(tmp_path / "set" / "images" / "head.nii.gz")
        mask = panel.session.desk.review.mask
        (tmp_path / "set" / "masks").mkdir()
        write_nifti(tmp_path / "set" / "masks" / "head.nii.gz", type(image)(mask[None], image.geometry, ("mask",)))
        panel.review._on_desk(panel.session.desk)
        assert panel.review.other.currentText() == "ground truth"
        panel.review.compare_button.click()
        until(lambda: "Dice" in panel.messages.label.text())
        assert "and ground truth: Dice 1.000" in panel.messages.label.text()


class TestSaved:
    def test_one_button_writes_what_reads_back_the_same(self, reviewed, at, until, tmp_path):
        from inspection_core.io.nifti import read_nifti

        desk = at(1)
        desk.judge("reject", [1])
        tools.grow(desk, 2)
        reviewed.review.save(tmp_path / "out")
        until(lambda: reviewed.session.job.finished)
        assert reviewed.messages.label.text() == "Saved in phantom: mask.nii.gz read back the same."
        folder = tmp_path / "out" / "phantom"
        mask = read_nifti(folder / "mask.nii.gz").array[0]
        np.testing.assert_array_equal(mask, desk.review.mask)
        findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        assert findings["note"] == "Research use only, not for diagnosis."
        with (folder / "audit_trail.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [r["action"] for r in rows] == ["reject", "grow"]
        assert {r["model"] for r in rows} == {"phantom-lesions"}

    def test_a_series_gets_seg_and_sr(self, panel, until, tmp_path):
        import pydicom

        from inspection_core.io.dicom_series import write_series
        from inspection_core.phantom_ct import make_phantom
        from napari_inspection.samples import model_of_phantom

        image = make_phantom((24, 60, 56), (7.0, 3.5, 3.5)).image
        write_series(tmp_path / "series", image, description="Made-up head", seed="save")
        model_of_phantom()
        panel.session.list([tmp_path / "series"])
        until(lambda: panel.session.case is not None)
        panel.running.run.click()
        until(lambda: panel.session.desk is not None)
        tools.grow(panel.session.desk, 1)
        panel.review.save(tmp_path / "out")
        until(lambda: panel.session.job.finished)
        assert "mask.nii.gz, seg.dcm read back the same" in panel.messages.label.text()
        (folder,) = (tmp_path / "out").iterdir()
        seg = pydicom.dcmread(folder / "seg.dcm")
        assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
        assert pydicom.dcmread(folder / "sr.dcm").Modality == "SR"
        panel.review.compare_with(str(folder / "seg.dcm"))  # one segment a finding, named after its class
        until(lambda: "Dice" in panel.messages.label.text())
        n = len(panel.session.desk.marks)
        assert f"Dice 1.000; {n} of {n} findings are of both, {n} with the same" in panel.messages.label.text()

    def test_the_trail_alone(self, reviewed, at, tmp_path):
        at(1).judge("accept", [1])
        reviewed.review.write_trail(tmp_path / "trail.json")
        assert reviewed.messages.label.text() == "Audit trail: 1 entries in trail.json."
        reviewed.review.write_trail(tmp_path / "trail.txt")
        assert reviewed.messages.kind == "error"
