"""Studies with reference masks, in the three layouts that training and evaluation take.

- ``images/CASE.nii.gz`` with ``masks/CASE.nii.gz``: a 3-D volume, or channels last in 4-D;
- ``images/CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ... with ``masks/CASE.nii.gz``: one file a channel, in the order of
  the card (nnU-Net's naming);
- ``images/PATIENT_SLICE.png`` (or JPEG, WebP, TIFF) with ``masks/``: a study a patient, ordered by slice number.

``labels/`` is taken for ``masks/`` where there is no such folder, and ``.nii``, ``.nrrd`` and ``.mha`` for ``.nii.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image, wrong_channels
from inspection_core.io.candidates import NUMBERED, file_candidate
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.scans import read_scan
from inspection_core.io.study import load_picked

SCANS = (".nii.gz", ".nii", ".nrrd", ".mha")
SLICE = re.compile(r"(?P<patient>.+)_(?P<slice>\d+)")


@dataclass(frozen=True)
class Case:
    """One study with its reference.

    Parameters
    ----------
    name
        Of the case: file name without suffix and channel number, or the patient's part of the slices' names.
    images
        One file; one a channel; or one a slice, in order.
    masks
        One file, or one a slice.
    kind
        ``"scan"``, ``"channels"`` or ``"slices"``.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    kind: str


def find_cases(dataset: Path, *, lenient: bool = False) -> list[Case]:
    """List the studies of a dataset, by name.

    Parameters
    ----------
    dataset
        Folder with ``images`` and ``masks``.
    lenient
        List cases without a mask too; `read_case` then refuses them one by one.

    Raises
    ------
    UsageError
        If the folder has no images with masks, or some lack their mask.
    """
    dataset = Path(dataset)
    images = dataset / "images"
    masks = next((dataset / n for n in ("masks", "labels") if (dataset / n).is_dir()), None)
    if not images.is_dir() or masks is None:
        raise UsageError(
            f"{dataset} should hold the folders images and masks: images/CASE.nii.gz with masks/CASE.nii.gz, "
            "images/CASE_0000.nii.gz, ... one file a channel, or images/PATIENT_SLICE.png with masks/PATIENT_SLICE.png."
        )
    references = {_stem(p): p for p in masks.iterdir() if p.is_file() and not p.name.startswith(".")}
    scans = {_stem(p): p for p in sorted(images.iterdir()) if p.name.lower().endswith(SCANS)}
    found = _scans(scans, references) if scans else _slices(list_images(images), references)
    if not found:
        raise UsageError(f"{images} holds no scan and no PATIENT_SLICE image.")
    lonely = [c.name for c in found if not c.masks]
    if lonely and not (lenient and len(lonely) < len(found)):
        raise UsageError(
            f"{len(lonely)} of {len(found)} cases in {dataset} have no mask, {lonely[0]} first. "
            "Add the masks, or take the images away."
        )
    return found


def reference_of(image: Path) -> Path | None:
    """Return the ground truth of one image or scan that lies in a dataset of a known layout, or None.

    That is ``masks/CASE`` (or ``labels/CASE``) of ``images/CASE``, with or without the number of a channel; and
    ``ground_truth/DEFECT/NAME_mask.png`` of MVTec's ``test/DEFECT/NAME.png``. No file is read.
    """
    folder, stem = image.parent, _stem(image)
    if folder.name == "images":
        match = NUMBERED.fullmatch(stem)
        for masks in (folder.with_name("masks"), folder.with_name("labels")):
            for name in (stem, *([match["case"]] if match else [])):
                found = [masks / f"{name}{suffix}" for suffix in SCANS]
                path = next((p for p in found if p.is_file()), None) or mask_named(masks, name)
                if path is not None:
                    return path
    return mask_named(folder.parents[1] / "ground_truth" / folder.name, stem) if folder.parent.name == "test" else None


def mask_named(folder: Path, stem: str) -> Path | None:
    """Return the mask of an image by its stem, ``STEM_mask.png`` or ``STEM.png``, or None."""
    for name in (f"{stem}_mask", stem):
        for suffix in (".png", ".tif", ".tiff", ".bmp"):
            if (path := folder / f"{name}{suffix}").is_file():
                return path
    return None


def _scans(scans: dict[str, Path], references: dict[str, Path]) -> list[Case]:
    cases: dict[str, Case] = {}
    for stem, path in scans.items():
        match = NUMBERED.fullmatch(stem)
        if match and stem not in references:
            case = cases.get(match["case"], Case(match["case"], (), _one(references, match["case"]), "channels"))
            cases[case.name] = Case(case.name, (*case.images, path), case.masks, "channels")
        else:
            cases[stem] = Case(stem, (path,), _one(references, stem), "scan")
    return sorted(cases.values(), key=lambda c: c.name)


def _one(references: dict[str, Path], stem: str) -> tuple[Path, ...]:
    return (references[stem],) if stem in references else ()


def _slices(paths: Sequence[Path], references: dict[str, Path]) -> list[Case]:
    patients: dict[str, list[tuple[int, Path]]] = {}
    for path in paths:
        match = SLICE.fullmatch(path.stem)
        if match is None:
            raise UsageError(f"{path.name} is no PATIENT_SLICE name. Slices of a study end in their number.")
        patients.setdefault(match["patient"], []).append((int(match["slice"]), path))
    cases = []
    for patient, numbered in sorted(patients.items()):
        files = tuple(p for _, p in sorted(numbered))
        masks = tuple(references[p.stem] for p in files if p.stem in references)
        cases.append(Case(patient, files, masks if len(masks) == len(files) else (), "slices"))
    return cases


def _stem(path: Path) -> str:
    name = path.name
    for suffix in SCANS:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def read_case(case: Case, channels: Sequence[str]) -> tuple[Image, NDArray[np.uint8]]:
    """Read a study and its reference mask.

    Parameters
    ----------
    case
        From `find_cases`.
    channels
        Names that the file's channels are given, in order, where they have none of their own.

    Returns
    -------
    image, mask
        ``(C, z, y, x)``, and uint8 ``(z, y, x)`` class numbers on the same grid. Masks of slices are taken as one
        class: what is above half of their range is 1.

    Raises
    ------
    ReadError, GeometryError
        If a file cannot be read, image and mask do not lie on one grid, or nothing relates the grids of the channels.
    """
    if not case.masks:
        raise ReadError(f"{case.name} has no mask, or not one for each slice.")
    if case.kind == "slices":
        image = read_slices(case.images, channels)
        mask = np.stack([_binary(p) for p in case.masks])
    else:
        image = _read_scans(case, channels)
        reference = read_scan(case.masks[0])
        if len(reference.channels) != 1 or not reference.geometry.is_close(image.geometry, tolerance=1e-2):
            raise ReadError(f"{case.masks[0].name} does not lie on the grid of its image; save it on the image's grid.")
        mask = np.asarray(reference.array[0])
        if mask.size and (not np.isfinite(mask).all() or (mask != np.rint(mask)).any() or not 0 <= mask.min() <= 255):
            raise ReadError(f"{case.masks[0].name} should hold class numbers from 0 to 255.")
        mask = np.rint(mask).astype(np.uint8)
    if mask.shape != image.geometry.shape:
        raise ReadError(f"{case.name}: image and mask have the shapes {image.geometry.shape} and {mask.shape}.")
    return image, mask


def read_slices(paths: Sequence[Path], channels: Sequence[str]) -> Image:
    """Read the slices of one study, as images of one size, into ``(C, z, y, x)``; the unit is pixels.

    Raises
    ------
    ReadError
        If they differ in size, or have another number of channels than asked for.
    """
    planes = [read_raster(p) for p in paths]
    shape = planes[0].array.shape
    for path, plane in zip(paths, planes, strict=True):
        if plane.array.shape != shape:
            raise ReadError(f"{path.name}: slices of a study have one size, {shape}. Got {plane.array.shape}.")
    if shape[0] != len(channels):
        raise ReadError(
            f"{paths[0].name}: {wrong_channels(channels, planes[0].channels)} Colours of slices are channels in order."
        )
    array = np.stack([p.array for p in planes], axis=1)
    notes = [f"slices have no spacing: sizes are in voxels; channels taken as {', '.join(channels)}"]
    numbers = [int(match["slice"]) for p in paths if (match := SLICE.fullmatch(p.stem))]
    if missing := sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else []:
        listed = ", ".join(map(str, missing[:6])) + (", ..." if len(missing) > 6 else "")
        notes.append(f"slices are missing ({listed}): their neighbours are taken as next to each other")
    return Image(array, Geometry.pixels(array.shape[1:]), tuple(channels), paths[0].parent, tuple(notes))


def stacked(paths: Sequence[Path]) -> dict[tuple[Path, str], tuple[Path, ...]]:
    """Return the slices of each study among pictures, by folder and patient, ordered by slice number.

    A picture whose name does not end in a number, or that stands alone, is no study and left out.
    """
    found: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    for path in paths:
        if match := SLICE.fullmatch(path.stem):
            found.setdefault((path.parent, match["patient"]), []).append((int(match["slice"]), path))
    return {key: tuple(p for _, p in sorted(some)) for key, some in found.items() if len(some) > 1}


def _check_numbers(case: Case, channels: Sequence[str]) -> None:
    there = {int(match["channel"]) for p in case.images if (match := NUMBERED.fullmatch(_stem(p)))}
    wanted = f"expected the channels {', '.join(channels)}, numbered from 0000 in this order"
    if missing := [f"{name} (_{k:04d})" for k, name in enumerate(channels) if k not in there]:
        raise ReadError(f"{case.name} lacks {', '.join(missing)}; {wanted}. Add the files.")
    if more := sorted(there - set(range(len(channels)))):
        raise ReadError(f"{case.name} has {', '.join(f'_{k:04d}' for k in more)} too; {wanted}. Take the others away.")


def _binary(path: Path) -> NDArray[np.uint8]:
    plane: NDArray[Any] = read_raster(path).array[0]
    top = np.iinfo(plane.dtype).max if plane.dtype.kind in "ui" else 1
    return (plane > (top / 2 if plane.max(initial=0) > 1 else 0)).astype(np.uint8)


def _read_scans(case: Case, channels: Sequence[str]) -> Image:
    if case.kind == "channels":
        _check_numbers(case, channels)
        parts = [file_candidate(path, tuple(channels)) for path in case.images]
        return load_picked(case.images[0], channels, parts).image
    image = read_scan(case.images[0])
    if len(image.array) != len(channels):
        raise ReadError(f"{case.name}: {wrong_channels(channels, image.channels, files=True)}")
    return Image(image.array, image.geometry, tuple(channels), case.images[0])
