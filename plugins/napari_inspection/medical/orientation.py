"""Letters at the edges of the picture that say where right, left, front, back, head and feet are."""

from __future__ import annotations

from typing import Any

from napari.components.overlays import TextOverlay

from napari_inspection.layers import Case

EDGES = ("left", "right", "top", "bottom")
PLACES = {"left": "middle_left", "right": "middle_right", "top": "top_center", "bottom": "bottom_center"}
PREFIX = "inspection_letter_"
VIEWS = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
"""Order of the shown axes z, y, x, the sliced one first."""


class Letters:
    """The four letters of one viewer.

    Parameters
    ----------
    viewer
        napari's viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.case: Case | None = None
        self._on_black = False
        for edge in EDGES:
            key = PREFIX + edge
            if key not in viewer.canvas.overlays:
                overlay = TextOverlay(position=PLACES[edge], font_size=14, color="#f0e442", box=False)
                viewer.canvas.overlays[key] = overlay
        self._events = (
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            viewer.scene.camera.events.orientation,
        )
        for event in self._events:
            event.connect(self.update)

    def show(self, case: Case | None) -> None:
        """Show the letters of a case, on black as scans are read; None takes them away."""
        self.case = case
        scan = case is not None and case.frame.geometry.ndim == 3 and case.frame.geometry.unit == "mm"
        if scan != self._on_black and (scan or self.viewer.canvas.background_color_override is not None):
            self.viewer.canvas.background_color_override = "black" if scan else None
        self._on_black = scan
        self.update()

    def release(self) -> None:
        """Take the letters away, and let go of the viewer."""
        self.show(None)
        for event in self._events:
            event.disconnect(self.update)

    def texts(self) -> dict[str, str]:
        """Return what each edge says now; nothing in 3-D and where nobody knows."""
        case, dims = self.case, self.viewer.dims
        blank = dict.fromkeys(EDGES, "")
        if case is None or case.frame.geometry.ndim != 3 or dims.ndisplay != 2 or dims.ndim < 3:
            return blank
        lead = dims.ndim - 3
        rows, columns = (int(a) - lead for a in dims.displayed)
        if min(rows, columns) < 0:
            return blank
        vertical, horizontal = self.viewer.scene.camera.orientation2d
        behind, ahead = case.frame.letters(rows)
        top, bottom = (behind, ahead) if str(vertical) == "down" else (ahead, behind)
        behind, ahead = case.frame.letters(columns)
        left, right = (behind, ahead) if str(horizontal) == "right" else (ahead, behind)
        return {"left": left, "right": right, "top": top, "bottom": bottom}

    def update(self, event: Any = None) -> None:
        """Show what is true now."""
        for edge, words in self.texts().items():
            overlay = self.viewer.canvas.overlays.get(PREFIX + edge)
            if overlay is not None:
                overlay.text = words
                overlay.visible = bool(words)


def look(viewer: Any, view: str) -> None:
    """Show a volume along one of the patient's axes, head up in coronal and sagittal views."""
    lead = viewer.dims.ndim - 3
    if lead < 0:
        return
    viewer.dims.ndisplay = 2
    viewer.dims.order = (*range(lead), *(lead + a for a in VIEWS[view]))
    viewer.scene.camera.orientation2d = ("down" if view == "Axial" else "up", "right")
    viewer.reset_view()
