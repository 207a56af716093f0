"""The command ``inspection predict``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from inspection_core.cli_scans import ALLOWED
from inspection_core.errors import InspectionError, UsageError

SHOWN = 20
"""Inputs up to which each gets a line."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("predict")(predict)


def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Images; NIfTI, NRRD or MetaImage; DICOM files; folders or zip archives.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Model folder, or id of a model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder an input.")],
    formats: Annotated[
        str, typer.Option("--format", help="Further formats, with commas: nifti, png, coco, dicom-seg, dicom-sr.")
    ] = "png",
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write a machine-readable result here.")
    ] = None,
) -> None:
    """Say what a model finds in images and scans: mask, score map and findings for each."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("predict", json) as result:
        from inspection_core.card import ModelCard
        from inspection_core.engine import Engine, find
        from inspection_core.export import Job, check_fit, check_formats, write_results
        from inspection_core.infer import predict as run
        from inspection_core.inputs import Choices, for_channels, list_inputs, open_input
        from inspection_core.io.dicom.series import Override
        from inspection_core.io.dicom.volume import Scaling
        from inspection_core.io.results import findings_json

        wanted = check_formats([f.strip() for f in formats.split(",") if f.strip()])
        if unknown := [a for a in allow or () if a not in ALLOWED]:
            raise UsageError(f"--allow takes {', '.join(ALLOWED)}. Got {unknown[0]!r}.")
        if scaling not in ("precise", "displayed"):
            raise UsageError(f"--scaling takes precise or displayed. Got {scaling!r}.")
        choices = Choices(
            series, volume, frozenset(cast("list[Override]", allow or [])), suv, cast("Scaling", scaling), assume_mm
        )
        listing = list_inputs(paths, choices)
        if not listing.inputs and not listing.refused:
            where = ", ".join(map(str, paths))
            raise UsageError(f"Found no PNG, JPEG, TIFF, BMP or WebP image, and no scan, in {where}.")
        card = ModelCard.load(find(model))
        listing = for_channels(listing, card.channels)
        inputs = listing.inputs
        check_fit(wanted, inputs)
        result.inputs.extend([*(i.label for i in inputs), *(label for label, _ in listing.refused)])
        for label, reason in listing.refused:
            result.fail(InspectionError(reason), label)
            say(f"inspection predict: {label}: {reason}")
        loaded = Engine(device).load(model) if inputs else None
        predictions = []
        with progress_bars() as show:
            for done, item in enumerate(inputs, start=1):
                try:
                    opened = open_input(item, card.channels, choices)
                    prediction = run(opened.image, cast("Any", loaded))
                    written = write_results(Job(out / item.name, opened, prediction, card, wanted))
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
                    predictions.append({k: entry[k] for k in ("source", "image_score", "p_value", "verdict")})
                    result.warnings.extend(f"{item.label}: {w}" for w in (*prediction.warnings, *written.notes))
                    if len(inputs) <= SHOWN:
                        show_prediction(
                            prediction, card.task, item.name if item.kind == "dicom" else item.files[0].name
                        )
                show("predicting", done, len(inputs))
        result.extra["predictions"] = predictions
        what = "images" if all(i.kind == "picture" for i in inputs) else "inputs"
        console().print(f"{len(predictions)} of {len(result.inputs)} {what}: {out}")


def show_prediction(prediction: Any, task: str, name: str) -> None:
    """Print one line for an input: verdict in the words of its task, score, what the p-value means, findings."""
    from inspection_core.cli import console
    from inspection_core.report import WORDING

    p = "" if prediction.p_value is None else f"  p {prediction.p_value:.3g}"
    console().print(
        f"{WORDING[task][prediction.verdict]:6}  score {prediction.image_score:.4g}{p}  "
        f"{len(prediction.findings)} findings  {name}",
    )
