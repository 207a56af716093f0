"""NIfTI-1 and NIfTI-2 (https://nifti.nimh.nih.gov), ``.nii``, ``.nii.gz`` and ``.hdr``/``.img`` pairs.

The turn from NIfTI's RAS to the suite's LPS, and from ``(x, y, z, t)`` to ``(C, z, y, x)``, is made here and nowhere
else. nibabel reads the headers; voxels are taken from the bytes as they are, so that a truncated file is named as such
and a header that claims an absurd size is refused before anything is allocated.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Extension
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import DTypeLike, NDArray

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import FloatArray, Geometry, Unit
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path
from inspection_core.io.quiet import quiet
from inspection_core.io.rescale import is_identity, rescale, result_type
from inspection_core.prediction import RESEARCH_USE

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GZIP_MAX_RATIO = 1032
"""Deflate cannot pack tighter than this: a header that claims more voxels than that is lying."""
LEVEL = 1
"""How hard gzip tries, of 9, as nibabel has it: Python's own 9 takes minutes for a large map, and saves little."""
FORMS_AGREE_MM = 0.01
"""qform and sform are the same where no corner of the grid moves by more than this; float32 headers round to less."""
UNIT_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
SPATIAL_UNIT = 0x07

_HEADER_ERRORS = (HeaderDataError, WrapStructError, ImageFileError, ValueError, TypeError, LookupError, ArithmeticError)
_BYTE_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, OSError, MemoryError)


@dataclass(frozen=True, eq=False)
class NiftiScan:
    """An image and the header that it came with.

    Parameters
    ----------
    image
        ``(C, z, y, x)`` in LPS; time points and vector entries become channels.
    header
        nibabel's header; `write_nifti` takes it to write what did not change back to the byte.
    """

    image: Image
    header: Any


def read_nifti(path: Path, *, assume_mm: bool = False) -> Image:
    """Read a NIfTI file as an image in LPS; see `read_nifti_scan`."""
    return read_nifti_scan(path, assume_mm=assume_mm).image


def read_nifti_scan(path: Path, *, assume_mm: bool = False) -> NiftiScan:
    """Read a NIfTI file with its header.

    Parameters
    ----------
    path
        The file; of a pair, either half.
    assume_mm
        Take a header that names no unit as millimetres. Otherwise such a file reads as pixels: directions are kept,
        steps are 1.

    Returns
    -------
    NiftiScan
        Array ``(C, z, y, x)``. Integers without scaling keep their type. The sform is used where it is set, else the
        qform; where both are set and disagree, a note says by how much.

    Raises
    ------
    ReadError
        If the file is no NIfTI, truncated or damaged, or holds complex numbers.
    GeometryError
        If its affine is not finite or not invertible.
    """
    path = Path(path)
    loaded = _load_header(path)
    header = loaded.header
    shape, channels, stored_type = _layout(path, header, loaded.shape)
    notes: list[str] = []
    affine, unit = _affine(path, header, shape, assume_mm, notes)
    stored = _voxels(path, loaded)
    array = _values(header, stored, stored_type)
    geometry = _geometry(path, shape, affine, unit)
    array = np.ascontiguousarray(_to_czyx(array, shape))
    return NiftiScan(Image(array, geometry, channels, path, tuple(notes)), header)


def read_nifti_header(path: Path) -> Any:
    """Return the header of a NIfTI file alone; raises as `read_nifti_scan` does where there is none."""
    return _load_header(Path(path)).header


def write_nifti(
    path: Path,
    image: Image,
    *,
    header: Any = None,
    dtype: DTypeLike | None = None,
    description: str = RESEARCH_USE,
) -> None:
    """Write an image as NIfTI, whole or not at all; the suffix chooses compression.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    image
        3-D, or 2-D, which becomes one slice. Three or four uint8 channels named red, green, blue[, alpha] are written
        as NIfTI's colours, other channels as the fourth axis.
    header
        A header from `read_nifti_scan`. Where the grid is unchanged its qform, sform, codes, unit, byte order, time
        step, scaling and stored type are kept to the byte.
    dtype
        Type to store; the array's own if not given (float16, which NIfTI lacks, as float32).
    description
        For the header; where that has a text already, it is added as a comment extension.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ReadError(f"NIfTI files end in .nii or .nii.gz. Got {path.name}.")
    geometry = _as_3d(image.geometry)
    kept = header if header is not None and _same_grid(header, geometry) else None
    data = _to_xyzt(image, kept)
    out = _kept_header(kept) if kept is not None else _new_header(data, geometry)
    stored, scaled = _stored(data, out, dtype)
    if tuple(out.get_data_shape()) != data.shape:  # setting it anew would touch pixdim
        out.set_data_shape(data.shape)
    if stored.dtype.fields is None:
        out.set_data_dtype(stored.dtype)
    else:
        out["datatype"], out["bitpix"] = {3: (128, 24), 4: (2304, 32)}[len(stored.dtype.fields)]
    if not scaled:
        out["scl_slope"], out["scl_inter"] = 1.0, 0.0
    _describe(out, description)
    with atomic_path(path) as temporary:
        _write(temporary, out, stored)


def orientation(geometry: Geometry) -> str:
    """Return where x, y and z of a grid point to, as nibabel's letters: ``"LPS"`` for a plain axial DICOM."""
    if geometry.ndim == 2:
        return ""
    return "".join(str(c) for c in aff2axcodes(_lps_zyx_to_ras_xyz(geometry.affine)))


# Reading ------------------------------------------------------------------------------------------------------------


def _load_header(path: Path) -> Any:
    if not path.is_file():
        raise ReadError(f"A NIfTI file is expected at {path}. Found no file there; check the path.")
    if path.stat().st_size == 0:
        raise ReadError(f"{path.name} is empty: 0 bytes. Copy it again from its source.")
    try:
        with quiet():
            loaded: Any = nib.load(path)
            loaded.header.get_data_shape()
    except _BYTE_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise ReadError(
                f"{path.name} is half of a NIfTI pair. Its other half (.hdr or .img) is missing; put both together."
            ) from None
        raise ReadError(f"{path.name} is truncated or damaged inside its header; copy it again.") from None
    except _HEADER_ERRORS:
        raise ReadError(
            f"{path.name} is not NIfTI, or is damaged: its header has no NIfTI mark, or fields that make no sense. "
            "Check what wrote it, or convert the original scan again."
        ) from None
    if not isinstance(loaded, (nib.Nifti1Pair, nib.Nifti2Pair)):
        raise ReadError(
            f"{path.name} is {type(loaded).__name__.removesuffix('Image')}, not NIfTI; that format does not tell left "
            "from right here. Convert it to NIfTI with the tool that wrote it."
        )
    # nibabel clears the scaling of the header that it gives; the file's own is wanted for writing it back.
    for name in ("scl_slope", "scl_inter"):
        loaded.header[name] = _raw_field(loaded, name)
    return loaded


def _raw_field(loaded: Any, name: str) -> float:
    kind = type(loaded.header)
    file = Path(loaded.file_map["header" if "header" in loaded.file_map else "image"].filename)
    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        block = stream.read(kind.sizeof_hdr)
    return float(kind(block, check=False)[name])


def _layout(path: Path, header: Any, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[str, ...], np.dtype[Any]]:
    """Return spatial shape (x, y, z), channel names and stored type, or refuse."""
    stored = header.get_data_dtype()
    if not shape or min(shape) < 1:
        raise ReadError(f"{path.name} claims a size of {tuple(shape)}; every axis of an image has at least 1 voxel.")
    spatial = (*shape[:3], 1, 1)[:3]
    rest = tuple(int(n) for n in shape[3:])
    if stored.fields is not None:
        if any(n > 1 for n in rest):
            raise ReadError(f"{path.name} holds colours over time, of size {tuple(shape)}; split it into 3-D files.")
        names: tuple[str, ...] = ("red", "green", "blue", "alpha")[: len(stored.fields)]
    elif stored.kind == "c":
        raise ReadError(f"{path.name} holds complex numbers. Write its magnitude or phase as a file of its own.")
    elif stored.kind not in "uif" or stored.itemsize > 8:
        raise ReadError(f"{path.name} stores {stored}, which is no integer or float of up to 64 bits; convert it.")
    else:
        names = _names(rest, header)
    return tuple(int(n) for n in spatial), names, stored


def _names(rest: tuple[int, ...], header: Any) -> tuple[str, ...]:
    count = int(np.prod(rest)) if rest else 1
    if count == 1:
        return ("grey",)
    if count > 1_000_000:
        raise ReadError(f"The file claims {count} volumes; its header is damaged. Copy it again.")
    time = rest[0] > 1 and all(n == 1 for n in rest[1:])
    step = float(header["pixdim"][4])
    scale = {8: 1.0, 16: 1e-3, 24: 1e-6}.get(int(header["xyzt_units"]) & 0x38)
    if time and scale is not None and np.isfinite(step) and step > 0:
        return tuple(f"t = {k * step * scale:g} s" for k in range(count))
    return tuple(f"volume {k + 1}" for k in range(count))


def _voxels(path: Path, loaded: Any) -> NDArray[Any]:
    """Return stored numbers in file order ``(x, y, z, ...)``; the bytes of the file, not copied."""
    file = Path(loaded.file_map["image"].filename)
    proxy = loaded.dataobj
    dtype, offset = proxy.dtype, int(proxy.offset)
    wanted = int(np.prod([int(n) for n in proxy.shape], dtype=object)) * dtype.itemsize
    try:
        size = file.stat().st_size
    except OSError:
        raise ReadError(f"{path.name} is half of a NIfTI pair. Its other half is missing; put both together.") from None
    packed = file.name.lower().endswith(".gz")
    most = size * (GZIP_MAX_RATIO if packed else 1) - offset
    if offset < 0 or wanted > most:
        raise ReadError(
            f"{file.name} is truncated, or its header is damaged: it claims {wanted:,} bytes of voxels "
            f"and can hold no more than {max(most, 0):,}. Copy it again."
        )
    try:
        with gzip.open(file, "rb") if packed else file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(wanted)
            if packed:
                stream.read(1)  # reaching the end is what checks the checksum
    except _BYTE_ERRORS as error:
        raise ReadError(
            f"{file.name} is truncated or damaged: its compressed data break off ({type(error).__name__}). "
            "Copy it again."
        ) from None
    if len(data) < wanted:
        raise ReadError(
            f"{file.name} is truncated: its header promises {wanted:,} bytes of voxels and {len(data):,} are there. "
            "Copy it again."
        )
    return np.ndarray(proxy.shape, dtype, data, order="F")


def _values(header: Any, stored: NDArray[Any], stored_type: np.dtype[Any]) -> NDArray[Any]:
    if stored_type.fields is not None:
        return np.stack([stored[name] for name in stored_type.fields], axis=-1)
    slope, inter = _scaling(header)
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if is_identity(slope, inter):
        return native
    low, high = (int(native.min()), int(native.max())) if native.dtype.kind in "ui" else (0, 0)
    return rescale(native, slope, inter, result_type(native.dtype, low, high, [(slope, inter)]))


def _scaling(header: Any) -> tuple[float, float]:
    slope, inter = header.get_slope_inter()
    return 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)


def _affine(
    path: Path, header: Any, shape: tuple[int, ...], assume_mm: bool, notes: list[str]
) -> tuple[FloatArray, Unit]:
    """Return the RAS affine for (x, y, z) with its unit; say what was chosen where the header leaves room."""
    sform, qform = None, None
    try:
        if int(header["sform_code"]) > 0:
            sform = np.asarray(header.get_sform(), dtype=float)
        if int(header["qform_code"]) > 0:
            qform = np.asarray(header.get_qform(), dtype=float)
    except _HEADER_ERRORS:
        if sform is None:
            raise GeometryError(f"{path.name} has a qform that is no rotation; its header is damaged.") from None
        notes.append("qform is no rotation; the sform is used")
    if sform is not None and not _usable(sform) and qform is not None and _usable(qform):
        notes.append("sform is not usable (not finite, or flat); the qform is used")
        sform = None
    affine = sform if sform is not None else qform
    if affine is None:
        zooms = [float(z) for z in header["pixdim"][1:4]]
        affine = np.diag([*(z if np.isfinite(z) and z > 0 else 1.0 for z in zooms), 1.0])
        notes.append("neither qform nor sform is set: left and right, and the origin, are unknown")
    elif sform is not None and qform is not None:
        apart = _corner_distance(sform, qform, shape)
        if not apart <= FORMS_AGREE_MM:
            notes.append(f"qform and sform disagree by up to {apart:.3g}; the sform is used")
    unit_code = int(header["xyzt_units"]) & SPATIAL_UNIT
    if unit_code in UNIT_TO_MM:
        affine[:3] *= UNIT_TO_MM[unit_code]
        return affine, "mm"
    if assume_mm:
        notes.append("the header names no unit: taken as millimetres, as asked")
        return affine, "mm"
    notes.append("the header names no unit: read as pixels (--assume-mm takes them as millimetres)")
    return _unit_steps(affine), "px"


def _usable(affine: FloatArray) -> bool:
    return bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine[:3, :3])) > 0


def _unit_steps(affine: FloatArray) -> FloatArray:
    """Return the affine with steps of 1 and its world zero at the same voxel."""
    if not _usable(affine):
        return affine  # refused later, with its reason
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    steps = affine[:3, :3] / lengths
    out = np.eye(4)
    out[:3, :3] = steps
    out[:3, 3] = steps @ np.linalg.solve(affine[:3, :3], affine[:3, 3])
    return out


def _corner_distance(a: FloatArray, b: FloatArray, shape: tuple[int, ...]) -> float:
    corners = np.array([[x, y, z, 1] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    return float(np.linalg.norm((a - b) @ corners.T, axis=0).max())


def _geometry(path: Path, shape: tuple[int, ...], ras: FloatArray, unit: Unit) -> Geometry:
    try:
        return Geometry(shape[::-1], _ras_xyz_to_lps_zyx(ras), unit)
    except GeometryError as error:
        raise GeometryError(f"{path.name}: {error}") from None


def _ras_xyz_to_lps_zyx(ras: FloatArray) -> FloatArray:
    lps = RAS_TO_LPS @ ras
    return lps[:, [2, 1, 0, 3]]


def _lps_zyx_to_ras_xyz(lps: FloatArray) -> FloatArray:
    ras = RAS_TO_LPS @ lps[:, [2, 1, 0, 3]]
    return ras + 0.0  # no negative zeros


def _to_czyx(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return array.reshape(*shape, -1, order="F").T


# Writing ------------------------------------------------------------------------------------------------------------


def _as_3d(geometry: Geometry) -> Geometry:
    if geometry.ndim == 3:
        return geometry
    affine = np.eye(4)
    affine[:2, 1:3] = geometry.affine[:2, :2]
    affine[:2, 3] = geometry.affine[:2, 2]
    affine[:3, 0] = (0, 0, 1)
    return Geometry((1, *geometry.shape), affine, geometry.unit)


def _same_grid(header: Any, geometry: Geometry) -> bool:
    shape = (*header.get_data_shape()[:3], 1, 1)[:3]
    if tuple(shape)[::-1] != geometry.shape:
        return False
    try:
        affine, unit = _affine(Path("header"), header, tuple(int(n) for n in shape), geometry.unit == "mm", [])
    except GeometryError:
        return False
    return geometry.is_close(Geometry(geometry.shape, _ras_xyz_to_lps_zyx(affine), unit))


def _to_xyzt(image: Image, kept: Any) -> NDArray[Any]:
    array = image.array if image.geometry.ndim == 3 else image.array[:, None]
    if image.channels[:3] == ("red", "green", "blue") and array.dtype == np.uint8 and len(image.channels) in (3, 4):
        fields = ["R", "G", "B", "A"][: len(image.channels)]
        out = np.empty(array.shape[1:], dtype=[(name, "u1") for name in fields])
        for name, channel in zip(fields, array, strict=True):
            out[name] = channel
        return out.T
    data = array.T  # (x, y, z, C)
    if kept is not None:
        shape = tuple(int(n) for n in kept.get_data_shape())
        if int(np.prod(shape)) == data.size:
            return data.reshape(shape, order="F")
    return data[..., 0] if data.shape[-1] == 1 else data


def _new_header(data: NDArray[Any], geometry: Geometry) -> Any:
    header = nib.Nifti2Header() if max(data.shape) > 32767 else nib.Nifti1Header()
    header.set_data_shape(data.shape)
    header.set_data_dtype(np.float32 if data.dtype == np.float16 or data.dtype.fields is not None else data.dtype)
    ras = _lps_zyx_to_ras_xyz(geometry.affine)
    header.set_sform(ras, code=1)
    if _is_orthogonal(ras):
        header.set_qform(ras, code=1)
    else:  # a quaternion cannot hold a shear
        header["qform_code"] = 0
        header["pixdim"][1:4] = np.linalg.norm(ras[:3, :3], axis=0)
    header.set_xyzt_units("mm" if geometry.unit == "mm" else "unknown")
    return header


def _kept_header(header: Any) -> Any:
    """Return a copy for a single file; a pair's header has no room for extensions."""
    kind: Any = nib.Nifti2Header if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header
    kept = kind(header.binaryblock, header.endianness, check=False)
    kept.extensions[:] = header.extensions
    return kept


def _stored(data: NDArray[Any], header: Any, dtype: DTypeLike | None) -> tuple[NDArray[Any], bool]:
    """Return the numbers to store, and whether the header's scaling applies to them.

    Without `dtype`, a header that came from a file gives back the very numbers of that file where the values allow it.
    """
    if dtype is not None:
        return data.astype(dtype, copy=False), False
    if data.dtype.fields is not None:
        return data, False
    kind = header.get_data_dtype()
    slope, inter = _scaling(header)
    if kind.fields is None and kind.kind in "uif" and int(header["vox_offset"]) >= 0 and header["datatype"] != 0:
        if is_identity(slope, inter) and kind == data.dtype:
            return data, True
        numbers = data if is_identity(slope, inter) else (data.astype(np.float64) - inter) / slope
        if kind.kind in "ui" and numbers.dtype.kind == "f":
            numbers = np.rint(numbers)
        fits = kind.kind == "f" or (numbers.min() >= np.iinfo(kind).min and numbers.max() <= np.iinfo(kind).max)
        if fits:
            candidate = numbers.astype(kind)
            if np.array_equal(rescale(candidate, slope, inter, data.dtype), data, equal_nan=data.dtype.kind == "f"):
                return candidate, True
    return (data.astype(np.float32) if data.dtype == np.float16 else data), False


def _write(path: Path, header: Any, stored: NDArray[Any]) -> None:
    """Write header, extensions and numbers as they are: nibabel would work out a scaling of its own."""
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    kind = stored.dtype.newbyteorder(header.endianness) if stored.dtype.fields is None else stored.dtype
    with gzip.GzipFile(path, "wb", LEVEL, mtime=0) if path.name.endswith(".gz") else path.open("wb") as file:
        header.write_to(file)
        for place in np.ndindex(stored.T.shape[:-2]):  # plane by plane: the bytes of all are as large as the array
            file.write(stored.T[place].astype(kind, copy=False).tobytes())


def _describe(header: Any, description: str) -> None:
    text = description.encode("ascii", "replace")
    if not text or text in header["descrip"].tobytes():
        return
    if not header["descrip"].tobytes().strip(b"\0 "):
        header["descrip"] = text[:79]
    elif not any(e.get_code() == 6 and text in e.get_content() for e in header.extensions if e.get_code() == 6):
        header.extensions.append(Nifti1Extension("comment", text))


def _is_orthogonal(affine: FloatArray) -> bool:
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(steps.T @ steps - np.eye(3)).max() < 1e-6)
