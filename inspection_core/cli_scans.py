"""Commands on scans: ``scan``, ``convert`` and ``deidentify``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from inspection_core.errors import UsageError

Json = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output.")
]
ALLOWED = ("gaps", "irregular", "duplicates", "frames")
Allow = Annotated[
    list[str] | None,
    typer.Option(help="gaps, irregular or duplicates: load it all the same; frames: take several as one world."),
]
AllowGaps = Annotated[bool, typer.Option("--allow-gaps", help="The same as --allow gaps.")]
AllowIrregular = Annotated[bool, typer.Option("--allow-irregular", help="The same as --allow irregular.")]
AllowDuplicates = Annotated[bool, typer.Option("--allow-duplicates", help="The same as --allow duplicates.")]
LIMIT = "faces are not removed, and text in pixels is blanked only where you said so; look at the results."


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("scan")(scan)
    app.command("convert")(convert)
    app.command("deidentify")(deidentify)


def scan(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="DICOM file, folder, DICOMDIR or zip archive; NIfTI, NRRD, MetaImage."),
    ],
    allow: Allow = None,
    allow_gaps: AllowGaps = False,
    allow_irregular: AllowIrregular = False,
    allow_duplicates: AllowDuplicates = False,
    json: Json = None,
) -> None:
    """List the series under paths, and say in plain words what is wrong with each."""
    from inspection_core.cli import console, outcome, progress_bars

    with outcome("scan", json) as result:
        from inspection_core.io.dicom.options import Override
        from inspection_core.scan import scan as run

        result.inputs.extend(str(path) for path in paths)
        allow_set = allowed(allow, gaps=allow_gaps, irregular=allow_irregular, duplicates=allow_duplicates)
        with progress_bars() as show:
            report = run(
                paths,
                lambda done, total: show("headers", done, total),
                cast("frozenset[Override]", allow_set - {"frames"}),
            )
        result.extra = report.to_dict()
        console().print("\n".join(report.lines()) or "No image was found.", markup=False)


def convert(
    source: Annotated[
        Path, typer.Argument(help="DICOM file, folder, DICOMDIR or zip archive; NIfTI, NRRD, MetaImage.")
    ],
    target: Annotated[Path, typer.Argument(help="File ending in .nii.gz, .nii, .nrrd, .mha or .mhd; or a folder.")],
    series: Annotated[str | None, typer.Option(help="Id or number of the series, as `scan` lists them.")] = None,
    volume: Annotated[int | None, typer.Option(help="Which volume of the series, from 1.")] = None,
    allow: Allow = None,
    allow_gaps: AllowGaps = False,
    allow_irregular: AllowIrregular = False,
    allow_duplicates: AllowDuplicates = False,
    channels: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Several sequences as one file on one grid, such as t1,t1c,t2,flair."),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SCAN", help="Which scan a channel is: a path, or a series' id or number."),
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Channel whose grid is used; the first if not given.")] = None,
    suv: Annotated[bool, typer.Option("--suv", help="PET: standardised uptake values by body weight.")] = False,
    scaling: Annotated[str, typer.Option(help="Philips MR: precise or displayed values.")] = "precise",
    assume_mm: Annotated[
        bool, typer.Option("--assume-mm", help="Take a file that names no unit as millimetres.")
    ] = False,
    json: Json = None,
) -> None:
    """Convert scans to NIfTI, NRRD or MetaImage, with the geometry kept."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("convert", json) as result:
        from inspection_core.convert import convert as run
        from inspection_core.convert import convert_study
        from inspection_core.io.dicom.options import Override, Scaling
        from inspection_core.io.study import Allowed

        result.inputs.append(str(source))
        allow_set = allowed(allow, gaps=allow_gaps, irregular=allow_irregular, duplicates=allow_duplicates)
        if scaling not in ("precise", "displayed"):
            raise UsageError(f"--scaling takes precise or displayed. Got {scaling!r}.")
        if channels is None and (channel or grid):
            raise UsageError("--channel and --grid go with --channels, such as --channels t1,t1c,t2,flair.")
        if channels is not None and (series is not None or volume is not None or suv):
            raise UsageError("--channels finds its series itself: say --channel NAME=SERIES in place of --series.")
        with progress_bars() as show:
            if channels is not None:
                done = convert_study(
                    source,
                    target,
                    [name.strip() for name in channels.split(",")],
                    choices=chosen(channel),
                    grid=grid,
                    allow=cast("frozenset[Allowed]", allow_set),
                    scaling=cast("Scaling", scaling),
                    assume_mm=assume_mm,
                    progress=lambda n, total: show("channels", n, total),
                )
            else:
                done = run(
                    source,
                    target,
                    series=series,
                    volume=volume,
                    allow=cast("frozenset[Override]", allow_set - {"frames"}),
                    suv=suv,
                    scaling=cast("Scaling", scaling),
                    assume_mm=assume_mm,
                    progress=lambda n, total: show("volumes", n, total),
                )
        if done.matches:
            result.extra = {"channels": [{"name": m.channel, "scan": m.scan, "why": m.why} for m in done.matches]}
        result.outputs.extend(str(p) for p in done.outputs)
        result.warnings.extend(f"{name}: {note}" for name, note in done.notes)
        for name, message in done.errors:
            result.errors.append({"path": name, "type": "ReadError", "message": message})
            say(f"not converted: {name}: {message}")
            result.status = "failed"
        for warning in result.warnings:
            say(f"note: {warning}")
        for path in done.outputs:
            console().print(str(path), markup=False)


def allowed(listed: list[str] | None, **flags: bool) -> frozenset[str]:
    """Return what ``--allow`` names, and the flags that are set; or say which word is unknown."""
    if unknown := [a for a in listed or () if a not in ALLOWED]:
        raise UsageError(f"--allow takes {', '.join(ALLOWED)}. Got {unknown[0]!r}.")
    return frozenset([*(listed or ()), *(name for name, given in flags.items() if given)])


def chosen(listed: list[str] | None) -> dict[str, str]:
    """Return ``{channel: scan}`` of ``--channel NAME=SCAN``; or say what is wrong with one."""
    choices = {}
    for entry in listed or ():
        name, found, scan_of = entry.partition("=")
        if not found or not name.strip() or not scan_of.strip():
            raise UsageError(f"--channel takes NAME=SCAN, such as t1c=7. Got {entry!r}.")
        choices[name.strip()] = scan_of.strip()
    return choices


def deidentify(
    source: Annotated[Path, typer.Argument(help="DICOM or NIfTI: file, folder, DICOMDIR or zip archive.")],
    target: Annotated[Path, typer.Argument(help="New folder for the results.")],
    key: Annotated[
        Path | None, typer.Option(help="Key file of an earlier run, for the same names, UIDs and dates.")
    ] = None,
    new_key: Annotated[Path | None, typer.Option("--new-key", help="Make a key file, and use it.")] = None,
    blank: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y,W,H", help="Region to set to black, in pixels; US:X,Y,W,H for one modality."),
    ] = None,
    blank_around_ultrasound: Annotated[
        bool, typer.Option("--blank-around-ultrasound", help="Blank outside the regions that the scanner names.")
    ] = False,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Pass on images that may have text in their pixels.")
    ] = False,
    json: Json = None,
) -> None:
    """Write scans anew without what leads to their patients (DICOM PS3.15 Annex E, basic profile)."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("deidentify", json) as result:
        from inspection_core.deidentify import deidentify as run
        from inspection_core.deidentify import prepare_key
        from inspection_core.io.dicom.blank import parse_region

        result.inputs.append(str(source))
        regions = [parse_region(b) for b in blank or ()]
        pseudonyms, warnings = prepare_key(key, new_key, source, target)
        with progress_bars() as show:
            done = run(
                source,
                target,
                pseudonyms=pseudonyms,
                regions=regions,
                ultrasound=blank_around_ultrasound,
                allow_burned_in=allow_burned_in,
                progress=lambda n, total: show("files", n, total),
            )
        result.outputs.extend(str(p) for p in done.outputs)
        result.warnings.extend([*warnings, *done.notes])
        result.extra = {"report": done.to_dict(), "skipped": [{"path": p, "reason": r} for p, r in done.skipped]}
        for name, message in done.errors:
            result.errors.append({"path": name, "type": "ReadError", "message": message})
            say(f"not passed on: {name}: {message}")
            result.status = "failed"
        for name, reason in done.skipped:
            say(f"skipped: {name}: {reason}")
        for warning in result.warnings:
            say(f"note: {warning}")
        say(f"note: {LIMIT}")
        console().print("\n".join(done.lines()), markup=False)
