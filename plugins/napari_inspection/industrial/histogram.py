"""The scores of good images and of screened ones, with the two cuts, painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

BINS = 40
GOOD, SCREENED, REVIEW, NG = "#56b4e9", "#999999", "#e69f00", "#d55e00"
"""Told apart with every kind of colour vision; the legend names them."""


class Histogram(QWidget):
    """Bars: good images to the top, screened ones beside; lines where REVIEW and NG begin."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Histogram of scores")
        self.setToolTip("Scores of the good images and of what was screened; lines where REVIEW and NG begin")
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self.bars: dict[str, Any] = {}
        self.cuts: dict[str, float] = {}
        self.range = (0.0, 1.0)
        self.hide()

    def show_scores(self, good: Sequence[float], screened: Sequence[float], review: float, ng: float) -> None:
        """Show scores and cuts."""
        every = np.array([*good, *screened], dtype=float)
        low, high = float(every.min()), float(every.max())
        high = high if high > low else low + 1
        self.range = (low, high)
        self.bars = {
            "good images": (GOOD, np.histogram(good, BINS, self.range)[0]),
            "screened": (SCREENED, np.histogram(screened, BINS, self.range)[0]),
        }
        self.cuts = {"REVIEW": review, "NG": ng}
        self.show()
        self.update()

    def paintEvent(self, _: Any) -> None:  # noqa: N802 - Qt's name
        """Paint bars, cuts and the legend."""
        painter = QPainter(self)
        try:
            self._paint(painter)
        finally:
            painter.end()

    def _paint(self, painter: QPainter) -> None:
        width, height, top = self.width(), self.height() - 18, 18
        most = max((int(counts.max()) for _, counts in self.bars.values()), default=0) or 1
        step = width / BINS
        for k, (colour, counts) in enumerate(self.bars.values()):
            for b, count in enumerate(counts):
                tall = (height - top) * math.sqrt(count / most)  # so that one image can be seen beside a hundred
                painter.fillRect(QRectF(b * step + k * step / 2, height - tall, step / 2 - 0.5, tall), QColor(colour))
        low, high = self.range
        for name, colour in (("REVIEW", REVIEW), ("NG", NG)):
            value = self.cuts.get(name, math.inf)
            if low <= value <= high:
                x = (value - low) / (high - low) * width
                style = Qt.PenStyle.DashLine if name == "REVIEW" else Qt.PenStyle.SolidLine
                painter.setPen(QPen(QColor(colour), 2, style))
                painter.drawLine(int(x), top, int(x), height)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(0, self.height() - 4, f"{low:.3g}")
        right = f"{high:.3g}"
        painter.drawText(width - painter.fontMetrics().horizontalAdvance(right), self.height() - 4, right)
        x = 0
        for name, colour in (*((n, c) for n, (c, _) in self.bars.items()), ("REVIEW", REVIEW), ("NG", NG)):
            painter.fillRect(x, 4, 9, 9, QColor(colour))
            painter.drawText(x + 13, 13, name)
            x += 22 + painter.fontMetrics().horizontalAdvance(name)
