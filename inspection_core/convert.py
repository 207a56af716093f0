"""From DICOM, NIfTI, NRRD or MetaImage to NIfTI, NRRD or MetaImage, with the geometry kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.dicom import choose, load_volume, scan_dicom
from inspection_core.io.dicom.options import Override, Scaling
from inspection_core.io.dicom.series import Inventory
from inspection_core.io.nifti import read_nifti_scan, write_nifti
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.scans import WRITABLE, write_scan
from inspection_core.io.study import Allowed, Match, load_study
from inspection_core.io.volumes import is_volume, read_volume


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Parameters
    ----------
    outputs
        Files written.
    notes
        ``(output, what a user should know)``.
    errors
        ``(series or file, why it was not converted)``.
    matches
        Of a study, which scan became which channel.
    """

    outputs: tuple[Path, ...]
    notes: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]
    matches: tuple[Match, ...] = ()


def convert_study(
    source: Path,
    target: Path,
    channels: Sequence[str],
    *,
    choices: Mapping[str, str | Path] | None = None,
    grid: str | None = None,
    allow: Sequence[Allowed] | frozenset[Allowed] = frozenset(),
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert the sequences of a study to one file on one grid, a volume a channel.

    Parameters
    ----------
    source
        See `inspection_core.io.study.load_study`, for the other parameters too.
    target
        A file by its suffix; anything else is a folder, which takes one ``.nii.gz``.

    Raises
    ------
    ReadError, GeometryError
        If a sequence is missing or ambiguous, or cannot be loaded right.
    UsageError
        If the request makes no sense.
    """
    source, target = _apart(source, target)
    study = load_study(
        source,
        channels,
        choices=choices,
        grid=grid,
        allow=allow,
        scaling=scaling,
        assume_mm=assume_mm,
        progress=progress,
    )
    out = target if target.name.lower().endswith(WRITABLE) else target / f"{_stem(source)}.nii.gz"
    write_scan(out, study.image)
    return Conversion((out,), tuple((out.name, n) for n in study.image.notes), (), study.matches)


def convert(
    source: Path,
    target: Path,
    *,
    series: str | None = None,
    volume: int | None = None,
    allow: Sequence[Override] | frozenset[Override] = frozenset(),
    suv: bool = False,
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert one scan to a file, or every series under a path to a folder.

    Parameters
    ----------
    source
        File, folder, DICOMDIR or zip archive.
    target
        A file by its suffix (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd); anything else is a folder, which takes one
        ``.nii.gz`` a volume.
    series, volume, allow, suv, scaling
        See `inspection_core.io.dicom.read_dicom`.
    assume_mm
        For files that name no unit.
    progress
        Called with the number of volumes done and their total.

    Raises
    ------
    ReadError, GeometryError
        If nothing could be converted.
    UsageError
        If the target is the source.
    """
    source, target = _apart(source, target)
    as_file = target.name.lower().endswith(WRITABLE)
    if source.is_file() and (is_nifti(source) or is_volume(source)):
        out = target if as_file else target / f"{_stem(source)}.nii.gz"
        notes = _convert_file(source, out, assume_mm)
        return Conversion((out,), tuple((out.name, n) for n in notes), ())
    inventory = scan_dicom(source)
    if as_file:
        loaded = load_volume(
            choose(inventory, series, volume),
            allow=allow,
            suv=suv,
            scaling=scaling,
            assume_mm=assume_mm,
            progress=progress,
        )
        write_scan(target, loaded.image)
        notes = (*loaded.image.notes, *(f"left out: {reason}" for _, reason in inventory.refused))
        return Conversion((target,), tuple((target.name, n) for n in notes), ())
    return _convert_all(inventory, source, target, series, volume, frozenset(allow), suv, scaling, assume_mm, progress)


def _apart(source: Path, target: Path) -> tuple[Path, Path]:
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise UsageError("Source and target are the same file; choose another target.")
    return source, target


def _convert_file(source: Path, out: Path, assume_mm: bool) -> tuple[str, ...]:
    image: Image
    if is_nifti(source):
        scan = read_nifti_scan(source, assume_mm=assume_mm)
        image = scan.image
        if out.name.lower().endswith((".nii", ".nii.gz")):
            write_nifti(out, image, header=scan.header)
            return image.notes
    else:
        image = read_volume(source, assume_mm=assume_mm)
    write_scan(out, image)
    return image.notes


def _convert_all(
    inventory: Inventory,
    source: Path,
    target: Path,
    series: str | None,
    volume: int | None,
    allow: frozenset[Override],
    suv: bool,
    scaling: Scaling,
    assume_mm: bool,
    progress: Callable[[int, int], None] | None,
) -> Conversion:
    outputs, notes, errors = [], [], list(inventory.refused)
    wanted = [s for s in inventory.series if series is None or series in (s.id, str(s.file.number))]
    jobs = [(s, k, v) for s in wanted for k, v in enumerate(s.volumes, start=1) if volume in (None, k)]
    for done, (s, k, v) in enumerate(jobs, start=1):
        # Names come from the folder and a hash: what stands in a header never becomes a path.
        name = f"{_stem(source)}_{s.id}" + (f"_{k}" if len(s.volumes) > 1 else "")
        try:
            loaded = load_volume(
                v, allow=allow, suv=suv and v.file.modality == "PT", scaling=scaling, assume_mm=assume_mm
            )
            out = target / f"{name}.nii.gz"
            write_scan(out, loaded.image)
            outputs.append(out)
            notes += [(out.name, n) for n in loaded.image.notes]
        except InspectionError as error:
            errors.append((name, str(error)))
        if progress is not None:
            progress(done, len(jobs))
    if not outputs:
        failed = errors[len(inventory.refused) :] or errors
        first = failed[0][1] if failed else "; ".join(w for _, w in inventory.others[:3]) or "no DICOM image was found"
        raise ReadError(f"Nothing of {source.name} could be converted: {first}")
    return Conversion(tuple(outputs), tuple(notes), tuple(errors))


def _stem(path: Path) -> str:
    name = path.resolve().name
    for suffix in sorted((*WRITABLE, ".hdr", ".img", ".hdr.gz", ".img.gz", ".dcm", ".zip"), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or "scan"
    return name or "scan"
