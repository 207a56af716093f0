"""Keep what OpenGL tidies up after a layer that was removed in the context that the layer was drawn in.

napari gives a removed layer's textures and programs back at once. After a picture was drawn, the context of the whole
window is the current one, though, and not the canvas's own: programs are deleted behind the canvas's back, the next
picture is drawn with one that is gone, and the process ends (seen with Mesa's software rendering; others may show a
wrong picture or nothing). So the canvas's context is made the current one before a layer goes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def tidy_in_own_context(layers: Any, canvas: Any) -> None:
    """Make a canvas's context the current one whenever one of its layers is about to go; as long as both live.

    Parameters
    ----------
    layers
        napari's list of layers.
    canvas
        napari's canvas that shows them.
    """

    def before(event: Any = None) -> None:
        with suppress(RuntimeError):  # Qt's word for a canvas whose window is gone
            if canvas.native.isValid():  # a window that was never shown has no context, and has drawn nothing
                canvas._scene_canvas.set_current()

    layers.events.removing.connect(before)
