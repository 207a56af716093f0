"""The command line: thin. Each command parses its options, calls one function, prints, and writes ``--json``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inspection_core import __version__, cli_models, cli_predict, cli_runs, cli_scans, cli_screen, cli_serve, cli_train
from inspection_core.errors import InspectionError, UsageError, printable

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
STDOUT = (Path("-"), Path("/dev/stdout"))
"""What ``--json`` takes for standard output, which then holds nothing else."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find what is wrong in images: fit a detector on good ones, screen the rest, defend the result. "
    "For research and inspection; not a medical device.",
)
models_app = typer.Typer(no_args_is_help=True, help="Models: list them, show a card, get or add one.")
app.add_typer(models_app, name="models")
cli_models.register(models_app)
cli_scans.register(app)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output.")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
ModelName = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Model folder, or id of a model.")]


@dataclasses.dataclass
class Outcome:
    """What a command reports; the shared part of every ``--json`` file."""

    command: str
    json_path: Path | None
    status: str = "ok"
    inputs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    errors: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def fail(self, error: BaseException, path: Path | str | None = None) -> None:
        """Record an error; the command will exit with status 1, or 2 if the usage was bad."""
        self.errors.append(
            {"path": None if path is None else str(path), "type": type(error).__name__, "message": str(error)}
        )
        self.status = "failed"

    def write(self) -> None:
        """Write the ``--json`` file, if one was asked for."""
        if self.json_path is None:
            return
        from inspection_core.io.atomic import write_text
        from inspection_core.io.results import dump

        data = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        del data["json_path"]
        own = data.pop("extra")
        text = dump({**data, **own})
        if self.json_path in STDOUT:
            print(text, end="", flush=True)
        elif self.json_path.exists() and not (self.json_path.is_file() or self.json_path.is_dir()):
            with self.json_path.open("w", encoding="utf-8") as pipe:  # a name in its place would be another file
                pipe.write(text)
        else:
            write_text(self.json_path, text)


@contextlib.contextmanager
def outcome(command: str, json_path: Path | None) -> Iterator[Outcome]:
    """Run a command's body: a user's error becomes one line and an exit status, and the JSON is written either way."""
    result = Outcome(command, json_path)
    code = 0
    try:
        with contextlib.redirect_stdout(sys.stderr) if json_path in STDOUT else contextlib.nullcontext():
            yield result
    except InspectionError as error:
        result.fail(error)
        say(f"inspection {command}: {error}")
        code = 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # who reads the output has gone, as in `| head`
        raise
    except OSError as error:
        # pydicom raises such an error anew, with a traceback for its text; the first one is clear.
        while error.errno is None and isinstance(error.__cause__ or error.__context__, OSError):
            error = cast("OSError", error.__cause__ or error.__context__)
        place, why = error.filename or "a file", error.strerror or type(error).__name__
        failure = OSError(printable(f"{place} cannot be written or read: {why}. Check space and permissions."))
        result.fail(failure, error.filename)
        say(f"inspection {command}: {failure}")
        code = 1
    except KeyboardInterrupt as error:
        result.fail(KeyboardInterrupt("stopped by the user"))
        where = f" {error}" if str(error) else ""
        goes_on = command in ("screen", "watch", "train")
        say(f"inspection {command}: stopped{where}.{' Run the same command again to go on.' if goes_on else ''}")
        code = 130
    try:
        result.write()
    except OSError as error:
        say(f"inspection {command}: --json {json_path} cannot be written: {error.strerror}.")
        code = code or 1
    if code or result.status != "ok":
        raise typer.Exit(code or 1)


def say(text: str) -> None:
    """Print one line for the user on standard error, whatever a file's name holds."""
    print(printable(" ".join(text.splitlines())), file=sys.stderr, flush=True)


def console() -> Console:
    """Return the console for results, on standard output; brackets in a file's name are no markup."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for each stage on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def version_line(value: bool) -> None:
    """Print the version and stop, for ``--version``."""
    if value:
        print(f"inspection-suite {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=version_line, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="Folder of good images, or an MVTec-style folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model.")],
    preset: Annotated[str, typer.Option(help="fast or accurate.")] = "accurate",
    architecture: Annotated[
        str | None, typer.Option(help="patch-memory or a third party's, in place of the preset's.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm network, in place of the preset's.")] = None,
    backbone_weights: Annotated[Path | None, typer.Option(help="Local file with the backbone's weights.")] = None,
    max_false_alarms: Annotated[float, typer.Option(help="Share of good parts that may be called NG.")] = 0.05,
    shots: Annotated[int | None, typer.Option(help="Take only so many of the images.")] = None,
    smallest_defect: Annotated[
        float | None, typer.Option(metavar="PIXELS", help="Smallest defect that matters.")
    ] = None,
    device: DeviceName = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    json: Json = None,
) -> None:
    """Make an anomaly model from good images."""
    with outcome("fit", json) as result:
        from inspection_core import learn
        from inspection_core.io.results import finite
        from inspection_core.threshold import cuts

        result.inputs.append(str(folder))
        with progress_bars() as show:
            fitted = learn.fit(
                folder,
                out,
                preset=preset,
                architecture=architecture,
                backbone=backbone,
                backbone_weights=backbone_weights,
                max_false_alarms=max_false_alarms,
                shots=shots,
                smallest_defect=smallest_defect,
                device=device,
                seed=seed,
                progress=show,
            )
        result.outputs.append(str(out))
        result.warnings.extend(fitted.warnings)
        training = fitted.card.training
        result.extra = {
            "model": {"id": fitted.card.id, "version": fitted.card.version, "sha256": fitted.card.weights_sha256},
            "n_good": training["images"],
            "suspects": list(fitted.suspects),
            "threshold": finite(cuts(fitted.card.policy, fitted.card.calibration).ng),
            "seconds": dict(fitted.seconds),
        }
        for warning in fitted.warnings:
            say(f"note: {warning}")
        console().print(
            f"Model {fitted.card.id} from {training['images']} good images in "
            f"{sum(fitted.seconds.values()):.1f} s: {out}",
            f"Next: inspection screen FOLDER --model {out} --out RUN",
            sep="\n",
        )


cli_predict.register(app)
cli_train.register(app)


cli_screen.register(app)
cli_runs.register(app)


def show_counts(counts: dict[str, int]) -> str:
    """Return one line on how many images came out how."""
    return ", ".join(f"{n} {name}" for name, n in counts.items()) + f" of {sum(counts.values())} images"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, or id of a model.")],
    dataset: Annotated[
        Path,
        typer.Argument(
            help="MVTec-style folder: test/good, test/DEFECT, ground_truth/DEFECT. For models that segment: images and "
            "masks, as CASE.nii.gz, as images/CASE_0000.nii.gz one file a channel, or as PATIENT_SLICE.png."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for a row an image; scans: a report.")] = None,
    device: DeviceName = "auto",
    json: Json = None,
) -> None:
    """Measure a model against ground truth."""
    with outcome("evaluate", json) as result:
        from inspection_core import evaluate as anomaly
        from inspection_core import evaluate_segmentation as segmentation
        from inspection_core.engine import Engine

        result.inputs.append(str(dataset))
        loaded = Engine(device).load(model)
        names: tuple[str, ...] = ("evaluation.csv",)
        with progress_bars() as show:
            if loaded.card.task == "segmentation":
                names = ("evaluation.csv", "findings.csv", "reliability.svg", "report.html")
                command = f"inspection evaluate {model} {dataset}"
                figures = segmentation.evaluate(
                    loaded, dataset, out=out, command=command, progress=lambda n, total: show("evaluating", n, total)
                )
            else:
                figures = anomaly.evaluate(
                    loaded, dataset, out=out, progress=lambda n, total: show("evaluating", n, total)
                )
        table = segmentation.table if loaded.card.task == "segmentation" else anomaly.table
        if out is not None:
            result.outputs.extend(str(out / name) for name in names)
        result.errors.extend(figures.pop("errors"))
        if result.errors:  # what was measured is shown; a script is not to take it for the whole dataset
            result.status = "failed"
        for error in result.errors:
            say(f"inspection evaluate: {error['path']}: {error['message']}")
        result.warnings.extend(figures.pop("warnings"))
        result.extra = figures
        for warning in result.warnings:
            say(f"note: {warning}")
        console().print(table(figures))


@models_app.command("list")
def models_list(
    folder: Annotated[Path, typer.Argument(help="Folder to search for models besides those that come along.")] = Path(),
    json: Json = None,
) -> None:
    """List the models that come with the suite and those below a folder."""
    with outcome("models list", json) as result:
        from rich.table import Table

        from inspection_core.engine import EMBEDDED_CARDS, list_models

        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder. Give a folder that holds models, or none for the current one.")
        table = Table(box=None)
        for title in ("id", "version", "task"):
            table.add_column(title, no_wrap=True)
        for title in ("good images", "folder"):
            table.add_column(title, overflow="fold")  # broken over lines where room is short, and never cut
        models, licences = [], []
        for place, card in list_models(folder):
            if isinstance(card, InspectionError):
                result.warnings.append(str(card))
                say(f"note: {card}")
                continue
            count = str(card.training.get("images", ""))
            shown = "comes along" if place.is_relative_to(EMBEDDED_CARDS) else printable(str(place))
            table.add_row(card.id, card.version, card.task, count, shown)
            if card.licence:
                licences.append(f"Licence of {card.id}: {printable(card.licence)}")
            models.append(
                {
                    "id": card.id,
                    "version": card.version,
                    "architecture": card.architecture,
                    "task": card.task,
                    "licence": card.licence,
                    "folder": str(place),
                }
            )
        result.extra["models"] = models
        if models:
            console().print(table, *licences, sep="\n")
        else:
            console().print(f"No model in {folder.resolve()}. Make one: inspection fit FOLDER --out MODEL")


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Model folder, or id of a model.")], json: Json = None
) -> None:
    """Show a model's card."""
    with outcome("models show", json) as result:
        from inspection_core.engine import Engine, find
        from inspection_core.io.results import finite_in
        from inspection_core.threshold import cuts

        folder = find(model)
        card = Engine("cpu").card(model)
        result.inputs.append(str(folder))
        result.extra["card"] = finite_in(card.to_dict())  # an open end of a range is infinite
        # Hundreds of calibration scores say less than their cuts, and the matrix of an input check says nothing.
        known = card.calibration.inputs
        inputs = dataclasses.replace(known, features=(), centre=(), whitening=())
        calibration = dataclasses.replace(card.calibration, scores=(), peaks=(), inputs=inputs)
        short = dataclasses.replace(card, calibration=calibration)
        cut = cuts(card.policy, card.calibration)
        console().print(short.to_toml())
        if card.calibration.scores:
            console().print(f"# calibrated on {len(card.calibration.scores)} good images")
        if known.features:
            console().print(f"# input check: {len(known.features)} figures of {known.images} studies; all with --json")
        console().print(f"# NG above {cut.ng:.4g}, REVIEW above {cut.review:.4g}")


cli_serve.register(app)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model, results and report.")] = Path(
        "demo-output"
    ),
    preset: Annotated[str, typer.Option(help="fast or accurate.")] = "accurate",
    open_report: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = True,
    device: DeviceName = "auto",
    json: Json = None,
) -> None:
    """Do the main job on real solar cells, then segment a synthetic head and, with INSPECTION_DATA, a real one."""
    with outcome("demo", json) as result:
        from inspection_core.demo import demo as run
        from inspection_core.demo_scans import demo_scans

        with progress_bars() as show:
            done = run(out, preset=preset, device=device, say=say, progress=show)
        result.extra = done.figures
        console().print(*done.lines, sep="\n")
        with progress_bars() as show:
            scans = demo_scans(out, device=device, say=say, progress=show)
        console().print(*scans.lines, sep="\n")
        result.outputs.extend(map(str, (*done.outputs, *scans.outputs)))
        result.warnings.extend((*done.warnings, *scans.warnings))
        for warning in result.warnings:
            say(f"note: {warning}")
        if open_report and done.open_in_browser():
            say("The report is open in your browser.")


@app.command()
def doctor(json: Json = None) -> None:
    """Say what this machine can do, and what is missing."""
    with outcome("doctor", json) as result:
        from rich.table import Table
        from rich.text import Text

        from inspection_core.doctor import examine

        checks = examine()
        result.extra["checks"] = [dataclasses.asdict(c) for c in checks]
        table = Table("", "what", "found", "what to do", box=None)
        for check in checks:
            mark = {"ok": ("yes", "green"), "missing": ("no", "yellow"), "broken": ("NO", "red")}[check.state]
            table.add_row(Text(*mark), check.name, check.found, check.advice)
        console().print(table)
        if any(c.state == "broken" for c in checks):
            result.status = "failed"


def main() -> None:
    """Entry point of the ``inspection`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
