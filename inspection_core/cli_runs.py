"""Commands on runs that are there: ``rethreshold`` and ``runs``. Thin; registered by `inspection_core.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspection_core.cli_screen import Database, Json, command_line, row_line
from inspection_core.errors import UsageError

if TYPE_CHECKING:
    from inspection_core.tables import Filter

runs_app = typer.Typer(no_args_is_help=True, help="Runs of screen and watch: list them, show one, compare two.")

Verdicts = Annotated[
    list[str] | None, typer.Option("--verdict", help="Only these: OK, REVIEW, NG, failed; may be repeated.")
]
Match = Annotated[str | None, typer.Option(metavar="PATTERN", help="Only paths like this, such as 'line3/*.png'.")]
MinScore = Annotated[float | None, typer.Option(help="Only scores from here.")]
MaxP = Annotated[float | None, typer.Option(help="Only p-values up to this.")]
TableFormats = Annotated[str, typer.Option("--format", help="With commas: csv, parquet, jsonl, coco.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("rethreshold")(rethreshold)
    app.add_typer(runs_app, name="runs")


def rethreshold(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    max_false_alarms: Annotated[float | None, typer.Option(help="Share of good parts that may be called NG.")] = None,
    review: Annotated[float | None, typer.Option(help="Share of good parts that may be NG or REVIEW.")] = None,
    low: Annotated[float | None, typer.Option(help="Models with a band of scores: REVIEW from here.")] = None,
    high: Annotated[float | None, typer.Option(help="Models with a band of scores: NG above this.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the files; else one inside RUN.")] = None,
    formats: TableFormats = "csv,parquet",
    verdicts: Verdicts = None,
    match: Match = None,
    min_score: MinScore = None,
    max_p: MaxP = None,
    database: Database = None,
    json: Json = None,
) -> None:
    """Say what a run's verdicts would be at other thresholds; from its scores, without inference."""
    from inspection_core.cli import console, outcome, say, show_counts

    with outcome("rethreshold", json) as result:
        from inspection_core.rethreshold import new_policy
        from inspection_core.rethreshold import rethreshold as again
        from inspection_core.runs import card_of, opened

        result.inputs.append(str(run))
        wanted = filter_of(verdicts, match, min_score, max_p)
        with opened(run, database) as store:
            old = card_of(store, run).policy
        done = again(
            run,
            new_policy(old, max_false_alarms, review, low, high),
            out=out,
            wanted=wanted,
            formats=tables_of(formats),
            database=database,
            command=command_line(),
        )
        result.outputs.extend(map(str, done.outputs))
        result.warnings.extend(done.warnings)
        changes = [{"before": a, "after": b, "images": n} for (a, b), n in sorted(done.changes.items())]
        result.extra = {"counts": done.counts, "changes": changes}
        for warning in done.warnings:
            say(f"note: {warning}")
        for change in changes:
            if change["before"] != change["after"]:
                console().print(f"{change['images']} from {change['before']} to {change['after']}")
        console().print(show_counts(done.counts), f"Report: {done.folder / 'report.html'}", sep="\n")


@runs_app.command("list")
def runs_list(
    folder: Annotated[Path, typer.Argument(help="Folder with runs, up to three levels below it.")] = Path(),
    database: Database = None,
    json: Json = None,
) -> None:
    """List runs and how they stand."""
    from inspection_core.cli import console, outcome, say

    with outcome("runs list", json) as result:
        import dataclasses

        from rich.table import Column, Table

        from inspection_core.runs import list_runs

        found, wrong = list_runs(folder, database)
        for text in wrong:
            result.warnings.append(text)
            say(f"note: {text}")
        result.extra["runs"] = [dataclasses.asdict(one) for one in found]
        if not found:
            console().print(f"No run in {folder.resolve()}. Make one: inspection screen FOLDER --model M --out RUN")
            return
        # A name is what the next command needs: it is broken over lines where room is short, and never cut.
        table = Table(
            Column("run", overflow="fold", min_width=12),
            "state",
            "inputs",
            "OK",
            "REVIEW",
            "NG",
            "failed",
            "model",
            "started",
        )
        for one in found:
            numbers = (str(one.counts[k]) for k in ("OK", "REVIEW", "NG", "failed"))
            inputs = "" if one.inputs is None else str(one.inputs)
            table.add_row(one.folder, one.state, inputs, *numbers, one.model, one.started)
        console().print(table)


@runs_app.command("show")
def runs_show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    verdicts: Verdicts = None,
    match: Match = None,
    min_score: MinScore = None,
    max_p: MaxP = None,
    limit: Annotated[int, typer.Option(help="Show so many images at most.")] = 20,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write all that is asked for as tables here.")] = None,
    formats: TableFormats = "csv",
    database: Database = None,
    json: Json = None,
) -> None:
    """Show how a run stands, and the images that are asked for; --out writes them as tables."""
    from inspection_core.cli import console, outcome, show_counts

    with outcome("runs show", json) as result:
        import dataclasses

        from inspection_core.runs import first_rows, opened, summary
        from inspection_core.tables import message, write_tables

        result.inputs.append(str(run))
        wanted = filter_of(verdicts, match, min_score, max_p)
        told = summary(run, database)
        with opened(run, database) as store:
            rows = first_rows(store, wanted.wants, max(0, limit))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                chosen_rows = lambda: (row for row in store.rows() if wanted.wants(row))  # noqa: E731 - read twice
                result.outputs.extend(map(str, write_tables(out, chosen_rows, tables_of(formats))))
        result.extra = {"run": dataclasses.asdict(told), "images": [message(row) for row in rows]}
        console().print(
            f"{told.folder}: {told.state}, model {told.model}, started {told.started}",
            f"folder {told.source}",
            show_counts(told.counts),
            *map(row_line, rows),
            *result.outputs,
            sep="\n",
        )


@runs_app.command("compare")
def runs_compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Folder of another run.")],
    limit: Annotated[int, typer.Option(help="Show so many images at most.")] = 20,
    database: Database = None,
    json: Json = None,
) -> None:
    """Say how two runs differ, image by image; times aside."""
    from inspection_core.cli import console, outcome, say

    with outcome("runs compare", json) as result:
        from inspection_core.runs import compare

        result.inputs.extend([str(first), str(second)])
        done = compare(first, second, database)
        result.warnings.extend(done.notes)
        changes = [{"first": a, "second": b, "images": n} for (a, b), n in sorted(done.changes.items())]
        result.extra = {
            "identical": done.identical,
            "n_different": done.n_different,
            "only_first": done.only_first,
            "only_second": done.only_second,
            "largest_difference": done.largest,
            "changes": changes,
            "different": done.different,
        }
        for note in done.notes:
            say(f"note: {note}")
        for change in changes:
            console().print(f"{change['images']:8}  {change['first']:6} -> {change['second']}")
        for one in done.different[: max(0, limit)]:
            (a, b), (x, y) = one["verdicts"], one["scores"]
            console().print(f"{a or 'failed'} -> {b or 'failed'}  {x} -> {y}  {one['path']}")
        alone = f"; {done.only_first} only in the first, {done.only_second} only in the second"
        console().print(
            "All inputs have equal results, bit for bit."
            if done.identical
            else f"{done.n_different} differ, by {done.largest:.3g} in score at most{alone}"
        )


def filter_of(verdicts: list[str] | None, match: str | None, min_score: float | None, max_p: float | None) -> Filter:
    """Return which rows are wanted, from the words of a command line."""
    from inspection_core.tables import Filter

    return Filter(frozenset(verdicts or ()), match, min_score, max_p)


def tables_of(formats: str) -> list[str]:
    """Return the names of table formats, or say which is unknown."""
    from inspection_core.tables import FORMATS

    words = [f.strip() for f in formats.split(",") if f.strip()]
    if unknown := sorted(set(words) - set(FORMATS)):
        raise UsageError(f"--format takes {', '.join(FORMATS)} here. Got {unknown[0]!r}.")
    return words
