"""The commands ``inspection models get``, ``add`` and ``export``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``inspection models``."""
    app.command("get")(get)
    app.command("add")(add)
    app.command("export")(export)


def get(
    name: Annotated[str, typer.Argument(help="Bundle in MONAI's model zoo, such as spleen_ct_segmentation.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the archive.")] = Path("models"),
    version: Annotated[str, typer.Option("--version", metavar="V", help="The newest if not given.")] = "",
    index: Annotated[str, typer.Option(metavar="URL", help="The zoo's list, where it is not MONAI's own.")] = "",
    json: Json = None,
) -> None:
    """Download a MONAI bundle: whole and with the published hash, or not at all. A broken download goes on."""
    from inspection_core.cli import console, outcome, progress_bars

    with outcome("models get", json) as result:
        from inspection_core import zoo

        result.inputs.append(name)
        with progress_bars() as show:
            path, entry = zoo.get(
                name,
                out,
                version=version,
                index=index or zoo.INDEX,
                progress=lambda done, total: show("downloading", done, max(done, total)),
            )
        result.outputs.append(str(path))
        result.extra["bundle"] = {
            "name": entry.name,
            "version": entry.version,
            "source": entry.source,
            "sha1": entry.sha1,
        }
        console().print(
            f"{entry.name} {entry.version}: {path}",
            f"Read its card: inspection models show bundle:{path}",
            f"Next: inspection predict SCAN --model bundle:{path} --out results",
            sep="\n",
        )


def add(
    file: Annotated[Path, typer.Argument(help="Network: .ts or .pt (TorchScript), .onnx, or .xml with its .bin.")],
    card: Annotated[Path, typer.Option("--card", help="The model's card, a TOML file; see docs/add-a-model.md.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model.")],
    json: Json = None,
) -> None:
    """Make a model folder of a network's file and a card: the file is checked against the card, and its hash noted."""
    from inspection_core.cli import console, outcome

    with outcome("models add", json) as result:
        from inspection_core.card import ModelCard
        from inspection_core.errors import UsageError
        from inspection_core.models.exported import make

        result.inputs.extend([str(file), str(card)])
        for given in (file, card):
            if not given.is_file():
                raise UsageError(f"{given} is no file. Give a network's file, and a card with --card.")
        if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
            raise UsageError(f"{out} is not empty. Give a new folder with --out.")
        made = make(out, ModelCard.from_toml(card.read_text(encoding="utf-8"), str(card)), file)
        result.outputs.append(str(out))
        result.extra["model"] = {"id": made.id, "version": made.version, "sha256": made.weights_sha256}
        console().print(f"Model {made.id} ({made.architecture}): {out}")


def export(
    model: Annotated[str, typer.Argument(help="Model folder, or id of a model.")],
    to: Annotated[str, typer.Option("--to", help="onnx, openvino, torchscript, or edge: with a runner of its own.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for the exported model; MODEL-TO here, if not given.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Real images or scans that both are compared on; those of the fit where they still are, if not given.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 (openvino) or int8.")] = "fp32",
    calibrate: Annotated[
        list[Path] | None,
        typer.Option("--calibrate", help="Good images for int8; those of the fit where they still are, if not given."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest difference of a score that is let through; by the precision if not given."),
    ] = None,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Keep an export that differs by more; its card says so.")
    ] = False,
    json: Json = None,
) -> None:
    """Write a model in another form, compare both on real images, and keep it only if they agree."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("models export", json) as result:
        from inspection_core.engine import Engine
        from inspection_core.export_model import REPORT
        from inspection_core.export_model import export as run
        from inspection_core.export_model.parity import megabytes

        result.inputs.extend([model, *map(str, images or ())])
        loaded = Engine("cpu").load(model)
        out = out or Path("-".join([loaded.folder.name, to, *([precision] if precision != "fp32" else [])]))
        with progress_bars() as show:
            done = run(
                loaded,
                to,
                out,
                images or (),
                precision=precision,
                calibrate=calibrate or (),
                tolerance=tolerance,
                allow_difference=allow_difference,
                progress=lambda n, total: show("comparing", n, total),
            )
        result.outputs.append(str(out))
        result.warnings.extend(done.warnings)
        for warning in done.warnings:
            say(f"note: {warning}")
        worst = max(row.score for row in done.compared)
        other = sum(row.verdicts[0] != row.verdicts[1] for row in done.compared)
        result.extra["parity"] = {"images": len(done.compared), "score_difference": worst, "other_verdicts": other}
        console().print(
            f"{out}: scores differ by at most {worst:.2g} on {len(done.compared)} images, {other} verdicts differ; "
            f"{megabytes(out):.1f} MB, the original {megabytes(loaded.folder):.1f} MB",
            f"Report: {out / REPORT}",
            sep="\n",
        )
