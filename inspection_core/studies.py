"""What a model of several channels takes, out of what was found: studies of several sequences, and files of one case.

Which scan is which channel is settled from headers and names, before any pixels are read or a model is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from inspection_core.cases import stacked
from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.inputs import Choices, Found, Input, Listing, bare, named, place_of, without_gz
from inspection_core.io.candidates import (
    Candidate,
    beside,
    canonical,
    case_of,
    dicom_candidates,
    file_candidate,
    sequence_of_file,
)
from inspection_core.io.study import check_choices, pick

_CHANNEL_FILE = re.compile(r"(.+)_(\d{4})(\.nii\.gz|\.nii|\.nrrd|\.mha)", re.IGNORECASE)


def for_channels(listing: Listing, channels: Sequence[str], choices: Choices | None = None) -> Listing:
    """Put together what a model with several channels takes.

    The DICOM series of one study become one input, each channel matched by its headers; and so do files of one case
    that are numbered (``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ...) or named after their sequence. Where the user
    chose a scan for a channel, all that is under the path is one study.

    Parameters
    ----------
    listing
        From `list_inputs`.
    channels
        Of the model's card, in order.
    choices
        Which scan is which channel, and whose grid is used.

    Returns
    -------
    Listing
        What lacks a channel is refused by the name of the channel.

    Raises
    ------
    UsageError
        If a choice is for none of the channels, or there are several paths that it may be for.
    """
    choices = choices or Choices()
    if len(channels) == 1:
        if choices.channel or choices.grid is not None:
            raise UsageError(f"--channel and --grid are for models of several channels. This one takes {channels[0]}.")
        return listing
    check_choices(channels, choices.channel, choices.grid)
    if choices.channel:
        return _chosen(listing, channels, choices)
    inputs: list[Input] = []
    refused = list(listing.refused)
    seen: set[Path] = set()
    for item in listing.inputs:
        if item.volume is not None:
            continue
        match = _CHANNEL_FILE.fullmatch(item.files[0].name) if item.kind == "scan" else None
        spoken = _spoken(item, channels) if match is None else []
        if match is None and not spoken:
            inputs.append(item)
            continue
        case = item.files[0].parent / (match[1] if match else case_of(item.files[0]).lower())
        if case in seen:
            continue
        seen.add(case)
        try:
            inputs.append(_numbered(item, channels) if match else _named_case(item, spoken, channels, choices))
        except InspectionError as error:
            refused.append((str(item.files[0].parent / (match[1] if match else case_of(item.files[0]))), str(error)))
    done = _studies(listing, channels, choices)
    gone = {label for entry in done.found for label in entry.refused}
    refused = [entry for entry in refused if entry[0] not in gone]
    return Listing(tuple(named([*inputs, *done.inputs])), (*refused, *done.refused))


def stacks(listing: Listing) -> Listing:
    """Put pictures that are the slices of a study, ``PATIENT_SLICE.png``, together as one input each.

    For models of volumes and of their slices. Other pictures stay as they are. A study that holds two pictures of one
    slice is refused.
    """
    pictures = [i for i in listing.inputs if i.kind == "picture"]
    studies = stacked([i.files[0] for i in pictures])
    study_of = {path: key for key, paths in studies.items() for path in paths}
    inputs: list[Input] = []
    refused = list(listing.refused)
    seen: set[tuple[Path, str]] = set()
    for item in listing.inputs:
        key = study_of.get(item.files[0]) if item.kind == "picture" else None
        if key is None:
            inputs.append(item)
        elif key not in seen:
            seen.add(key)
            paths, label = studies[key], str(key[0] / key[1])
            numbers = [int(p.stem.rpartition("_")[2]) for p in paths]
            if len(set(numbers)) < len(numbers):
                twice = next(n for n in numbers if numbers.count(n) > 1)
                refused.append((label, f"{key[1]} has two pictures of slice {twice}; keep one of each."))
            else:
                inputs.append(Input("stack", label, "", paths, None, item.given))
    return Listing(tuple(named(inputs)), tuple(refused), listing.found)


def _numbered(item: Input, channels: Sequence[str]) -> Input:
    """Return the case that a numbered file is part of."""
    match = _CHANNEL_FILE.fullmatch(item.files[0].name)
    case, _, suffix = match.groups() if match else ("", "", "")
    folder = item.files[0].parent
    files = tuple(folder / f"{case}_{k:04d}{suffix}" for k in range(len(channels)))
    missing = [f"{name} ({f.name})" for name, f in zip(channels, files, strict=True) if not f.is_file()]
    if missing:
        raise ReadError(
            f"{case} lacks {', '.join(missing)}; the model takes {_list(channels)}, numbered from 0000 in this order. "
            "Add it, or say which scan it is with --channel NAME=SCAN."
        )
    if (more := folder / f"{case}_{len(channels):04d}{suffix}").is_file():
        raise ReadError(
            f"{case} has {more.name} too, and the model takes {len(channels)} channels, {_list(channels)}, numbered "
            "from 0000 in this order. Take the others away, or say which scan is which with --channel NAME=SCAN."
        )
    parts = tuple(file_candidate(f, tuple(channels)) for f in files)
    return Input("scan", str(folder / f"{case}{suffix}"), case, files, None, item.given, parts)


def _spoken(item: Input, channels: Sequence[str]) -> list[Path]:
    """Return the files of the case, where this one is named after a channel's sequence and does not stand alone."""
    if item.kind != "scan" or sequence_of_file(item.files[0]) not in {canonical(c) for c in channels}:
        return []
    files = beside(item.files[0])
    return files if len(files) > 1 else []


def _named_case(item: Input, files: Sequence[Path], channels: Sequence[str], choices: Choices) -> Input:
    folder, case = item.files[0].parent, case_of(item.files[0])
    candidates = [file_candidate(f, tuple(channels)) for f in files]
    name = case.strip("_-. ") or bare(folder)
    return _study(str(folder / case), name, item.given, channels, candidates, choices)


def _study(
    label: str, name: str, given: Path, channels: Sequence[str], candidates: Sequence[Candidate], choices: Choices
) -> Input:
    """Return a study as an input, each channel matched or as chosen; see `inspection_core.io.study.pick`."""
    parts = pick(candidates, channels, choices.channel)
    home = parts[list(channels).index(choices.grid) if choices.grid is not None else 0]
    files = tuple(p.file for p in parts if p.file is not None) or (Path(label),)
    return Input("scan" if home.volume is None else "dicom", label, name, files, home.volume, given, parts)


def _chosen(listing: Listing, channels: Sequence[str], choices: Choices) -> Listing:
    """Take everything under the one path as one study, with the user's choices."""
    given = {i.given for i in listing.inputs} | {f.given for f in listing.found}
    if len(given) > 1:
        raise UsageError(f"--channel is for one study. Got {len(given)} paths; give one.")
    if not given:
        return listing
    path = given.pop()
    scans = [i.files[0] for i in listing.inputs if i.kind == "scan"]
    if path.is_file() and scans:
        scans = beside(path)
    candidates = [file_candidate(f, tuple(channels)) for f in scans]
    candidates += dicom_candidates([f.series for f in listing.found])
    series = {label for f in listing.found for label in f.refused}
    refused = [entry for entry in listing.refused if entry[0] not in series]
    try:
        study = _study(str(path), bare(Path(without_gz(path))), path, channels, candidates, choices)
    except ReadError as error:
        return Listing((), (*refused, (str(path), f"{error} The model takes {_list(channels)}.")))
    return Listing(tuple(named([study])), tuple(refused))


def _studies(listing: Listing, channels: Sequence[str], choices: Choices) -> Listing:
    """Return the DICOM studies; in `found` the series that they stand for.

    A study in which no sequence is recognised, but volumes with as many channels as the model takes, gives each of
    these as an input: films, colour pictures and series over time.
    """
    if not listing.found:
        return Listing()
    from inspection_core.io.dicom.series import short_id

    studies: dict[tuple[Path, str], list[Found]] = {}
    for entry in listing.found:
        studies.setdefault((entry.given, entry.series.file.study_uid), []).append(entry)
    names = {canonical(c) for c in channels}
    inputs: list[Input] = []
    refused: list[tuple[str, str]] = []
    found: list[Found] = []
    for (given, uid), entries in studies.items():
        volumes = {id(v) for e in entries for v in e.series.volumes}
        items = [i for i in listing.inputs if i.volume is not None and id(i.volume) in volumes]
        whole = [i for i in items if i.volume and len(i.volume.channels) * i.volume.file.samples == len(channels)]
        candidates = dicom_candidates([e.series for e in entries])
        if whole and not any(c.sequence in names for c in candidates):
            inputs += whole
            few = (
                f"Expected the {len(channels)} channels {_list(channels)}. Got a series that holds {{}}; leave it out."
            )
            refused += [
                (i.label, few.format(len(i.volume.channels) * i.volume.file.samples))
                for i in items
                if i.volume and i not in whole
            ]
            continue
        if not items:
            continue  # all of it is refused already
        place = Path(os.path.commonpath([place_of(e.series).absolute() for e in entries]))
        place = given if place == given.absolute() else place
        short = short_id(uid)
        label = str(place) if len(studies) == 1 else f"{place} (study {short})"
        try:
            name = f"{bare(place)}_{short}"
            inputs.append(_study(label, name, given, channels, candidates, choices))
            found += entries
        except InspectionError as error:
            refused.append((label, f"{error} The model takes {_list(channels)}."))
    return Listing(tuple(inputs), tuple(refused), tuple(found))


def _list(channels: Sequence[str]) -> str:
    return ", ".join(channels)
