"""The commands ``inspection models get``, ``add`` and ``export``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Write a machine-readable result here.")]


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
    model: Annotated[str, typer.Argument(help="Model folder, or id of a model, that segments slices or volumes.")],
    to: Annotated[str, typer.Option("--to", help="onnx, openvino or torchscript.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the exported model.")],
    images: Annotated[list[Path], typer.Option("--images", help="Real images or scans that both are compared on.")],
    tolerance: Annotated[float, typer.Option(help="Largest difference of any score that is let through.")] = 1e-3,
    json: Json = None,
) -> None:
    """Write a model in another form, compare both on real images, and keep it only if they agree."""
    from inspection_core.cli import console, outcome, progress_bars, say

    with outcome("models export", json) as result:
        from inspection_core.engine import Engine
        from inspection_core.export_model import REPORT
        from inspection_core.export_model import export as run

        result.inputs.extend([model, *map(str, images)])
        with progress_bars() as show:
            done = run(
                Engine("cpu").load(model),
                to,
                out,
                images,
                tolerance=tolerance,
                progress=lambda n, total: show("comparing", n, total),
            )
        result.outputs.append(str(out))
        result.warnings.extend(done.warnings)
        for warning in done.warnings:
            say(f"note: {warning}")
        worst = max(row.score for row in done.compared)
        result.extra["parity"] = {"images": len(done.compared), "score_difference": worst}
        console().print(
            f"{out}: scores differ by at most {worst:.2g} on {len(done.compared)} images",
            f"Report: {out / REPORT}",
            sep="\n",
        )
