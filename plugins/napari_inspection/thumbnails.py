"""Small pictures for a list, made in threads when a row is first looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QThreadPool, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap

from inspection_core.errors import InspectionError

if TYPE_CHECKING:
    from inspection_core.image import Image
    from inspection_core.inputs import Input

LARGEST = 1 << 28
"""Bytes of a scan file that is read for its thumbnail: of most formats that means all of it."""


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
        if at not in self._icons:
            self._icons[at] = None
            number, side = self._round, self._side

            def work() -> None:
                self._made.emit(number, at, small(item, side))

            self._pool.start(work)
        return self._icons.get(at)

    def _on_made(self, number: int, at: int, picture: Any) -> None:
        if number != self._round or picture is None:
            return
        height, width = picture.shape[:2]
        image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._icons[at] = QIcon(QPixmap.fromImage(image))
        self.ready.emit(at)


def small(item: Input, side: int) -> Any:
    """Return an input as a picture, uint8 ``(h, w, 3)``, or None where it cannot be read.

    Of a series the slice in the middle is decoded and no other.
    """
    import numpy as np

    from inspection_core.render import render_plain
    from napari_inspection.layers import contrast

    try:
        image, window = _read(item)
    except (InspectionError, OSError):
        return None  # the list says why when the row is opened
    middle = image.geometry.shape[0] // 2 if image.ndim == 3 else 0
    plane = image.array[:, middle] if image.ndim == 3 else image.array
    return np.ascontiguousarray(render_plain(image, window or contrast(plane[0]), side, middle).convert("RGB"))


def _read(item: Input) -> tuple[Image, tuple[float, float] | None]:
    """Return an image, of a series only its middle slice, and the window that its file asks for."""
    from inspection_core.inputs import open_input

    if item.volume is None:
        if item.kind == "scan" and item.files[0].stat().st_size > LARGEST:
            raise OSError("too large to be read for a thumbnail")
        first = replace(item, kind="picture", files=item.files[:1]) if item.kind == "stack" else item
        return open_input(replace(first, files=first.files[:1], parts=()), ()).image, None
    from inspection_core.io.dicom import load_volume

    times = item.volume.frames[0]
    middle = times[len(times) // 2]
    alone = replace(item.volume, layout="picture", frames=((middle,),), channels=item.volume.channels[:1], positions=(),
                    tilt_degrees=0.0)  # fmt: skip
    loaded = load_volume(alone)
    low_high = [(centre - width / 2, centre + width / 2) for centre, width in loaded.windows if width > 0]
    return loaded.image, low_high[0] if low_high else None
