"""The pictures that a report shows of each image: plain, with overlay, and findings beside their nearest good patch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inspection_core.card import ModelCard
from inspection_core.errors import InspectionError
from inspection_core.image import Image
from inspection_core.io.raster import read_raster
from inspection_core.prediction import Prediction
from inspection_core.render import peak_slice, render_overlay, render_pair, render_plain, save_picture, score_scale

if TYPE_CHECKING:
    import PIL.Image

PICTURES = "report_images"
CROPS = 3
"""Findings of an image that are shown beside their nearest good patch."""

Kept = Literal["all", "flagged", "none"]
"""Of which images pictures are written: all, those that are not OK, or none."""


class Pictures:
    """Writes the pictures of a run's images.

    Parameters
    ----------
    folder
        Where the pictures go, beside the report.
    card
        Supplies the score scale and the folder of the good images.
    kept
        Of which images.
    """

    def __init__(self, folder: Path, card: ModelCard, kept: Kept = "all") -> None:
        self.folder = folder
        self.kept = kept
        self.scale = score_scale(card)
        self.good = Path(str(card.training.get("folder", "")))
        # Neighbouring findings share good images; a few decoded ones are kept.
        self._good_image = lru_cache(maxsize=8)(self._read_good)

    def write(self, name: str, image: Image, prediction: Prediction, window: tuple[float, float]) -> dict[str, Any]:
        """Write the pictures of one image; return their names, relative to the report."""
        if self.kept == "none" or (self.kept == "flagged" and prediction.verdict == "OK"):
            return {}
        stem = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
        # Of a scan both show the slice where the score peaks.
        plain = render_plain(image, window, z=peak_slice(prediction))
        overlay = render_overlay(image, prediction, window, self.scale)
        crops = []
        for finding in prediction.findings[:CROPS]:
            good = self._good_image(finding.neighbour.image) if finding.neighbour else None
            pair = render_pair(image, finding, good, window)
            files = [p and self._save(f"{stem}_{finding.id}{'ab'[i]}.webp", p) for i, p in enumerate(pair)]
            crops.append([finding.id, *files])
        return {
            "plain": self._save(f"{stem}.webp", plain),
            "picture": self._save(f"{stem}_overlay.webp", overlay),
            "crops": crops,
        }

    def _save(self, name: str, picture: PIL.Image.Image) -> str:
        save_picture(self.folder / name, picture)
        return f"{self.folder.name}/{name}"

    def _read_good(self, name: str) -> Image | None:
        if not self.good.name:  # a card from a server names no folder
            return None
        path = (self.good / name).resolve()
        if not path.is_relative_to(self.good.resolve()):  # the name comes from a file
            return None
        try:
            return read_raster(path)
        except InspectionError:
            return None
