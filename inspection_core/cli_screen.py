"""The commands ``screen`` and ``watch``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inspection_core.cli_scans import Allow, allowed, chosen
from inspection_core.cli_serve import Ca, EngineUrl, TokenFile, chosen_engine
from inspection_core.errors import UsageError

if TYPE_CHECKING:
    from inspection_core.session import Options

Json = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Machine-readable result; - is standard output.")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
ModelName = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Model folder, or id of a model.")]
RunOut = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; continued if it is there.")]
Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Record the run here, such as postgresql://user@host/name; else RUN/run.db."),
]
RunFormats = Annotated[
    str,
    typer.Option(
        "--format",
        help="Besides CSV and Parquet, with commas: jsonl, coco, masks, reviews, and those of predict, a folder each.",
    ),
]
KeptPictures = Annotated[
    str,
    typer.Option(help="Pictures for the report: all, flagged (not OK), none; auto: all of up to 5,000 inputs."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("screen")(screen)
    app.command("watch")(watch)


def screen(
    folder: Annotated[Path, typer.Argument(help="Folder of images or scans, searched to any depth.")],
    model: ModelName,
    out: RunOut,
    formats: RunFormats = "",
    pictures: KeptPictures = "auto",
    database: Database = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on this Ray cluster; auto: the one this machine is in.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="With --ray: most actors; as many as there is room for.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SCAN", help="Which scan a channel is: a path, or a series' id or number."),
    ] = None,
    allow: Allow = None,
    suv: Annotated[bool, typer.Option("--suv", help="PET: standardised uptake values by body weight.")] = False,
    assume_mm: Annotated[
        bool, typer.Option("--assume-mm", help="Take a file that names no unit as millimetres.")
    ] = False,
    device: DeviceName = "auto",
    engine: EngineUrl = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = None,
) -> None:
    """Put a whole folder through a model: results.csv, results.parquet and report.html. Resumes where it stopped."""
    from inspection_core.cli import console, outcome, progress_bars, show_counts

    with outcome("screen", json) as result:
        from inspection_core.inputs import Choices
        from inspection_core.io.study import Allowed
        from inspection_core.screen import screen as run

        result.inputs.append(str(folder))
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder. Give a folder of images; for single images use predict.")
        choices = Choices(
            allow=cast("frozenset[Allowed]", allowed(allow)), suv=suv, assume_mm=assume_mm, channel=chosen(channel)
        )
        options = options_of(formats, pictures, database, choices)
        if workers is not None and (ray is None or workers < 1):
            raise UsageError("--workers is the number of actors with --ray, 1 or more.")
        if ray is not None and engine is not None:
            raise UsageError("--ray brings the model to every worker; --engine asks a server. Give one of them.")
        loaded = chosen_engine(engine, token_file, ca, "cpu" if ray is not None else device).load(model)
        elsewhere = None
        if ray is not None:
            from inspection_core.cluster import on_ray

            elsewhere = on_ray(ray, device=device, workers=workers)
        with stoppable(), progress_bars() as show:
            done = run(
                folder,
                loaded,
                out,
                command=command_line(),
                progress=lambda n, total: show("screening", n, total),
                options=options,
                elsewhere=elsewhere,
            )
        result.outputs.extend(map(str, done.outputs))
        result.errors.extend({"path": path, "type": "ReadError", "message": why} for path, why in done.failures)
        result.warnings.extend(done.warnings)
        result.extra = {"counts": done.counts, "new": done.new, "seconds": done.seconds}
        if done.counts["failed"] and done.counts["failed"] == sum(done.counts.values()):
            result.status = "failed"
        console().print(show_counts(done.counts), f"Report: {out / 'report.html'}", sep="\n")


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that images come into.")],
    model: ModelName,
    out: RunOut,
    publish: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHERE", help="jsonl:FILE, folder:DIR, http(s)://URL or mqtt://HOST/TOPIC; may be repeated."
        ),
    ] = None,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", help="A file that nobody closes is complete when it rests so long.")
    ] = 0.5,
    poll: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For network drives: look so often, as the system tells nothing there."),
    ] = None,
    idle: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End when nothing has come for so long; else with Ctrl-C.")
    ] = None,
    formats: RunFormats = "",
    pictures: KeptPictures = "flagged",
    database: Database = None,
    device: DeviceName = "auto",
    engine: EngineUrl = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = None,
) -> None:
    """Do each image that comes into a folder as soon as its file is complete, and tell others its result."""
    from inspection_core.cli import console, outcome, say, show_counts

    with outcome("watch", json) as result:
        from inspection_core.inputs import Choices
        from inspection_core.publish import sink
        from inspection_core.watch import LOOK
        from inspection_core.watch import watch as run

        result.inputs.append(str(folder))
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder. Give the folder that images come into.")
        if settle < 0 or (poll is not None and poll <= 0):
            raise UsageError("--settle is 0 seconds or more, and --poll more than 0.")
        options = options_of(formats, pictures, database, Choices())
        sinks = [sink(text) for text in publish or ()]
        loaded = chosen_engine(engine, token_file, ca, device).load(model)
        terminal = sys.stdout.isatty() or json is None
        say(f"watching {folder}; Ctrl-C ends it.")
        with stoppable():
            done = run(
                folder,
                loaded,
                out,
                options=options,
                sinks=sinks,
                settle=settle,
                look=poll or LOOK,
                events=poll is None,
                idle=idle,
                say=say,
                told=(lambda row: console().print(row_line(row))) if terminal else (lambda row: None),
                command=command_line(),
            )
        for name, count in done.unsent.items():
            result.warnings.append(f"{count} messages wait for {name}; the next call sends them")
            say(f"note: {result.warnings[-1]}.")
        result.outputs.extend(map(str, done.outputs))
        result.extra = {"counts": done.counts, "new": done.done, **done.figures, "unsent": done.unsent}
        latency = done.figures["latency"]
        if latency:
            console().print(
                f"{done.done} images; from complete file to verdict: median {latency['p50']:.3f} s, "
                f"99 of 100 within {latency['p99']:.3f} s, longest {done.figures['longest']:.3f} s",
            )
        console().print(show_counts(done.counts), f"Report: {out / 'report.html'}", sep="\n")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGTERM, which services and containers are stopped with, for Ctrl-C: stop in good order."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def options_of(formats: str, pictures: str, database: str | None, choices: Any) -> Options:
    """Return the options of a run from the words of a command line."""
    from inspection_core.session import Options

    words = tuple(dict.fromkeys(f.strip() for f in formats.split(",") if f.strip()))
    return Options(words, None if pictures == "auto" else cast("Any", pictures), database, choices)


def row_line(row: Any) -> str:
    """Return one line on an image: verdict, score, what the p-value means, findings."""
    from inspection_core.errors import printable

    if row.status == "failed":
        return printable(f"failed  {row.path}: {row.error}")
    p = "" if row.p_value is None else f"  p {row.p_value:.3g}"
    return printable(f"{row.verdict:6}  score {row.score:.4g}{p}  {row.n_findings} findings  {row.path}")


def command_line() -> str:
    """Return the command as it was given, without the password of a database."""
    words = ["inspection", *sys.argv[1:]]
    return " ".join(shlex.quote(_hidden(word)) for word in words)


def _hidden(word: str) -> str:
    import re

    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1@", word)
