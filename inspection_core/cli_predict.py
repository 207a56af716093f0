"""The command ``inspection predict``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inspection_core.cli_scans import Allow, allowed, chosen
from inspection_core.cli_serve import Ca, EngineUrl, TokenFile, chosen_engine
from inspection_core.errors import EngineError, InspectionError, UsageError, printable

if TYPE_CHECKING:
    from inspection_core.io.dicom_regions import By
    from inspection_core.io.dicom_seg import Kind

SHOWN = 20
"""Inputs up to which each gets a line."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("predict")(predict)


def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Images; NIfTI, NRRD or MetaImage; DICOM files; folders or zip archives.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Model folder, id of a model, or bundle:PATH.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder an input.")],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Further formats, with commas: nifti, png, coco, dicom-seg, dicom-sr, rtstruct, secondary-capture.",
        ),
    ] = "png",
    segments: Annotated[
        str | None,
        typer.Option(help="DICOM results: a region is a finding (unless they are very many) or a class."),
    ] = None,
    segmentation_type: Annotated[
        str, typer.Option("--segmentation-type", help="DICOM SEG: binary, fractional (confidence) or labelmap.")
    ] = "binary",
    series: Annotated[str | None, typer.Option(help="Id or number of the series, as `scan` lists them.")] = None,
    volume: Annotated[int | None, typer.Option(help="Which volume of the series, from 1.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SCAN", help="Which scan a channel is: a path, or a series' id or number."),
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Channel of a study whose grid is used; the first if not given.")
    ] = None,
    allow: Allow = None,
    suv: Annotated[bool, typer.Option("--suv", help="PET: standardised uptake values by body weight.")] = False,
    scaling: Annotated[str, typer.Option(help="Philips MR: precise or displayed values.")] = "precise",
    assume_mm: Annotated[
        bool, typer.Option("--assume-mm", help="Take a file that names no unit as millimetres.")
    ] = False,
    trust_bundle: Annotated[
        bool, typer.Option("--trust-bundle", help="Run the code that a bundle brings along. Read it first.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    engine: EngineUrl = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output."),
    ] = None,
) -> None:
    """Say what a model finds in images and scans: mask, score map and findings for each."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("predict", json) as result:
        from inspection_core.export import Job, check_fit, check_formats, write_results
        from inspection_core.infer import predict as run
        from inspection_core.inputs import Choices, list_inputs, open_input
        from inspection_core.io.dicom.options import Scaling
        from inspection_core.io.results import findings_json
        from inspection_core.io.study import Allowed
        from inspection_core.studies import for_channels, stacks

        wanted = check_formats([f.strip() for f in formats.split(",") if f.strip()])
        if segments not in (None, "finding", "class"):
            raise UsageError(f"--segments takes finding or class. Got {segments!r}.")
        if segmentation_type not in ("binary", "fractional", "labelmap"):
            raise UsageError(f"--segmentation-type takes binary, fractional or labelmap. Got {segmentation_type!r}.")
        if scaling not in ("precise", "displayed"):
            raise UsageError(f"--scaling takes precise or displayed. Got {scaling!r}.")
        choices = Choices(
            series,
            volume,
            cast("frozenset[Allowed]", allowed(allow)),
            suv,
            cast("Scaling", scaling),
            assume_mm,
            chosen(channel),
            grid,
        )
        listing = list_inputs(paths, choices)
        if not listing.inputs and not listing.refused:
            where = ", ".join(map(str, paths))
            raise UsageError(f"Found no PNG, JPEG, TIFF, BMP or WebP image, and no scan, in {where}.")
        models = chosen_engine(engine, token_file, ca, device)
        card = models.card(model, trust=trust_bundle)
        if card.preparation.view != "image":
            listing = stacks(listing)
        listing = for_channels(listing, card.channels, choices)
        inputs = listing.inputs
        check_fit(wanted, inputs)
        result.inputs.extend([*(i.label for i in inputs), *(label for label, _ in listing.refused)])
        for label, reason in listing.refused:
            result.fail(InspectionError(reason), label)
            say(f"inspection predict: {label}: {reason}")
        loaded = models.load(model, trust=trust_bundle) if inputs else None
        predictions = []
        with progress_bars() as show:
            for done, item in enumerate(inputs, start=1):
                try:
                    opened = open_input(item, card.channels, choices)
                    prediction = run(opened.image, cast("Any", loaded))
                    written = write_results(
                        Job(
                            out / item.name,
                            opened,
                            prediction,
                            card,
                            wanted,
                            cast("By | None", segments),
                            cast("Kind", segmentation_type.upper()),
                        )
                    )
                except EngineError:  # says nothing about this input, and would come for the others too
                    raise
                except InspectionError as error:
                    result.fail(error, item.label)
                    say(
                        f"inspection predict: {error}"
                        if item.kind == "picture"
                        else f"inspection predict: {item.label}: {error}"
                    )
                else:
                    result.outputs.extend(map(str, written.files))
                    entry = findings_json(prediction)
                    shown = {k: entry[k] for k in ("source", "image_score", "p_value", "verdict")}
                    if item.parts:
                        parts = zip(card.channels, item.parts, strict=True)
                        shown["channels"] = [{"name": c, "scan": p.words, "why": p.why} for c, p in parts]
                    predictions.append(shown)
                    result.warnings.extend(f"{item.label}: {w}" for w in (*prediction.warnings, *written.notes))
                    if len(inputs) <= SHOWN:
                        for warning in prediction.warnings:
                            say(f"note: {item.label}: {warning}")
                        show_prediction(
                            prediction,
                            card.task,
                            item.name if item.kind in ("dicom", "stack") or item.parts else item.files[0].name,
                        )
                show("predicting", done, len(inputs))
        result.extra["predictions"] = predictions
        what = "images" if all(i.kind == "picture" for i in inputs) else "inputs"
        console().print(f"{len(predictions)} of {len(result.inputs)} {what}: {out}")


def show_prediction(prediction: Any, task: str, name: str) -> None:
    """Print one line for an input: verdict in the words of its task, score, p-value, and findings."""
    from inspection_core.cli import console
    from inspection_core.report import WORDING

    p = "" if prediction.p_value is None else f"  p {prediction.p_value:.3g}"
    doubt = " (uncalibrated)" if any(not f.calibrated for f in prediction.findings) else ""
    console().print(
        f"{WORDING[task][prediction.verdict]:6}  score {prediction.image_score:.4g}{p}  "
        f"{len(prediction.findings)} findings{doubt}  {printable(name)}",
    )
