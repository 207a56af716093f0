"""What good images have in common: read each once, before anything is learnt from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from inspection_core import device as devices
from inspection_core.errors import FitError, InspectionError
from inspection_core.io.raster import read_raster
from inspection_core.io.results import utf8
from inspection_core.models import weights as weights_io

Item = TypeVar("Item")

WINDOW_TAILS = (0.1, 99.9)
"""Percentiles of an image's values between which the intensity window of 16-bit and float images lies, at least."""


NESTED = ("*/train/good", "*/*/train/good")
"""Where the good images of a whole set lie in a folder of sets."""


@dataclass(frozen=True)
class Survey:
    """What the good images have in common.

    Parameters
    ----------
    paths, names
        Readable images, in natural order; names are relative to the folder.
    channels, dtype
        The same for all; colour where grey and colour are mixed.
    window
        Intensities that become 0 and 1: the whole range of 8-bit images, robust extremes over all images otherwise.
    pixels
        Of each image, one channel of it.
    sides
        Smallest and largest side of the images in pixels: the root of their area.
    sha256
        Of all names and contents.
    warnings
        Files that were left out, and why.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    channels: tuple[str, ...]
    dtype: str
    window: tuple[float, float]
    pixels: tuple[int, ...]
    sides: tuple[float, float]
    sha256: str
    warnings: tuple[str, ...]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return up to `count` of the items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[i] for i in sorted({round(p) for p in places})]


def good_folder(folder: Path) -> Path:
    """Return where the good images of a folder lie: ``train/good``, ``good``, or the folder itself.

    Raises
    ------
    FitError
        If the folder, or one in it, has the parts of a test set, so that defects would be taken for good.
    """
    for part in (folder / "train" / "good", folder / "good"):
        if part.is_dir():
            return part
    if (folder / "ground_truth").is_dir() or (folder / "test").is_dir():
        raise FitError(f"{folder} has test images but no train/good. Give the folder that holds good images only.")
    if within := sorted(p.parents[1] for pattern in NESTED for p in folder.glob(pattern) if p.is_dir()):
        names = ", ".join(str(p.relative_to(folder)) for p in within[:3]) + (", ..." if len(within) > 3 else "")
        raise FitError(
            f"{folder} holds {len(within)} whole set{'s' if len(within) > 1 else ''} with a train/good ({names}), so "
            f"defects would be taken for good. Give one of them, such as {within[0]}."
        )
    return folder


def look(
    folder: Path,
    paths: Sequence[Path],
    shots: int | None = None,
    progress: Callable[[str, int, int], None] = lambda *a: None,
) -> Survey:
    """Read every good image once: find what they have in common, and leave out copies and what cannot be read.

    An image whose copy is in another fold would be scored by a model that has seen it, and would count twice.

    Raises
    ------
    FitError
        If none is readable, or their value types differ.
    """
    if not paths:
        raise FitError(f"Found no PNG, JPEG, TIFF, BMP or WebP image in {folder}. Give a folder of good images.")
    if shots is not None:
        paths = spread(paths, shots)
    seen: list[_Seen] = []
    warnings: list[str] = []
    first: dict[str, Path] = {}
    copies: list[str] = []
    with ThreadPoolExecutor(devices.threads()) as pool:
        for done, result in enumerate(pool.map(_look_at, paths), start=1):
            if not isinstance(result, _Seen):
                warnings.append(f"left out: {result}")
            elif (known := first.setdefault(result.sha256, result.path)) != result.path:
                copies.append(f"{result.path.name} is {known.name}")
            else:
                seen.append(result)
            progress("reading", done, len(paths))
    if copies:
        warnings.append(
            f"left out: {len(copies)} that are copies of others, and would make the calibration look better than it is "
            f"({', '.join(copies[:3])}{', ...' if len(copies) > 3 else ''})"
        )
    if not seen:
        raise FitError(f"None of the {len(paths)} images in {folder} can be read. The first: {warnings[0]}")
    for other in seen:
        if other.dtype != seen[0].dtype:
            raise FitError(
                f"Good images have one value type. Got {seen[0].dtype} in {seen[0].path.name} and {other.dtype} in "
                f"{other.path.name}; convert them, or fit a model for each type."
            )
    digest = hashlib.sha256()
    names = []
    for item in seen:
        name = item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else item.path.name
        names.append(utf8(name))
        digest.update(f"{names[-1]}\0{item.sha256}\n".encode())
    low, high = min(s.low for s in seen), max(s.high for s in seen)
    sides = [math.sqrt(s.pixels) for s in seen]
    if high <= low:
        raise FitError(f"The good images hold one single value, {low:g}, so there is nothing to learn from them.")
    return Survey(
        paths=tuple(s.path for s in seen),
        names=tuple(names),
        channels=max((s.channels for s in seen), key=len),
        dtype=seen[0].dtype,
        window=(0.0, 255.0) if seen[0].dtype == "uint8" else (low, high),
        pixels=tuple(s.pixels for s in seen),
        sides=(min(sides), max(sides)),
        sha256=digest.hexdigest(),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Seen:
    path: Path
    channels: tuple[str, ...]
    dtype: str
    low: float
    high: float
    pixels: int
    sha256: str


def _look_at(path: Path) -> _Seen | InspectionError:
    try:
        image = read_raster(path)
        digest = weights_io.sha256(path)
    except (InspectionError, OSError) as error:
        return error if isinstance(error, InspectionError) else FitError(f"{path}: {error.strerror}")
    if image.array.dtype == np.uint8:
        low, high = float(image.array.min()), float(image.array.max())
    else:
        low, high = (float(v) for v in np.percentile(image.array, WINDOW_TAILS))
    pixels = math.prod(image.geometry.shape)
    return _Seen(path, image.channels, str(image.array.dtype), low, high, pixels, digest)
