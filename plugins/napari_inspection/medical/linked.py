"""Two more views of a volume beside the main one: same layers, same point, a crosshair in all three.

The layers of a view are napari's own on the *same* arrays, so nothing is copied and a stroke in any view is a stroke on
what is reviewed. How they look is linked by napari; where they are cut follows the main viewer's point and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_inspection import canvas, layers
from napari_inspection.medical.orientation import VIEWS, Letters, look
from napari_inspection.session import Session

NAME = "Linked views"
COLOUR = "#56b4e9"
GAP = 12
"""Pixels around the point that the crosshair leaves free: what it points at is to be seen."""
FAR = 1e5
"""Half the length of a crosshair's line in world units; ends outside every scan."""
SLOP = 3
"""Pixels that a hand moves in a click."""
LOOKS: dict[str, tuple[str, ...]] = {
    "Image": (
        "contrast_limits_range", "contrast_limits", "colormap", "gamma", "opacity", "visible", "blending",
        "interpolation2d",
    ),
    "Labels": (
        "opacity", "visible", "contour", "selected_label", "brush_size", "preserve_labels", "contiguous",
        "n_edit_dimensions",
    ),
}  # fmt: skip
"""What is linked, by the kind of layer; other kinds are shown in the main view alone."""


class Crosshair:
    """Four strokes around a point of one canvas.

    Parameters
    ----------
    model
        napari's viewer model.
    canvas
        Its canvas: the lines are in its scene and not in a layer, where they would be in the way.
    """

    def __init__(self, model: Any, canvas: Any) -> None:
        from vispy.scene.visuals import Line

        self.model = model
        self.line = Line(np.zeros((8, 2)), color=COLOUR, connect="segments", parent=canvas.view.scene)
        self.line.order = 1_000_000
        self.line.set_gl_state("translucent", depth_test=False)
        self._events = (model.dims.events.point, model.dims.events.order, model.dims.events.ndisplay,
                        model.scene.camera.events.zoom)  # fmt: skip
        for event in self._events:
            event.connect(self.move)
        self.move()

    def move(self, event: Any = None) -> None:
        """Go to where the viewer's point is."""
        dims = self.model.dims
        self.line.visible = dims.ndim >= 3 and dims.ndisplay == 2
        if not self.line.visible:
            return
        down, across = (float(dims.point[axis]) for axis in dims.displayed)
        gap = GAP / max(float(self.model.scene.camera.zoom), 1e-6)
        ends = [(sign * gap, sign * FAR) for sign in (-1, 1)]
        flat = [(across + e, down) for pair in ends for e in pair]
        tall = [(across, down + e) for pair in ends for e in pair]
        self.line.set_data(pos=np.array([*flat, *tall], dtype=np.float32))

    def release(self) -> None:
        """Take the lines away."""
        for event in self._events:
            event.disconnect(self.move)
        self.line.parent = None


class View(QWidget):
    """One more view: a viewer model of its own, with mirrors of the main viewer's layers.

    Parameters
    ----------
    stroke
        Called with napari's paint event when a finding was painted here.
    """

    def __init__(self, stroke: Callable[[Any], None]) -> None:
        super().__init__()
        from napari.components import ViewerModel
        from napari.qt import QtViewer

        self._stroke = stroke
        self.model = ViewerModel()
        self.qt = QtViewer(self.model)
        canvas.tidy_in_own_context(self.model.layers, self.qt.canvas)
        self.qt.setToolTip("Click to put the crosshair there; drag with Shift to move it; the wheel zooms")
        self.title = QLabel()
        self.letters = Letters(self.model)
        self.crosshair = Crosshair(self.model, self.qt.canvas)
        self.mirrors: dict[Any, Any] = {}
        self._cut: dict[Any, list[Callable[[], None]]] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.title)
        layout.addWidget(self.qt, 1)

    def follow(self, wanted: list[Any], desk: Any) -> None:
        """Mirror these layers of the main viewer, in their order, and no others."""
        gone = [m for m in self.mirrors if m not in wanted]
        if gone:
            with self.model.layers.batched_update():  # napari tidies up once, which takes a third of a second
                for main in gone:
                    self._part(main)
                    self.model.layers.remove(self.mirrors.pop(main))
        for main in [m for m in wanted if m not in self.mirrors]:
            self._mirror(main, desk)
        for at, main in enumerate(wanted):
            now = self.model.layers.index(self.mirrors[main])
            if now != at:
                self.model.layers.move(now, at)

    def choose(self, main: Any) -> None:
        """Let the mouse work on the mirror of the main viewer's active layer."""
        self.model.layers.selection.active = self.mirrors.get(main)

    def refresh(self, main: Any) -> None:
        """Show again what changed in an array."""
        if main in self.mirrors:
            self.mirrors[main].refresh()

    def release(self) -> None:
        """Let go of the main viewer's layers, and of the canvas."""
        for main in self.mirrors:
            self._part(main)
        self.mirrors = {}
        self.letters.release()
        self.crosshair.release()
        self.qt.close()

    def _mirror(self, main: Any, desk: Any) -> None:
        from napari.experimental import link_layers, unlink_layers
        from napari.layers import Layer

        mirror = Layer.create(*main.as_layer_data_tuple())
        looks = LOOKS[type(main).__name__]
        for name in looks:  # not all of it is among what a layer is made from
            setattr(mirror, name, getattr(main, name))
        link_layers([main, mirror], looks)

        def tool(event: Any = None) -> None:
            mirror.mode = main.mode

        def colours(event: Any = None) -> None:
            mirror.colormap = main.colormap

        main.events.mode.connect(tool)
        self._cut[main] = [lambda: unlink_layers([main, mirror]), lambda: main.events.mode.disconnect(tool)]
        if type(main).__name__ == "Labels":  # not linked: napari cannot compare two colour maps of labels
            main.events.colormap.connect(colours)
            self._cut[main].append(lambda: main.events.colormap.disconnect(colours))
        if desk is not None and main is desk.labels:
            mirror.undo, mirror.redo = desk.undo, desk.redo
            mirror.events.paint.connect(self._stroke)
        self.mirrors[main] = mirror
        self.model.add_layer(mirror)
        tool()

    def _part(self, main: Any) -> None:
        """Let a mirror no longer follow."""
        for cut in self._cut.pop(main):
            cut()


class LinkedViews(QWidget):
    """The two directions that the main viewer does not show, side by side.

    Parameters
    ----------
    session
        Whose case is shown.
    keys
        Of the panel, so that they work here too.
    """

    def __init__(self, session: Session, keys: dict[str, Callable[[], object]]) -> None:
        super().__init__()
        self.session = session
        self.views = (View(self._on_stroke), View(self._on_stroke))
        main = session.viewer
        self.crosshair = Crosshair(main, main.window._qt_viewer.canvas)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for view in self.views:
            layout.addWidget(view)
            for key, function in keys.items():
                view.model.bind_key(key, lambda _, f=function: f(), overwrite=True)
        self.setMinimumHeight(180)
        self._moving = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._repaint)
        self._soon_follow = QTimer(self)
        self._soon_follow.setSingleShot(True)
        self._soon_follow.setInterval(0)
        self._soon_follow.timeout.connect(self.follow)
        self._models = (main, *(view.model for view in self.views))
        for model in self._models:
            model.dims.events.point.connect(self._on_point)
            model.mouse_drag_callbacks.append(self._on_mouse)
        self._events = (main.layers.events.inserted, main.layers.events.removed, main.layers.events.reordered)
        for event in self._events:
            event.connect(self._later)
        main.layers.selection.events.active.connect(self._on_active)
        main.dims.events.order.connect(self._on_order)
        session.changed.connect(self._soon.start)
        self.follow()

    def follow(self) -> None:
        """Show the layers of the case in the two directions that the main viewer does not."""
        case, main = self.session.case, self.session.viewer
        volume = case is not None and case.frame.geometry.ndim == 3
        wanted = [
            ly for ly in main.layers if volume and ly.metadata.get(layers.KEY) is case and type(ly).__name__ in LOOKS
        ]
        for view in self.views:
            fresh = not view.mirrors
            view.follow(wanted, self.session.desk)
            view.letters.show(case if wanted else None)
            if fresh:
                self._turn()
        self._on_active()
        self._on_point()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the views once they have their sizes."""
        super().showEvent(event)
        QTimer.singleShot(0, self._fit)

    def to_mouse(self) -> None:
        """Put the crosshair where the mouse is in the main view."""
        self._go(self.session.viewer, self.session.viewer.cursor.position)

    def release(self) -> None:
        """Let go of the viewer."""
        main = self.session.viewer
        self._soon.stop()
        self._soon_follow.stop()
        for model in self._models:
            model.dims.events.point.disconnect(self._on_point)
            model.mouse_drag_callbacks.remove(self._on_mouse)
        for event in self._events:
            event.disconnect(self._later)
        main.layers.selection.events.active.disconnect(self._on_active)
        main.dims.events.order.disconnect(self._on_order)
        self.session.changed.disconnect(self._soon.start)
        self.crosshair.release()
        for view in self.views:
            view.release()

    # Inside ----------------------------------------------------------------------------------------------------------

    def _later(self, event: Any = None) -> None:
        """Follow once all layers of a case are there: they come one by one."""
        self._soon_follow.start()

    def _turn(self) -> None:
        """Give each view its direction."""
        dims = self.session.viewer.dims
        cut = int(dims.order[-3]) - (dims.ndim - 3) if dims.ndim >= 3 else 0
        others = [name for name, order in VIEWS.items() if order[0] != cut]
        for view, name in zip(self.views, others, strict=True):
            view.title.setText(name)
            view.title.setAccessibleName(f"{name} view")
            if view.mirrors:
                look(view.model, name)

    def _fit(self) -> None:
        for view in self.views:
            if view.mirrors:
                view.model.reset_view()

    def _on_order(self, event: Any = None) -> None:
        self._turn()
        self._on_point()

    def _on_active(self, event: Any = None) -> None:
        for view in self.views:
            view.choose(self.session.viewer.layers.selection.active)

    def _on_point(self, event: Any = None) -> None:
        """Bring all views to the point of the one that moved."""
        if self._moving:
            return
        moved = event.source if event is not None else self.session.viewer.dims
        with self._alone():
            for model in self._models:
                if model.dims is moved or model.dims.ndim < 3:
                    continue
                n = min(3, moved.ndim)
                point = (*model.dims.point[: model.dims.ndim - n], *moved.point[moved.ndim - n :])
                model.dims.point = point
        for view in self.views:
            _show_point(view.model)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    def _go(self, model: Any, position: Any) -> None:
        """Put the crosshair at a point of one view's world."""
        n = model.dims.ndim
        if n >= 3 and len(position) == n and model.dims.ndisplay == 2:
            model.dims.point = tuple(float(v) for v in position)

    def _on_mouse(self, model: Any, event: Any) -> Any:
        """Put the crosshair where one clicks; with Shift, take it along."""
        shift = "Shift" in event.modifiers
        active = model.layers.selection.active
        painting = active is not None and str(active.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        if event.button != 1 or (painting and not shift):
            return
        start = np.array(event.pos, dtype=float)
        if shift:
            self._go(model, event.position)
            event.handled = True
        moved = False
        yield
        while event.type == "mouse_move":
            moved = moved or float(np.abs(np.array(event.pos) - start).max()) > SLOP
            if shift:
                self._go(model, event.position)
                event.handled = True
            yield
        if not shift and not moved:
            self._go(model, event.position)

    def _on_stroke(self, event: Any) -> None:
        """Take what was painted in one of these views into the review."""
        if self.session.desk is not None:
            self.session.desk.on_paint(event)
            self._soon.start()

    def _repaint(self) -> None:
        """Show a change in all views; after the stroke, and once for several."""
        desk = self.session.desk
        if desk is None or desk.labels is None:
            return
        desk.labels.refresh()
        for view in self.views:
            view.refresh(desk.labels)


def _show_point(model: Any) -> None:
    """Centre a view on its point where that is outside of what it shows."""
    dims, camera = model.dims, model.scene.camera
    if dims.ndim < 3 or not len(model.layers):
        return
    here = np.array([dims.point[axis] for axis in dims.displayed])
    middle = np.array(camera.center)[-2:]
    half = np.array(model.canvas.size) / max(float(camera.zoom), 1e-6) / 2
    if (np.abs(here - middle) > 0.95 * half).any():
        camera.center = (*camera.center[:-2], *(float(v) for v in here))
