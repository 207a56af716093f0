"""Scans without their patients: the basic profile of DICOM PS3.15 Annex E over a file, a folder or an archive.

What cannot be cleaned is refused, never passed on. Names of files and folders are made anew, and the report that lies
with the results holds nothing that was removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from inspection_core import __version__
from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.io.atomic import atomic_path, write_text
from inspection_core.io.dicom.blank import PIXELS, Region, blank, clear_unused_bits, has_ultrasound_regions, risk
from inspection_core.io.dicom.comments import without_comments
from inspection_core.io.dicom.discover import Blob, find_files, looks_like_dicom
from inspection_core.io.dicom.frames import fault_of, parse, read_header
from inspection_core.io.dicom.pixels import name_syntax
from inspection_core.io.dicom.profile import EDITION, Counts, add_code, clean, patient_of
from inspection_core.io.dicom.pseudonym import Pseudonyms, new_key, read_key
from inspection_core.io.dicom.values import DAMAGE, get, text, words
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.nifti_text import clean_nifti
from inspection_core.io.quiet import quiet
from inspection_core.io.results import dump
from inspection_core.io.volumes import is_volume

REPORT = "deidentification.json"
LIMITS = (
    "Faces can be made visible from scans of a head; they are not removed.",
    "Text burned into pixels is blanked only where regions were given; none is looked for.",
    "Descriptions of segments and codes, and the scanner's make and settings, are kept.",
    "Times of day are kept; dates are moved by whole days.",
)
"""What a user has to know, whatever was cleaned."""


@dataclass(frozen=True)
class Cleaned:
    """One file of the result.

    Parameters
    ----------
    path
        Where it is.
    blanked
        Regions, in words.
    notes
        What a user should know about it.
    source
        Which file it was; told to the caller and never written, because names of files often are names of patients.
    """

    path: Path
    blanked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = field(default="", repr=False)


@dataclass(frozen=True)
class Deidentified:
    """What `deidentify` did.

    Parameters
    ----------
    target
        The new folder.
    files
        What was written.
    skipped
        ``(source file, what it is)`` of files that are no scans.
    errors
        ``(source file, why it was not cleaned)`` of scans.
    counts
        ``{(keyword, what was done): how often}``.
    """

    target: Path
    files: tuple[Cleaned, ...]
    skipped: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]
    counts: Counts = field(default_factory=Counter)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file written."""
        return (*(f.path for f in self.files), self.target / REPORT)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes with the number of files that each is about."""
        found = Counter(note for file in self.files for note in file.notes)
        return tuple(f"{n} {'file' if n == 1 else 'files'}: {note}" for note, n in found.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the report, without names of source files and without anything that was removed."""
        attributes: dict[str, dict[str, int]] = {}
        for (keyword, what), n in sorted(self.counts.items()):
            attributes.setdefault(keyword, {})[what] = n
        left_out = [*((reason, "skipped") for _, reason in self.skipped), *((r, "refused") for _, r in self.errors)]
        return {
            "schema_version": 1,
            "software": f"inspection-suite {__version__}",
            "profile": f"PS3.15 {EDITION} Annex E basic profile, consistent UIDs, modified dates",
            "written": len(self.files),
            "skipped": len(self.skipped),
            "refused": len(self.errors),
            "attributes": attributes,
            "files": [
                {
                    "file": f.path.relative_to(self.target).as_posix(),
                    "blanked": list(f.blanked),
                    "notes": list(f.notes),
                }
                for f in self.files
            ],
            "left_out": [{"what": what, "reason": reason} for reason, what in left_out],
            "limits": list(LIMITS),
        }

    def lines(self) -> list[str]:
        """Return the report as a short text."""
        totals: Counter[str] = Counter()
        for (_, what), n in self.counts.items():
            totals[what] += n
        done = ", ".join(f"{totals[what]} {what}" for what in ("removed", "emptied", "replaced", "shifted"))
        blanked = sum(bool(f.blanked) for f in self.files)
        return [
            f"{len(self.files)} files written, {len(self.skipped)} skipped, {len(self.errors)} refused: {self.target}",
            f"Values: {done}. Regions blanked in {blanked} files.",
            f"Report: {self.target / REPORT}",
        ]


@dataclass(frozen=True)
class _Job:
    target: Path
    pseudonyms: Pseudonyms
    regions: tuple[Region, ...]
    ultrasound: bool
    allow_burned_in: bool
    counts: Counts


def deidentify(
    source: Path,
    target: Path,
    *,
    pseudonyms: Pseudonyms | None = None,
    regions: Sequence[Region] = (),
    ultrasound: bool = False,
    allow_burned_in: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Deidentified:
    """Write every scan under a path anew, without what leads to its patient.

    Parameters
    ----------
    source
        File, folder (nested, with other files in it), DICOMDIR or zip archive. Links that lead out are not followed.
    target
        New or empty folder: ``PATIENT/STUDY/SERIES/INSTANCE.dcm`` under their new names, ``nifti/``, and the report.
    pseudonyms
        The key; with the same one, other runs give the same UIDs, names and shifts. A new one if not given.
    regions
        Where text is burned in.
    ultrasound
        Blank everything outside the regions that ultrasound headers name.
    allow_burned_in
        Pass images on whose pixels may hold text, although no region of theirs is blanked.
    progress
        Called with the number of files done and their total.

    Raises
    ------
    UsageError
        If the target is not empty, or lies in the source or around it.
    ReadError
        If the source does not exist, or nothing in it could be cleaned.
    """
    source, target = Path(source), Path(target)
    _check_paths(source, target)
    blobs, skipped, errors = _sources(source)
    job = _Job(target, pseudonyms or Pseudonyms(), tuple(regions), ultrasound, allow_burned_in, Counter())
    files: list[Cleaned] = []
    reasons: list[str] = []
    with quiet():
        for done, blob in enumerate(blobs, start=1):
            name = _shown(blob, source)
            try:
                reason = _no_scan(blob)
                if reason:
                    skipped.append((name, reason))
                else:
                    cleaned = _nifti(blob, job) if is_nifti(Path(blob.name)) else _dicom(blob, job)
                    files.append(replace(cleaned, source=name))
            except InspectionError as error:
                # The report lies with the results, so it cannot use the file's own name.
                errors.append((name, str(error).replace(blob.name, "the file").replace(blob.path.name, "the archive")))
            if progress is not None:
                progress(done, len(blobs))
    reasons += [f"{name}: {why}" for name, why in [*errors, *skipped][:3]]
    if not files:
        raise ReadError(f"Nothing of {source.name} could be written: {'; '.join(reasons) or 'it holds no file'}")
    result = Deidentified(target, tuple(files), tuple(skipped), tuple(errors), job.counts)
    write_text(target / REPORT, dump(result.to_dict()))
    return result


def prepare_key(
    key: Path | None, make: Path | None, source: Path, target: Path
) -> tuple[Pseudonyms | None, tuple[str, ...]]:
    """Read a key file or make one, once source and target are known to be in order.

    Returns
    -------
    tuple
        The key or None, and warnings.

    Raises
    ------
    UsageError
        If both are asked for, or the key would lie with the results, which are for others.
    """
    if key is not None and make is not None:
        raise UsageError("--key and --new-key exclude each other. Give --key for a key file that is there.")
    path = key or make
    if path is None:
        return None, ()
    if Path(path).resolve().is_relative_to(Path(target).resolve()):
        raise UsageError("The key file would lie with the results. Whoever has it can link them; keep it elsewhere.")
    if key is not None:
        pseudonyms, warning = read_key(key)
        return pseudonyms, (warning,) if warning else ()
    _check_paths(Path(source), Path(target))  # before a file is made
    return new_key(path), (f"the key is in {path}: keep it secret, and as long as more of the same patients may come",)


# What is there ------------------------------------------------------------------------------------------------------


def _check_paths(source: Path, target: Path) -> None:
    if not source.exists():
        raise ReadError(f"A file or folder is expected at {source}. Found nothing there; check the path.")
    there, here = target.resolve(), source.resolve()
    if there == here or there.is_relative_to(here) or (here.is_relative_to(there) and here != there):
        raise UsageError("Source and target lie in one another; choose a new folder elsewhere.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not empty, and nothing is ever mixed with earlier results. Choose a new folder.")


def _sources(source: Path) -> tuple[list[Blob], list[tuple[str, str]], list[tuple[str, str]]]:
    """Return files to look at, and what is left out; one bad archive is no reason to stop."""
    if not source.is_dir() and source.name.upper() != "DICOMDIR":
        return find_files(source), [], []
    top = source if source.is_dir() else source.parent
    blobs: list[Blob] = []
    skipped: list[tuple[str, str]] = []
    errors: list[tuple[str, str]] = []
    for path in _walk(top):
        name = path.relative_to(top).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to(top.resolve()):
            skipped.append((name, "it is a link that leads out of the folder"))
        elif path.name.upper() == "DICOMDIR":
            skipped.append((name, "it is a DICOMDIR, a table of contents"))
        elif not path.is_file():
            skipped.append((name, "it is no plain file"))
        elif path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
            try:
                blobs += find_files(path)
            except ReadError as error:
                errors.append((name, str(error).replace(path.name, "the archive")))
        else:
            blobs.append(Blob(path))
    return blobs, skipped, errors


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def _shown(blob: Blob, source: Path) -> str:
    top = source if source.is_dir() else source.parent
    path = blob.path.relative_to(top).as_posix() if blob.path.is_relative_to(top) else blob.path.name
    return f"{path}/{blob.member}" if blob.member else path


def _no_scan(blob: Blob) -> str:
    """Say what a file is that is no scan to be cleaned, or return an empty text."""
    if is_nifti(Path(blob.name)):
        return ""
    if is_volume(Path(blob.name)):
        return "NRRD and MetaImage are not cleaned here; convert to NIfTI first"
    return "" if looks_like_dicom(blob.head()) else "it is not DICOM"


# One file -----------------------------------------------------------------------------------------------------------


def _nifti(blob: Blob, job: _Job) -> Cleaned:
    digest = _digest(blob)
    suffix = ".nii.gz" if blob.name.lower().endswith(".gz") else ".nii"
    path = _free(job.target / "nifti" / f"{job.pseudonyms.word('nifti', digest, 16)}{suffix}")
    job.counts.update(clean_nifti(blob, path))
    return Cleaned(path, (), ("NIfTI: texts and extensions are cleared; nothing else is known of the patient",))


def _dicom(blob: Blob, job: _Job) -> Cleaned:
    header = read_header(blob)
    modality = text(header, "Modality").upper()
    _refuse_documents(header, modality)
    regions = [r for r in job.regions if r.modality in ("", modality)]
    is_image = text(header, "SOPClassUID") != "" and get(header, "Rows") is not None and modality != "SEG"
    risky = risk(header) if is_image else ""
    ultrasound = job.ultrasound and is_image and has_ultrasound_regions(header)
    if is_image and (fault := fault_of(blob, header)).startswith("it is truncated"):
        raise ReadError(f"the file is damaged: {fault}.")  # written anew, it would look whole
    if risky and not (job.allow_burned_in or regions or ultrasound):
        raise ReadError(
            f"the file is not passed on: {risky}. Look at it, then give regions to blank (--blank), or allow it as it "
            "is (--allow-burned-in)."
        )
    blanked: list[str] = []
    if is_image and (regions or ultrasound):
        dataset, blanked = blank(blob, regions, ultrasound)
        if risky and not blanked and not job.allow_burned_in:
            raise ReadError(f"the file is not passed on: {risky}, and no region given lies in it.")
    else:
        dataset = _read(blob)
    notes = _notes(dataset, risky, blanked)
    patient = patient_of(dataset, job.pseudonyms)
    try:
        hidden = clear_unused_bits(dataset)
        comments = without_comments(dataset)
        counts = clean(dataset, patient, job.pseudonyms)
        if blanked:
            add_code(dataset, "113101")
            dataset.BurnedInAnnotation = "NO"
    except DAMAGE as error:
        raise ReadError(f"the file cannot be cleaned ({type(error).__name__}); its header is damaged.") from None
    counts["bits of overlays in pixels", "removed"] += int(hidden)
    counts["comments in compressed pixels", "removed"] += comments
    path = _free(_place(dataset, patient.pseudonym, blob, job))
    try:
        with atomic_path(path) as temporary:
            complete = "SOPClassUID" in dataset and "SOPInstanceUID" in dataset
            dataset.save_as(temporary, enforce_file_format=complete)
    except OSError:
        raise
    except DAMAGE as error:
        raise ReadError(f"the file cannot be written ({type(error).__name__}); its header is damaged.") from None
    job.counts.update(+counts)
    return Cleaned(path, tuple(blanked), tuple(notes))


def _read(blob: Blob) -> Dataset:
    try:
        with blob.open() as file:
            dataset = parse(file, pixels=True)
        name_syntax(dataset)
    except DAMAGE as error:
        raise ReadError(f"{blob.name} is damaged DICOM ({type(error).__name__}); copy it again.") from None
    return dataset


def _refuse_documents(header: Dataset, modality: str) -> None:
    if get(header, "DirectoryRecordSequence") is not None:
        raise ReadError("the file is a DICOMDIR, a table of contents.")
    if get(header, "EncapsulatedDocument") is not None or get(header, "MIMETypeOfEncapsulatedDocument") is not None:
        raise ReadError("the file wraps a document (such as PDF), whose text cannot be cleaned.")
    if modality == "AU" or text(header, "SOPClassUID").startswith("1.2.840.10008.5.1.4.1.1.9.4"):
        raise ReadError("the file is a recording of sound, which cannot be cleaned.")
    if not text(header, "SOPClassUID") and get(header, "Rows") is None:
        raise ReadError("the file says not what it is, so it cannot be cleaned.")


def _notes(dataset: Dataset, risky: str, blanked: Sequence[str]) -> list[str]:
    notes = []
    if risky and not blanked:
        notes.append(f"passed on as asked, although {risky}")
    if "MOSAIC" in words(dataset, "ImageType") or get(dataset, (0x0065, 0x1050)) is not None:
        notes.append("a mosaic, whose slices only its private header places: it can no longer be read as a volume")
    if get(dataset, (0x2005, 0x100E)) is not None:
        notes.append("Philips' own scaling was private: values now read as displayed")
    if text(dataset, "Modality") == "PT":
        notes.append("PET: the patient's weight is removed, so SUV cannot be worked out any more")
    if "ContentSequence" in dataset:
        notes.append("a structured report: its texts and names are replaced; codes and numbers are kept")
    if "StructureSetROISequence" in dataset:
        notes.append("contours: their names are replaced by their numbers")
    if "WaveformSequence" in dataset:
        notes.append("a waveform is kept, and can be as personal as a face")
    if not any(name in dataset for name in PIXELS) and get(dataset, "Rows") is not None:
        notes.append("it has no pixel data")
    return notes


def _place(dataset: Dataset, who: str, blob: Blob, job: _Job) -> Path:
    """Return where a cleaned object goes, by its new names alone."""
    parts = [text(dataset, name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    if not parts[2]:
        parts[2] = job.pseudonyms.word("file", _digest(blob), 16)
    safe = [p if re.fullmatch(r"[A-Z0-9.-]{1,64}", p) else "unknown" for p in (who, *parts)]
    return job.target.joinpath(*safe[:3], f"{safe[3]}.dcm")


def _free(path: Path) -> Path:
    """Return the path, with a number where it is taken: copies of a file are kept as copies."""
    stem, suffix = path.name.split(".nii")[0].removesuffix(".dcm"), "".join(path.suffixes[-1:])
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else suffix
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}{suffix}")
    return path


def _digest(blob: Blob) -> str:
    digest = hashlib.sha256()
    with blob.open() as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
