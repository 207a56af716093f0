"""Three linked views: one point, one look, one array, from whichever view it is changed."""

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from qtpy.QtCore import QPoint, Qt


@pytest.fixture
def linked(reviewed, until):
    """A reviewed phantom with linked views, each with a canvas that has its size."""
    reviewed.view.link.click()
    views = reviewed.view.linked
    until(lambda: all(view.qt.canvas.native.width() > 50 for view in views.views))
    yield reviewed
    if reviewed.view.linked is not None:
        reviewed.view.toggle_linked()


def index(panel, model):
    """The voxel of the core's array that a view's point lies in."""
    return tuple(int(v) for v in np.rint(panel.session.case.frame.index(np.array(model.dims.point))))


def click(qtbot, view, down, across, modifier=Qt.KeyboardModifier.NoModifier):
    """Click so many pixels off the middle of a view."""
    native = view.qt.canvas.native
    place = QPoint(native.width() // 2 + across, native.height() // 2 + down)
    qtbot.mouseMove(native, place)
    qtbot.mousePress(native, Qt.MouseButton.LeftButton, modifier, pos=place)
    qtbot.mouseRelease(native, Qt.MouseButton.LeftButton, modifier, pos=place)


class TestLooking:
    def test_the_other_two_directions_with_their_letters(self, linked):
        views = linked.view.linked.views
        for look, others in (
            ("Axial", ["Coronal", "Sagittal"]),
            ("Coronal", ["Axial", "Sagittal"]),
            ("Sagittal", ["Axial", "Coronal"]),
        ):
            linked.view.look(look)
            assert [view.title.text() for view in views] == others
        linked.view.look("Axial")
        assert views[0].letters.texts() == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
        assert views[1].letters.texts() == {"left": "A", "right": "P", "top": "S", "bottom": "I"}

    def test_a_jump_to_a_finding_takes_all_views_along(self, linked):
        linked.review.go_to(2)
        z, y, x = index(linked, linked.viewer)
        assert linked.session.desk.review.regions[z, y, x] == 2
        for view in linked.view.linked.views:
            assert index(linked, view.model) == (z, y, x)

    def test_a_click_in_one_view_moves_the_others(self, linked, qtbot):
        coronal, sagittal = linked.view.linked.views
        before = index(linked, coronal.model)
        click(qtbot, coronal, 12, -20)
        after = index(linked, coronal.model)
        assert after[1] == before[1], "the plane clicked in stays"
        assert after[0] != before[0]
        assert after[2] != before[2]
        assert index(linked, linked.viewer) == index(linked, sagittal.model) == after

    def test_the_crosshair_is_at_the_point_with_a_gap_of_pixels(self, linked):
        linked.review.go_to(3)
        for view in linked.view.linked.views:
            down, across = (view.model.dims.point[a] for a in view.model.dims.displayed)
            left, right, above, below = np.asarray(view.crosshair.line.pos)[::2]  # the ends nearest to the point
            gap = 12 / view.model.scene.camera.zoom
            wanted = [(across - gap, down), (across + gap, down), (across, down - gap), (across, down + gap)]
            np.testing.assert_allclose([left, right, above, below], wanted, atol=0.01)

    def test_windows_colours_and_visibility_are_linked(self, linked):
        image, findings = linked.viewer.layers["phantom.nii.gz"], linked.viewer.layers["findings"]
        linked.view.use("Bone")
        findings.visible = False
        for view in linked.view.linked.views:
            assert view.mirrors[image].contrast_limits == image.contrast_limits
            assert view.mirrors[findings].contour == findings.contour >= 1
            assert not view.mirrors[findings].visible
            assert np.shares_memory(np.asarray(view.mirrors[image].data), linked.session.case.image.array)
        findings.visible = True

    def test_shift_and_drag_moves_the_crosshair_and_not_the_picture(self, linked, qtbot):
        view = linked.view.linked.views[0]
        centre, before = view.model.scene.camera.center, view.model.dims.point
        click(qtbot, view, 9, 15, Qt.KeyboardModifier.ShiftModifier)
        assert view.model.scene.camera.center == centre
        assert view.model.dims.point != before


class TestPainting:
    def test_a_stroke_in_another_view_is_a_step_of_the_one_history(self, linked, qtbot, until):
        desk, view = linked.session.desk, linked.view.linked.views[0]
        linked.review.go_to(1)
        before = np.array(desk.review.regions)
        linked.edit.mode("paint")
        assert str(view.mirrors[desk.labels].mode) == "paint"
        click(qtbot, view, -25, 30)
        after = np.array(desk.review.regions)
        changed = np.argwhere(after != before)
        assert len(changed) > 0
        assert np.ptp(changed[:, 1]) == 0, "painted in the coronal plane that was shown"
        assert [c.action for c in desk.review.corrections] == ["paint"]
        np.testing.assert_array_equal(desk.case.frame.unshow(np.asarray(desk.labels.data)), after)
        view.mirrors[desk.labels].undo()
        np.testing.assert_array_equal(desk.review.regions, before)
        assert [c.action for c in desk.review.corrections] == ["paint", "undo"]

    def test_a_tool_is_seen_in_all_views(self, linked, until):
        from napari_inspection import tools

        desk = linked.session.desk
        linked.review.go_to(1)
        tools.delete(desk, 1)
        for view in linked.view.linked.views:
            mirror = view.mirrors[desk.labels]
            until(lambda mirror=mirror: not (np.asarray(mirror._slice.image.raw) == 1).any())


class TestComingAndGoing:
    def test_results_come_into_views_that_are_open(self, panel, until, phantom_file):
        from napari_inspection.samples import model_of_phantom

        model_of_phantom()
        panel.running.picker.refresh()
        panel.session.list([phantom_file])
        until(lambda: panel.session.case is not None)
        panel.view.toggle_linked()
        views = panel.view.linked.views
        assert [len(view.mirrors) for view in views] == [1, 1]
        panel.running.run.click()
        until(lambda: panel.session.desk is not None)
        until(lambda: all(panel.session.desk.labels in view.mirrors for view in views))
        panel.session.list([phantom_file])
        until(lambda: panel.session.desk is None and panel.session.case is not None)
        until(lambda: all([m.name for m in view.mirrors] == ["phantom.nii.gz"] for view in views))
        panel.view.toggle_linked()
        assert panel.view.linked is None

    def test_closing_the_dock_lets_go(self, linked, until):
        image = linked.viewer.layers["phantom.nii.gz"]
        mirror = linked.view.linked.views[0].mirrors[image]
        linked.view._dock.close()
        until(lambda: linked.view.linked is None)
        assert not linked.view.link.isChecked()
        linked.view.use("Lung")
        assert mirror.contrast_limits != image.contrast_limits
        linked.review.go_to(2)

    def test_they_are_for_volumes(self, panel):
        panel.view.toggle_linked()
        assert panel.messages.label.text() == "Linked views are for volumes. Open a scan first."
        assert not panel.view.link.isChecked()
