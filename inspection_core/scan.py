"""What is in a folder of scans, and what is wrong with it, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspection_core.errors import InspectionError, printable
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.candidates import sequence_of_file
from inspection_core.io.dicom import scan_dicom
from inspection_core.io.dicom.options import Override
from inspection_core.io.dicom.sequence_words import NAMES
from inspection_core.io.dicom.sequences import recognise
from inspection_core.io.dicom.series import Series
from inspection_core.io.nifti import orientation, read_nifti
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.volumes import is_volume, read_volume


@dataclass(frozen=True)
class ScanReport:
    """What `scan` found; nothing in it names a patient.

    Parameters
    ----------
    series
        One table a DICOM series or other scan file, as `Series.summary` gives it.
    others
        ``(file name, what it is)`` of files that are no image.
    refused
        ``(path, why)`` of what could not be opened.
    """

    series: tuple[dict[str, Any], ...]
    others: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "series": list(self.series),
            "others": [{"file": name, "reason": reason} for name, reason in self.others],
            "refused": [{"path": path, "reason": reason} for path, reason in self.refused],
        }

    def lines(self) -> list[str]:
        """Return the report as text, one line a volume."""
        out = []
        for s in self.series:
            number = f" series {s['number']}" if s["number"] is not None else ""
            out.append(f"{s['id']}  {s['modality']}{number}  {s['description']}".rstrip())
            out.append(f"    {s['verdict']}")
            for k, v in enumerate(s["volumes"], start=1):
                size = " x ".join(str(n) for n in reversed(v["shape"]))
                spacing = " x ".join(f"{x:g}" for x in reversed(v["spacing_mm"]))
                facts = [size, f"{spacing} mm" if spacing else "no spacing", v["orientation"], f"{v['frames']} frames"]
                state = "loads" if v["loads"] else "refused"
                out.append(f"    {k}: {', '.join(f for f in facts if f)}; {state}")
                if v["sequence"]:
                    out.append(f"       sequence: {NAMES[v['sequence']]} ({v['sequence_why']})")
                elif s["modality"] == "MR":
                    out.append(f"       sequence not recognised: {v['sequence_why']}")
                out += [f"       note: {note}" for note in v["notes"]]
        out += [f"refused: {path}: {reason}" for path, reason in self.refused]
        if self.others:
            out.append(f"{len(self.others)} other files:")
            out += [f"    {reason}" for _, reason in self.others[:10]]
            out += [f"    and {len(self.others) - 10} more"] if len(self.others) > 10 else []
        return [printable(line) for line in out]


def scan(
    path: Path | str | Sequence[Path | str],
    progress: Callable[[int, int], None] | None = None,
    allow: frozenset[Override] = frozenset(),
) -> ScanReport:
    """List the series under a path, each with its verdict and, for MR, the sequence that it is recognised as.

    Parameters
    ----------
    path
        File, folder, DICOMDIR or zip archive, or several; NIfTI, NRRD and MetaImage files are listed too.
    progress
        Called with the number of files done and their total.
    allow
        What would be loaded although it is not right; ``"loads"`` answers for it.

    Raises
    ------
    ReadError
        If the path does not exist, or is an archive that cannot be trusted.
    """
    paths = [Path(p) for p in ([path] if isinstance(path, (str, Path)) else path)]
    files = [p for p in paths if p.is_file() and _is_file_of_its_own(p)]
    series = [_file_summary(p) for p in files]
    rest = [p for p in paths if p not in files]
    if not rest:
        return ScanReport(tuple(series), ())
    inventory = scan_dicom(rest, progress)
    series += [_series_summary(s, allow) for s in inventory.series]
    others = []
    for (name, reason), blob in zip(inventory.others, inventory.other_files, strict=True):
        if not blob.member and _is_file_of_its_own(blob.path):
            series += [_file_summary(blob.path)] if blob.path not in files else []
        else:
            others.append((name, reason))
    return ScanReport(tuple(series), tuple(others), inventory.refused)


def _is_file_of_its_own(path: Path) -> bool:
    return is_nifti(path) or is_volume(path)


def _series_summary(series: Series, allow: frozenset[Override]) -> dict[str, Any]:
    summary = series.summary()
    for volume, table in zip(series.volumes, summary["volumes"], strict=True):
        guess = recognise(volume)
        table["sequence"], table["sequence_why"] = guess.name, guess.why
        table["loads"] = not volume.refused(allow)
    return summary


def _file_summary(path: Path) -> dict[str, Any]:
    kind = "NIfTI" if is_nifti(path) else path.suffix[1:].upper()
    base = {
        "id": path.name,
        "number": None,
        "modality": kind,
        "maker": "",
        "description": "",
        "files": 1,
        "file": str(path),
    }
    try:
        image: Image = read_nifti(path) if is_nifti(path) else read_volume(path)
    except InspectionError as error:
        volume = _volume((), 0, None, "", str(error), (str(error),), (), "")
        return {**base, "verdict": f"cannot be read: {error}", "volumes": [volume]}
    count = image.array.shape[0]
    verdict = "regular grid" if count == 1 else f"4-D: {count} volumes"
    sequence = sequence_of_file(path) if count == 1 else ""
    return {
        **base,
        "verdict": verdict,
        "volumes": [_volume(image.geometry.shape, count, image.geometry, verdict, verdict, (), image.notes, sequence)],
    }


def _volume(
    shape: tuple[int, ...],
    channels: int,
    geometry: Geometry | None,
    kind: str,
    verdict: str,
    reasons: tuple[str, ...],
    notes: tuple[str, ...],
    sequence: str,
) -> dict[str, Any]:
    in_mm = geometry is not None and geometry.unit == "mm"
    return {
        "kind": kind,
        "layout": "volume" if len(shape) == 3 else "picture",
        "shape": list(shape),
        "channels": channels,
        "spacing_mm": [round(s, 4) for s in geometry.spacing] if geometry is not None and in_mm else [],
        "orientation": orientation(geometry) if geometry is not None else "",
        "frames": (shape[0] if len(shape) == 3 else 1) * channels if shape else 0,
        "loads": geometry is not None,
        "verdict": verdict,
        "reasons": list(reasons),
        "allow": [],
        "notes": list(notes),
        "sequence": sequence,
        "sequence_why": "by its file name" if sequence else "",
    }
