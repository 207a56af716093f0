"""Pictures for people: the image, its score as an overlay, its findings outlined and numbered, and findings cut out.

Intensities and scores go through fixed windows given by the caller, so that pictures of one run can be compared: a
good image looks calm because its scores are low, not because its colours were chosen for it alone.

Of a scan, one slice along the first axis is drawn: the one where the score peaks. Its pixels get their true
proportions, and it is turned the way scans are hung: the patient's left and back to the right, the feet down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.PngImagePlugin
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

MAX_SIDE = 640
CROP_SIZE = 160
TOP = 0.9
"""Highest begin of a scale of probabilities, so that their last steps can still be told apart."""
OPACITY = 0.62
"""Of the overlay where the score reaches the top of its scale; the part under it stays visible."""

# Matplotlib's inferno (Smith and van der Walt, CC0) without its dark third, which would read as shadow on grey:
# even steps in lightness, the same for every kind of colour vision.
_RAMP = [(86, 16, 110), (137, 34, 106), (187, 55, 84), (227, 89, 51), (249, 142, 9), (249, 201, 50), (252, 255, 164)]


def _blending() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return, for 256 steps of the score scale, what is kept of the image and what colour is added to it."""
    strength = np.linspace(0, 1, 256)
    colours = np.stack(
        [np.interp(strength, np.linspace(0, 1, len(_RAMP)), channel) for channel in zip(*_RAMP, strict=True)]
    )
    opacity = OPACITY * strength**0.8
    return (1 - opacity)[:, None].astype(np.float32), (colours * opacity).T.astype(np.float32)


_KEEP, _ADD = _blending()


def score_scale(card: ModelCard) -> tuple[float, float]:
    """Return the pixel scores at which an overlay begins and saturates, the same for every image of a model.

    With calibration, it begins where a good image's pixels end but for one in a thousand, and the highest pixel of any
    good image lies a third up. Without, it runs from the card's lower cut to a score of 1, where a probability ends.
    """
    calibration = card.calibration
    if card.task == "segmentation":
        return min(card.policy.low, TOP), 1.0
    if calibration.peaks and calibration.peaks[-1] > calibration.pixel_low:
        return calibration.pixel_low, calibration.pixel_low + 3 * (calibration.peaks[-1] - calibration.pixel_low)
    low = card.policy.low
    return low, max(1.0, low * 2)


def render_plain(image: Image, window: tuple[float, float], max_side: int = MAX_SIDE, z: int = 0) -> PIL.Image.Image:
    """Draw an image.

    Parameters
    ----------
    image
        2-D, or 3-D of which slice `z` is drawn. Channels named red, green and blue make colours; otherwise the first
        is drawn in grey.
    window
        Raw intensities of black and white, normally the model's. 8-bit images are shown as they are.
    max_side
        Longer side of the picture, in pixels. Larger images are averaged down; smaller ones are enlarged by whole
        pixels, so that nothing is invented.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    plane = _Plane.of(image.geometry, z)
    # Averaged before the conversion to bytes: a large image is never copied whole.
    pixels = _stretch(plane.take(_colour_channels(image)), plane.size(max_side), _mean)
    return PIL.Image.fromarray(_to_bytes(pixels, _window(image, window)))


def render_overlay(
    image: Image,
    prediction: Prediction,
    window: tuple[float, float],
    scale: tuple[float, float],
    max_side: int = MAX_SIDE,
    z: int | None = None,
) -> PIL.Image.Image:
    """Draw an image with its scores in colour and its findings outlined and numbered.

    Parameters
    ----------
    image, window, max_side
        As for `render_plain`; the picture has the same size.
    prediction
        Of this image, on its grid.
    scale
        Scores at which the overlay begins (fully clear) and saturates; see `score_scale`.
    z
        Slice of a 3-D image; the one with the highest score if not given.

    Raises
    ------
    GeometryError
        If image and prediction lie on different grids.
    """
    if image.geometry.shape != prediction.geometry.shape:
        raise GeometryError(
            f"An overlay needs a prediction of the same image. Got an image of shape {image.geometry.shape} and a "
            f"prediction of shape {prediction.geometry.shape}."
        )
    z = peak_slice(prediction) if z is None else z
    base = np.asarray(render_plain(image, window, max_side, z), dtype=np.float32)
    plane = _Plane.of(image.geometry, z)
    # The highest value where several fall on one pixel, so that small peaks survive.
    score = _stretch(plane.take(prediction.score[None])[..., 0], base.shape[:2], _highest).astype(np.float32)
    mask = _stretch(plane.take(prediction.mask[None])[..., 0], base.shape[:2], _highest) > 0

    low, high = scale
    strength = np.clip((np.nan_to_num(score, nan=low) - low) * np.float32(255 / max(high - low, 1e-12)), 0, 255)
    step = strength.round().astype(np.uint8)
    pixels = (base * _KEEP[step] + _ADD[step]).round().astype(np.uint8)
    _draw_outlines(pixels, mask)
    picture = PIL.Image.fromarray(pixels)
    _draw_numbers(picture, mask, [f for f in prediction.findings if plane.holds(f)], plane)
    return picture


def render_crop(
    image: Image,
    start: Sequence[float],
    stop: Sequence[float],
    window: tuple[float, float],
    size: int = CROP_SIZE,
    margin: float = 0.6,
    side: float | None = None,
) -> PIL.Image.Image:
    """Cut a region out, with its surroundings and a thin frame around it.

    Parameters
    ----------
    image, window
        As for `render_plain`.
    start, stop
        Half-open box in index order; of a 3-D box the middle slice is drawn.
    size
        Side of the square picture, in pixels.
    margin
        Surroundings on each side, as a share of the box's longer side.
    side
        Side of the square shown, in image pixels; instead of `margin`. Two crops with one `side` have the same
        magnification.

    Returns
    -------
    PIL.Image.Image
        ``(size, size)`` RGB; what lies outside the image is grey.
    """
    z = int((start[0] + stop[0]) / 2) if image.ndim == 3 else 0
    plane = _Plane.of(image.geometry, z)
    (top, left), (bottom, right) = plane.box(start, stop)
    if side is None:
        side = max(16.0, crop_side(start, stop, margin))
    height, width = plane.shape
    y0, x0 = _fit((top + bottom) / 2, side, height), _fit((left + right) / 2, side, width)
    y, x = int(np.floor(y0)), int(np.floor(x0))
    n = int(np.ceil(side)) + 1
    rows, columns = slice(max(y, 0), max(min(y + n, height), 0)), slice(max(x, 0), max(min(x + n, width), 0))
    pixels = _to_bytes(plane.take(_colour_channels(image))[rows, columns], _window(image, window))
    canvas = PIL.Image.new("RGB", (n, n), (128, 128, 128))
    if pixels.size:
        canvas.paste(PIL.Image.fromarray(pixels), (columns.start - x, rows.start - y))
    kind = PIL.Image.Resampling.BICUBIC if n < size else PIL.Image.Resampling.BOX
    picture = canvas.resize((size, size), kind, box=(x0 - x, y0 - y, x0 - x + side, y0 - y + side))
    zoom = size / side
    draw = PIL.ImageDraw.Draw(picture)
    for grow, colour in ((1, (0, 0, 0)), (0, (255, 255, 255))):
        x_start, y_start = (left - x0) * zoom, (top - y0) * zoom
        # Shown small, as a long and narrow region is, it may be thinner than a pixel of the picture.
        x_end, y_end = max(x_start, (right - x0) * zoom - 1), max(y_start, (bottom - y0) * zoom - 1)
        draw.rectangle((x_start - grow, y_start - grow, x_end + grow, y_end + grow), outline=colour)
    return picture


def render_pair(
    image: Image, finding: Finding, good: Image | None, window: tuple[float, float], size: int = CROP_SIZE
) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """Cut out a finding and its nearest good patch, at one magnification; the second is None without a neighbour.

    `good` is the image that ``finding.neighbour.image`` names, or None where it is no longer there.
    """
    neighbour = finding.neighbour
    side = max(16.0, crop_side(finding.start, finding.stop))
    if neighbour is None or good is None:
        return render_crop(image, finding.start, finding.stop, window, size, side=side), None
    begin = [c - s / 2 for c, s in zip(neighbour.centre, neighbour.size, strict=True)]
    end = [c + s / 2 for c, s in zip(neighbour.centre, neighbour.size, strict=True)]
    side = max(side, crop_side(begin, end, 0.1))
    return (
        render_crop(image, finding.start, finding.stop, window, size, side=side),
        render_crop(good, begin, end, window, size, side=side),
    )


def crop_side(start: Sequence[float], stop: Sequence[float], margin: float = 0.6) -> float:
    """Return the side of the square that shows a box with `margin` of its longer in-plane side around it."""
    longest = max(b - a for a, b in list(zip(start, stop, strict=True))[-2:])
    return float(longest * (1 + 2 * margin))


def peak_slice(prediction: Prediction) -> int:
    """Return the index along the first axis of a 3-D prediction where the score peaks; 0 for a 2-D one."""
    if prediction.geometry.ndim == 2:
        return 0
    return int(np.nanargmax(np.nanmax(prediction.score, axis=(1, 2))))


def save_picture(path: Path, picture: PIL.Image.Image) -> Path:
    """Write a picture, whole or not at all; the suffix chooses the format (``.webp`` is small, ``.png`` exact).

    The sentence on research use goes into its metadata: PNG's text, or the description of Exif.
    """
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".png":
            text = PIL.PngImagePlugin.PngInfo()
            text.add_text("Comment", RESEARCH_USE)
            picture.save(temporary, pnginfo=text)
            return path
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.ImageDescription] = RESEARCH_USE
        if path.suffix.lower() == ".webp":
            # A third of the default's time for a tenth more bytes.
            picture.save(temporary, quality=88, method=1, exif=exif)
        else:
            picture.save(temporary, exif=exif)
    return path


@dataclass(frozen=True)
class _Plane:
    """The slice of a grid that is drawn: its place, its proportions, and which of its axes are turned round."""

    z: int | None
    shape: tuple[int, int]
    spacing: tuple[float, float]
    flip: tuple[bool, bool]

    @classmethod
    def of(cls, geometry: Geometry, z: int) -> _Plane:
        flip = [False, False]
        if geometry.ndim == 3:
            for k, column in enumerate((1, 2)):
                direction = geometry.affine[:3, column]
                axis = int(np.abs(direction).argmax())
                # LPS: left and back grow to the right and down; the head is up.
                flip[k] = bool(direction[axis] < 0) if axis < 2 else bool(direction[axis] > 0)
        height, width = geometry.shape[-2:]
        dy, dx = geometry.spacing[-2:]
        return cls(z if geometry.ndim == 3 else None, (height, width), (dy, dx), (flip[0], flip[1]))

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of a ``(C, *spatial)`` array as ``(height, width, C)``."""
        plane = array if self.z is None else array[:, self.z]
        return np.moveaxis(plane[:, :: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1], 0, -1)

    def size(self, max_side: int) -> tuple[int, int]:
        """Return the picture's (height, width), in proportion to the slice's extent in the world."""
        unit = min(self.spacing)
        height, width = (n * s / unit for n, s in zip(self.shape, self.spacing, strict=True))
        zoom = max_side / max(height, width)
        zoom = float(int(zoom)) if zoom >= 1 else zoom
        return max(1, round(height * zoom)), max(1, round(width * zoom))

    def box(self, start: Sequence[float], stop: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return a half-open box of the grid as (top, left), (bottom, right) of the slice as it is drawn."""
        spans = []
        for a, b, n, turned in zip(start[-2:], stop[-2:], self.shape, self.flip, strict=True):
            spans.append((n - b, n - a) if turned else (a, b))
        return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])

    def holds(self, finding: Finding) -> bool:
        return self.z is None or finding.start[0] <= self.z < finding.stop[0]


def _colour_channels(image: Image) -> NDArray[Any]:
    if image.channels[:3] == ("red", "green", "blue"):
        return image.array[:3]
    return image.array[:1]


def _window(image: Image, window: tuple[float, float]) -> tuple[float, float]:
    return (0.0, 255.0) if image.array.dtype == np.uint8 else window


def _to_bytes(pixels: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return ``(height, width, 3)`` bytes of ``(height, width, 1 or 3)`` raw intensities."""
    low, high = window
    scaled = (pixels.astype(np.float32) - low) / (high - low)
    pixels = (np.clip(np.nan_to_num(scaled), 0, 1) * 255).round().astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return np.ascontiguousarray(pixels)


def _mean(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows.mean(axis=0, dtype=np.float32))


def _highest(rows: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(rows.max(axis=0))


def _stretch(values: NDArray[Any], shape: Sequence[int], pool: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Resize ``(height, width, ...)`` values: shrunk by `pool`ing rows, then columns; enlarged by repetition."""
    for n in shape[:2]:
        edges = np.arange(n + 1) * values.shape[0] // n
        if n >= values.shape[0]:
            values = np.take(values, edges[:-1], axis=0)
        else:  # a loop of slices is several times faster than `reduceat`
            values = np.stack([pool(values[a:b]) for a, b in pairwise(edges)])
        values = np.ascontiguousarray(values.swapaxes(0, 1))
    return values


def _draw_outlines(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Draw white lines with a dark rim around the regions of a ``(height, width)`` mask, to be seen on any ground."""
    if not mask.any():
        return
    from scipy import ndimage

    inside = ndimage.binary_erosion(mask)
    pixels[ndimage.binary_dilation(mask) & ~mask] = 0
    pixels[mask & ~inside] = 255
    pixels[inside & ~ndimage.binary_erosion(inside)] = 0


def _draw_numbers(
    picture: PIL.Image.Image, mask: NDArray[np.bool_], findings: Sequence[Finding], plane: _Plane
) -> None:
    """Write each finding's id above its topmost pixel, or below that where there is no room."""
    draw = PIL.ImageDraw.Draw(picture)
    font = PIL.ImageFont.load_default(size=14)
    zoom = np.array([picture.height, picture.width]) / plane.shape
    for finding in findings:
        corners = np.asarray(plane.box(finding.start, finding.stop)) * zoom
        (top, left), (bottom, right) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        inside = np.argwhere(mask[top:bottom, left:right])
        y, x = (inside[0] if len(inside) else (0, 0)) + np.array([top, left])
        text = str(finding.id)
        width = draw.textlength(text, font=font) + 8
        x = min(max(x - width / 2, 0), picture.width - width - 1)
        y = y - 22 if y >= 22 else y + 3
        draw.rounded_rectangle((x, y, x + width, y + 18), radius=3, fill=(0, 0, 0), outline=(255, 255, 255))
        draw.text((x + width / 2, y + 9), text, fill=(255, 255, 255), font=font, anchor="mm")


def _fit(middle: float, side: float, length: int) -> float:
    """Return where a stretch of `side` around `middle` begins, moved to lie inside ``[0, length)`` if it can."""
    if side >= length:
        return (length - side) / 2
    return float(min(max(middle - side / 2, 0), length - side))
