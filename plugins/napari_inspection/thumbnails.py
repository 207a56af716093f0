"""Small pictures for a list, made in threads when a row is first looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QThreadPool, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap

from inspection_core.errors import InspectionError

if TYPE_CHECKING:
    from inspection_core.inputs import Input


class Thumbnails(QObject):
    """Pictures by row.

    Parameters
    ----------
    side
        Longer side in pixels.
    """

    ready = Signal(int)
    _made = Signal(int, int, object)

    def __init__(self, side: int) -> None:
        super().__init__()
        self._side = side
        self._round = 0
        self._icons: dict[int, QIcon | None] = {}
        self._pool = QThreadPool()
        self._pool.setMaxThreadCount(2)
        self._made.connect(self._on_made)

    def clear(self) -> None:
        """Forget all: the list is another."""
        self._round += 1
        self._pool.clear()
        self._icons = {}

    def icon(self, at: int, item: Input) -> QIcon | None:
        """Return a row's picture, or None and make it."""
        if at not in self._icons and item.kind == "picture":
            self._icons[at] = None
            number, path, side = self._round, item.files[0], self._side

            def work() -> None:
                self._made.emit(number, at, _small(path, side))

            self._pool.start(work)
        return self._icons.get(at)

    def _on_made(self, number: int, at: int, picture: Any) -> None:
        if number != self._round or picture is None:
            return
        height, width = picture.shape[:2]
        image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._icons[at] = QIcon(QPixmap.fromImage(image))
        self.ready.emit(at)


def _small(path: Any, side: int) -> Any:
    """Return uint8 ``(h, w, 3)``, or None where the file cannot be read."""
    import numpy as np

    from inspection_core.io.raster import read_raster
    from inspection_core.render import render_plain
    from napari_inspection.layers import contrast

    try:
        image = read_raster(path)
    except (InspectionError, OSError):
        return None  # the list says why when the row is opened
    return np.ascontiguousarray(np.asarray(render_plain(image, contrast(image.array), side).convert("RGB")))
