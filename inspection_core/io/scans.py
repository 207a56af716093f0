"""One door for scans of every format: DICOM, NIfTI, NRRD and MetaImage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inspection_core.errors import ReadError
from inspection_core.image import Image
from inspection_core.io.dicom.options import Override, Scaling
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.volumes import is_volume, read_volume, write_volume

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def read_scan(
    path: Path,
    *,
    series: str | None = None,
    volume: int | None = None,
    allow: Sequence[Override] | frozenset[Override] = frozenset(),
    suv: bool = False,
    scaling: Scaling = "precise",
    assume_mm: bool = False,
) -> Image:
    """Read a scan as ``(C, z, y, x)`` in LPS, or ``(C, y, x)``.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage by suffix; anything else is taken as DICOM: file, folder, DICOMDIR or zip archive.
    series, volume, allow, suv, scaling
        For DICOM; see `inspection_core.io.dicom.read_dicom`.
    assume_mm
        For files that name no unit; of projection images in DICOM, take the detector's spacing.

    Raises
    ------
    ReadError, GeometryError
        If it cannot be read right.
    """
    path = Path(path)
    if not path.is_dir() and is_nifti(path):
        from inspection_core.io.nifti import read_nifti

        return read_nifti(path, assume_mm=assume_mm)
    if not path.is_dir() and is_volume(path):
        return read_volume(path, assume_mm=assume_mm)
    from inspection_core.io.dicom import read_dicom

    return read_dicom(
        path, series=series, volume=volume, allow=allow, suv=suv, scaling=scaling, assume_mm=assume_mm
    ).image


def write_scan(path: Path, image: Image) -> None:
    """Write an image as what its suffix says: NIfTI, NRRD or MetaImage.

    Raises
    ------
    ReadError
        If the suffix is none of these.
    """
    name = Path(path).name.lower()
    if name.endswith((".nii", ".nii.gz")):
        from inspection_core.io.nifti import write_nifti

        write_nifti(path, image)
    elif name.endswith(WRITABLE):
        write_volume(path, image)
    else:
        raise ReadError(f"Scans are written as {', '.join(WRITABLE)}. Got {Path(path).name}.")
