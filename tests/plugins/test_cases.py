"""Layers that napari or another plugin opened: which of them is run on, and why others are not."""

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import cases


def picture(place=3):
    """A dark picture with one bright square whose upper left corner is `place` pixels from both edges."""
    array = np.zeros((40, 50), np.uint8)
    array[place : place + 8, place : place + 8] = 220
    return array


def run(panel, until):
    panel.running.run.click()
    until(lambda: panel.session.idle)


def found(panel):
    """Where the findings begin."""
    return [panel.session.desk.findings[n].start for n in sorted(panel.session.desk.findings)]


def test_the_selected_of_several_is_run_on(grey_model, viewer, until):
    one, two = viewer.add_image(picture(3), name="one"), viewer.add_image(picture(20), name="two")
    run(grey_model, until)
    assert (grey_model.session.case.name, found(grey_model)) == ("two", [(20, 20)])
    viewer.layers.selection.active = one
    run(grey_model, until)
    assert (grey_model.session.case.name, found(grey_model)) == ("one", [(3, 3)])
    same = grey_model.session.case
    run(grey_model, until)
    assert grey_model.session.case is same, "the findings' layer is selected now, and they are of this image"
    one.data = picture(30)
    viewer.layers.selection.active = one
    run(grey_model, until)
    assert found(grey_model) == [(30, 30)]
    assert two in viewer.layers


def test_one_that_is_gone_is_no_longer_run_on(grey_model, viewer, until):
    first = viewer.add_image(picture(3), name="first")
    run(grey_model, until)
    viewer.layers.remove(first)
    until(lambda: grey_model.session.case is None)
    assert [layer.name for layer in viewer.layers] == []
    viewer.add_image(picture(20), name="second")
    run(grey_model, until)
    assert found(grey_model) == [(20, 20)]


def test_findings_lie_where_the_layer_lies(grey_model, viewer, until):
    viewer.add_image(picture(10), scale=(2, 3), translate=(100, 200), units=("um", "um"))
    run(grey_model, until)
    desk = grey_model.session.desk
    for layer in desk.shown:
        assert (tuple(layer.scale), tuple(layer.translate)) == ((2, 3), (100, 200))
        assert [str(u) for u in layer.units] == ["micrometer"] * 2
    middle = np.array(desk.findings[1].centroid_index)
    np.testing.assert_allclose(desk.centre(1), np.rint(middle) * (2, 3) + (100, 200), atol=3)


# name: (what add_image is given, why it is refused)
REFUSED = {
    "a pyramid": ({"data": [np.zeros((40, 40)), np.zeros((20, 20))], "multiscale": True}, "is a pyramid"),
    "four axes": ({"data": np.zeros((2, 3, 4, 5))}, "has 4 axes"),
    "true and false": ({"data": np.zeros((4, 5), bool)}, "holds true and false"),
    "turned": ({"data": np.zeros((4, 5)), "rotate": 30}, "is turned, mirrored or sheared"),
    "sheared": ({"data": np.zeros((4, 5)), "shear": [0.3]}, "is turned, mirrored or sheared"),
    "mirrored": ({"data": np.zeros((4, 5)), "scale": (-1, 1)}, "is turned, mirrored or sheared"),
    "an affine": ({"data": np.zeros((4, 5)), "affine": np.diag([2, 1, 1])}, "is turned, mirrored or sheared"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_on_says_why_and_no_other_is_taken(grey_model, viewer, until, name):
    given, why = REFUSED[name]
    viewer.add_image(picture(), name="good")
    run(grey_model, until)
    viewer.add_image(name="odd", **given)
    grey_model.session.say("info", "")
    grey_model.running.start()
    line = grey_model.messages.label.text()
    assert line.startswith(f"The layer odd {why}")
    assert line.endswith("Choose another layer, or open its file in the Open tab.")
    assert grey_model.session.idle


def test_layers_of_other_kinds_are_in_nobodys_way(grey_model, viewer, until, tmp_path):
    """Shapes, labels of other shapes, points and tracks, whichever is selected."""
    panel = grey_model
    viewer.add_image(picture(), name="part")
    others = [
        viewer.add_shapes([np.array([[1, 1], [1, 9], [9, 9]])], shape_type="polygon"),
        viewer.add_labels(np.ones((7, 9), np.uint8), name="small"),
        viewer.add_labels(np.ones((4, 40, 50), np.uint8), name="deep"),
        viewer.add_points(np.zeros((2, 3))),
        viewer.add_tracks(np.array([[1, 0, 5, 5], [1, 1, 6, 6]])),
    ]
    for layer in others:
        viewer.layers.selection.active = layer
        run(panel, until)
        assert found(panel) == [(3, 3)], layer.name
    panel.review.next()
    panel.review.judge("accept")
    desk = panel.session.desk
    desk.labels.paint([30, 30], 1)
    panel.review.undo()
    assert [c.action for c in desk.review.corrections] == ["accept", "paint", "undo"]
    panel.review.compare_with("the model")
    until(lambda: "Dice 1.000" in panel.messages.label.text())
    panel.review.save(tmp_path)
    until(lambda: panel.messages.label.text().startswith("Saved in part"))
    viewer.dims.ndisplay = 3
    panel.review.move(1)
    assert all(layer in viewer.layers for layer in others)


def test_other_layers_have_no_case(viewer, panel):
    assert cases.case_of(None) is None
    assert cases.case_of(viewer.add_points([[0, 0]])) is None
    assert cases.why_not(None) == ""
