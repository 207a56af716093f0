"""Commands on scans: ``scan``, ``convert`` and ``deidentify``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from inspection_core.errors import UsageError

Json = Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Write a machine-readable result here.")]
ALLOWED = ("gaps", "irregular", "duplicates")
LIMIT = "faces are not removed, and text in pixels is blanked only where you said so; look at the results."


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("scan")(scan)
    app.command("convert")(convert)
    app.command("deidentify")(deidentify)


def scan(
    path: Annotated[Path, typer.Argument(help="DICOM file, folder, DICOMDIR or zip archive; NIfTI, NRRD, MetaImage.")],
    json: Json = None,
) -> None:
    """List the series under a path, and say in plain words what is wrong with each."""
    from inspection_core.cli import console, outcome, progress_bars

    with outcome("scan", json) as result:
        from inspection_core.scan import scan as run

        result.inputs.append(str(path))
        with progress_bars() as show:
            report = run(path, lambda done, total: show("headers", done, total))
        result.extra = report.to_dict()
        console().print("\n".join(report.lines()) or "No image was found.", markup=False)


def convert(
    source: Annotated[
        Path, typer.Argument(help="DICOM file, folder, DICOMDIR or zip archive; NIfTI, NRRD, MetaImage.")
    ],
    target: Annotated[Path, typer.Argument(help="File ending in .nii.gz, .nii, .nrrd, .mha or .mhd; or a folder.")],
    series: Annotated[str | None, typer.Option(help="Id or number of the series, as `scan` lists them.")] = None,
    volume: Annotated[int | None, typer.Option(help="Which volume of the series, from 1.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="gaps, irregular or duplicates: load it all the same.")
    ] = None,
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
        from inspection_core.io.dicom.series import Override
        from inspection_core.io.dicom.volume import Scaling

        result.inputs.append(str(source))
        if unknown := [a for a in allow or () if a not in ALLOWED]:
            raise UsageError(f"--allow takes {', '.join(ALLOWED)}. Got {unknown[0]!r}.")
        if scaling not in ("precise", "displayed"):
            raise UsageError(f"--scaling takes precise or displayed. Got {scaling!r}.")
        with progress_bars() as show:
            done = run(
                source,
                target,
                series=series,
                volume=volume,
                allow=frozenset(cast("list[Override]", allow or [])),
                suv=suv,
                scaling=cast("Scaling", scaling),
                assume_mm=assume_mm,
                progress=lambda n, total: show("volumes", n, total),
            )
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
