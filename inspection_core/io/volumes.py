"""NRRD and MetaImage (``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``) through SimpleITK, which keeps them for ITK and Slicer.

Both are LPS inside ITK, as the suite is; SimpleITK turns an NRRD that says RAS. Their headers can name another file for
the voxels. A header is data, so such a name must be a plain one in the header's own folder.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry, Unit
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path
from inspection_core.prediction import RESEARCH_USE

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
HEADER_LIMIT = 1 << 20
DEFLATE_MAX_RATIO = 1032
"""Deflate cannot pack tighter than this."""
_META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 8, "ULONG": 8}
_META_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_BYTES = {
    "8": 1,
    "16": 2,
    "32": 4,
    "64": 8,
    "char": 1,
    "short": 2,
    "int": 4,
    "longlong": 8,
    "float": 4,
    "double": 8,
}
_NRRD_MM = {"", "mm", "millimeter", "millimeters", "millimetre"}


def is_volume(path: Path) -> bool:
    """Tell by its suffix whether a file is NRRD or MetaImage."""
    return Path(path).suffix.lower() in SUFFIXES


def read_volume(path: Path, *, assume_mm: bool = False) -> Image:
    """Read an NRRD or MetaImage file as ``(C, z, y, x)`` in LPS, or ``(C, y, x)`` where it is 2-D.

    Parameters
    ----------
    path
        The file that holds the header.
    assume_mm
        Take an NRRD without a world space, which has no unit, as millimetres instead of pixels.

    Raises
    ------
    ReadError
        If the file is damaged, truncated, or names a file outside its folder for its voxels.
    GeometryError
        If its axes do not span a volume.
    """
    path = Path(path)
    if not path.is_file():
        raise ReadError(f"An NRRD or MetaImage file is expected at {path}. Found no file there; check the path.")
    fields = _fields(path)
    notes: list[str] = []
    unit = _unit(path, fields, assume_mm, notes)
    _check_size(path, fields)
    itk = _itk()
    try:
        loaded = itk.ReadImage(str(path))
    except RuntimeError:
        raise ReadError(
            f"{path.name} is truncated or damaged: its header reads, its voxels do not. Copy it again."
        ) from None
    return _from_itk(path, loaded, unit, tuple(notes))


def write_volume(path: Path, image: Image, *, compress: bool = True) -> None:
    """Write an image as NRRD or MetaImage, whole or not at all; the suffix chooses which.

    The grid and the type are kept exactly; channels become components, time included. Every file carries the sentence
    on research use as a field of its header.
    """
    path = Path(path)
    itk = _itk()
    array = image.array.astype(np.float32) if image.array.dtype == np.float16 else image.array
    out = itk.GetImageFromArray(
        np.ascontiguousarray(np.moveaxis(array, 0, -1)) if len(array) > 1 else np.ascontiguousarray(array[0]),
        isVector=len(array) > 1,
    )
    n = image.geometry.ndim
    steps = image.geometry.affine[:n, :n][:, ::-1]
    spacing = np.linalg.norm(steps, axis=0)
    out.SetSpacing(spacing.tolist())
    out.SetOrigin(image.geometry.affine[:n, n].tolist())
    try:
        out.SetDirection((steps / spacing).ravel().tolist())
    except RuntimeError:
        raise GeometryError(f"{path.suffix} cannot hold this grid's axes; write NIfTI instead.") from None
    out.SetMetaData("Comment", RESEARCH_USE)
    if path.suffix.lower() in (".mhd", ".nhdr"):  # two files: the header comes last, so that it never points at nothing
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            itk.WriteImage(out, str(Path(folder) / path.name), compress)
            for file in sorted(Path(folder).iterdir(), key=lambda f: f.name == path.name):
                os.replace(file, path.parent / file.name)  # noqa: PTH105 - moves between two folders of one disk
        return
    with atomic_path(path) as temporary:
        itk.WriteImage(out, str(temporary), compress)


def _itk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    return SimpleITK


def _from_itk(path: Path, loaded: Any, unit: Unit, notes: tuple[str, ...]) -> Image:
    array: NDArray[Any] = _itk().GetArrayFromImage(loaded)
    n = int(loaded.GetDimension())
    if loaded.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif n == 4:
        n = 3
    else:
        array = array[None]
    if array.dtype.kind not in "uif" or n not in (2, 3) or array.ndim != n + 1:
        raise ReadError(
            f"{path.name} holds {array.dtype} in {loaded.GetDimension()} axes; real numbers in 2 to 4 can be read."
        )
    full = int(loaded.GetDimension())
    direction = np.array(loaded.GetDirection()).reshape(full, full)[:n, :n]
    affine = np.eye(n + 1)
    affine[:n, :n] = (direction * np.array(loaded.GetSpacing())[:n])[:, ::-1]
    affine[:n, n] = np.array(loaded.GetOrigin())[:n]
    if unit == "px":
        affine = Geometry.pixels(array.shape[1:]).affine
    try:
        geometry = Geometry(array.shape[1:], affine, unit)
    except GeometryError as error:
        raise GeometryError(f"{path.name}: {error}") from None
    count = array.shape[0]
    names = ("grey",) if count == 1 else tuple(f"volume {k + 1}" for k in range(count))
    if count in (3, 4) and array.dtype == np.uint8:
        names = ("red", "green", "blue", "alpha")[:count]
    return Image(np.ascontiguousarray(array), geometry, names, path, notes)


def _fields(path: Path) -> dict[str, str]:
    """Return the header's fields in lower case, having checked that no field leads to another folder."""
    with path.open("rb") as file:
        block = file.read(HEADER_LIMIT)
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    if nrrd and not block.startswith(b"NRRD"):
        raise ReadError(f"{path.name} is not NRRD: it does not begin with NRRD. Check what wrote it.")
    separator, fields = (":" if nrrd else "="), {}
    for line in block.split(b"\n"):
        text = line.decode("latin-1").strip()
        if nrrd and not text:
            break
        key, found, value = text.partition(separator)
        if found and not (nrrd and value.startswith("=")):
            fields[key.strip().lower()] = value.strip()
        if not nrrd and key.strip().lower() == "elementdatafile":
            break
    if not nrrd and "elementdatafile" not in fields:
        raise ReadError(f"{path.name} is not MetaImage: its header has no ElementDataFile. Check what wrote it.")
    _check_reference(path, fields, "elementdatafile")
    _check_reference(path, fields, "data file")
    _check_reference(path, fields, "datafile")
    return fields


def _check_reference(path: Path, fields: dict[str, str], key: str) -> None:
    name = fields.get(key, "LOCAL")
    if name == "LOCAL":
        return
    if name != Path(name).name or "\\" in name or "%" in name or name.upper().startswith("LIST") or name in (".", ".."):
        raise ReadError(
            f"{path.name} keeps its voxels in another place than one plain file beside it, which is not followed. "
            "Write it anew as one file (.mha or .nrrd)."
        )
    if not (path.parent / name).is_file() or (path.parent / name).is_symlink():
        raise ReadError(f"{path.name} keeps its voxels in a second file, which is missing beside it. Copy both.")
    fields["voxel bytes"] = str((path.parent / name).stat().st_size)


def _check_size(path: Path, fields: dict[str, str]) -> None:
    """Refuse a header that claims more voxels than its bytes can hold, before anything is allocated."""
    nrrd = "dimsize" not in fields
    try:
        sizes = [int(n) for n in fields["sizes" if nrrd else "dimsize"].split()]
        if nrrd:
            kind = fields["type"].lower().replace("unsigned", "").replace("signed", "").replace("_t", "").strip()
            match = re.search(r"char|short|longlong|int(?=$)|float|double|8|16|32|64", kind.replace(" ", ""))
            each = _NRRD_BYTES[match.group()] if match else 1
            packed = fields.get("encoding", "raw").lower() not in ("raw", "ascii", "text", "txt", "hex")
        else:
            each = _META_BYTES[fields["elementtype"].upper().removeprefix("MET_").removesuffix("_ARRAY")]
            each *= int(fields.get("elementnumberofchannels", "1"))
            packed = fields.get("compresseddata", "false").lower() in ("true", "1")
    except (KeyError, ValueError):
        raise ReadError(
            f"{path.name} has a damaged header: size or type are missing or no numbers. Copy it again."
        ) from None
    if not sizes or min(sizes) < 1 or each < 1:
        raise ReadError(f"{path.name} claims a size of {tuple(sizes)}; every axis has at least 1 voxel.")
    claimed = int(np.prod(sizes, dtype=object)) * each
    held = int(fields.get("voxel bytes", path.stat().st_size))
    most = held * (DEFLATE_MAX_RATIO if packed else 1)
    if fields.get("encoding", "raw").lower() in ("ascii", "text", "txt", "hex"):
        most = held * each
    if claimed > most:
        raise ReadError(
            f"{path.name} is truncated, or its header is damaged: it claims {claimed:,} bytes of voxels and can hold "
            f"no more than {most:,}. Copy it again."
        )


def _unit(path: Path, fields: dict[str, str], assume_mm: bool, notes: list[str]) -> Unit:
    if path.suffix.lower() in (".mha", ".mhd"):
        return "mm"  # MetaIO: spacing and offset are millimetres
    if "space" not in fields and "space dimension" not in fields:
        if assume_mm:
            notes.append("the header names no world space: taken as millimetres, as asked")
            return "mm"
        notes.append("the header names no world space: read as pixels (--assume-mm takes its steps as millimetres)")
        return "px"
    units = {u.strip('" ').lower() for u in re.findall(r'"[^"]*"', fields.get("space units", ""))}
    if units - _NRRD_MM:
        raise ReadError(f"{path.name} measures in something other than millimetres (space units); convert it to mm.")
    return "mm"
