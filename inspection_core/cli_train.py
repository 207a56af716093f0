"""The command ``inspection train``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)


def train(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; see docs/train.md.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model; an interrupted run there goes on.")],
    fold: Annotated[
        int | None, typer.Option(help="Train this fold alone, from 0, so that several run side by side.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output."),
    ] = None,
) -> None:
    """Train a segmentation model from studies with reference masks."""
    from inspection_core.cli import console, outcome, progress_bars
    from inspection_core.cli_screen import stoppable

    with outcome("train", json) as result:
        from inspection_core.device import choose
        from inspection_core.training.config import read_config
        from inspection_core.training.run import RUNS
        from inspection_core.training.run import train as run

        result.inputs.append(str(configuration))
        config = read_config(configuration)
        with stoppable(), progress_bars() as bars:
            card = run(config, configuration.resolve().parent, out, choose(device), bars, only=fold)
        if card is None:
            console().print(f"Trained fold {fold}. Run the same command without --fold once all are done.")
            return
        result.outputs.append(str(out))
        result.extra = {"metrics": dict(card.metrics), "sha256": card.weights_sha256}
        figures = {k.removeprefix("crossfit_"): v for k, v in card.metrics.items() if k.startswith("crossfit_")}
        console().print(f"Wrote the model {card.id} to {out}; logs and checkpoints are in {out / RUNS}.")
        if figures:
            console().print(
                f"On {figures['patients']} patients, each segmented by a network that did not see it: "
                f"Dice mean {figures['dice_mean']:.3f}, median {figures['dice_median']:.3f}."
            )
