"""A run that is worked on: its database, its options, what is done already and what is left, and its outputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from inspection_core import export, inputs
from inspection_core.card import ModelCard
from inspection_core.engine import LoadedModel, Model
from inspection_core.errors import UsageError
from inspection_core.inputs import Choices, Input, list_inputs, list_scans
from inspection_core.inspector import (
    MASKS,
    RESULTS,
    REVIEWS,
    TABLES,
    Inspector,
    Moves,
    Task,
    Touched,
    files_of,
    move_files,
)
from inspection_core.io.identity import fingerprint
from inspection_core.io.raster import RASTER_SUFFIXES, list_images
from inspection_core.io.results import utf8
from inspection_core.io.store import Known, Row, RunStore
from inspection_core.pictures import PICTURES, Kept
from inspection_core.reliability import FILE as DIAGRAM
from inspection_core.studies import for_channels, stacks
from inspection_core.tables import LISTED, Telling, write_run_report, write_tables
from inspection_core.threshold import cuts

Progress = Callable[[int, int], None]
Messages = Callable[[Row], Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Options:
    """How a run is made; see `inspection_core.screen.screen`."""

    formats: tuple[str, ...] = ()
    pictures: Kept | None = None
    database: str | None = None
    choices: Choices = field(default_factory=Choices)

    def __post_init__(self) -> None:
        known = ("csv", "parquet", *TABLES, MASKS, REVIEWS, *export.FORMATS)
        if unknown := sorted(set(self.formats) - set(known)):
            raise UsageError(f"Formats are {', '.join(known)}. Got {unknown[0]!r}.")
        if self.pictures not in (None, "all", "flagged", "none"):
            raise UsageError(f"Pictures are kept of all images, flagged ones or none. Got {self.pictures!r}.")

    @property
    def files(self) -> tuple[str, ...]:
        """Formats that are written for each input, or from something that each input gives."""
        return tuple(sorted(set(self.formats) - {"csv", "parquet", "jsonl"}))

    def kept(self, total: int) -> Kept:
        """Return of which images pictures are written: of all, unless they are more than a report lists."""
        return self.pictures or ("all" if total <= LISTED else "flagged")


@dataclass(frozen=True, eq=False)
class Listing:
    """What there is to do below a folder.

    Parameters
    ----------
    source
        The folder.
    pictures
        Relative paths as the system has them; text, because there may be very many.
    scans
        Name -> input.
    refused
        Name -> why nothing can be done with it.
    locked
        Names of folders that could not be listed: what was known below them stays.
    """

    source: Path
    pictures: Sequence[str]
    scans: Mapping[str, Input]
    refused: Mapping[str, str]
    locked: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures) + len(self.scans) + len(self.refused)

    def names(self) -> set[str]:
        """Return the names of all."""
        return {*map(name_of, self.pictures), *self.scans, *self.refused}

    def __getitem__(self, number: int) -> tuple[str, Input]:
        """Return name and input of what can be done; made when asked for, because there may be very many."""
        if number < len(self.pictures):
            relative = self.pictures[number]
            return name_of(relative), picture(self.source / relative)
        return self._scans[number - len(self.pictures)]

    @cached_property
    def _scans(self) -> list[tuple[str, Input]]:
        return list(self.scans.items())


def picture(path: Path) -> Input:
    """Return an image file as an input."""
    return Input("picture", str(path), "", (path,))


def name_of(relative: str) -> str:
    """Return the name of an input in results: forward slashes, and valid Unicode."""
    return utf8(Path(relative).as_posix())


def list_folder(
    source: Path, run: Path, card: ModelCard, options: Options, paths: Sequence[Path] | None = None
) -> Listing:
    """List what there is below a folder: pictures, and scans as the model takes them.

    Raises
    ------
    UsageError
        If there is nothing, or a format does not fit a scan.
    """
    if paths is not None:
        return _list_paths(source, [Path(p).absolute() for p in paths], card, options)
    # A run may lie in the folder it screens.
    own = [run.absolute() / place for place in (PICTURES, RESULTS, MASKS, REVIEWS)]
    locked: list[Path] = []
    pictures = [
        os.path.relpath(path, source)
        for path in list_images(source, locked)
        if not any(path.is_relative_to(place) for place in own)
    ]
    pictures, studies, odd = _stacked(source, pictures, card)
    found = for_channels(list_scans(source, options.choices, own), card.channels, options.choices)
    scans = {_inside(source, one.label): one for one in (*studies, *found.inputs)}
    refused = {_inside(source, label): reason for label, reason in (*odd, *found.refused)}
    for folder in locked:
        refused[_inside(source, str(folder))] = f"{folder} is a folder that cannot be listed; check who may read it."
    if not pictures and not scans and not refused:
        raise UsageError(
            f"Found no PNG, JPEG, TIFF, BMP or WebP image below {source}, and no scan. Give a folder with images."
        )
    exported = [f for f in options.files if f in export.FORMATS]
    export.check_fit(exported, [*([picture(source / pictures[0])] if pictures else []), *scans.values()])
    return Listing(source, pictures, scans, refused, tuple(_inside(source, str(folder)) for folder in locked))


def _list_paths(source: Path, paths: Sequence[Path], card: ModelCard, options: Options) -> Listing:
    """List paths below a folder: pictures as they are, and the scans in what else there is."""
    files = [os.path.relpath(p, source) for p in paths if p.suffix.lower() in RASTER_SUFFIXES]
    pictures, studies, odd = _stacked(source, files, card)
    rest = [p for p in paths if p.suffix.lower() not in RASTER_SUFFIXES]
    found = for_channels(list_inputs(rest, options.choices), card.channels, options.choices)
    scans = {_inside(source, one.label): one for one in (*studies, *found.inputs)}
    refused = {_inside(source, label): reason for label, reason in (*odd, *found.refused)}
    return Listing(source, pictures, scans, refused)


def _stacked(
    source: Path, pictures: list[str], card: ModelCard
) -> tuple[list[str], Sequence[Input], Sequence[tuple[str, str]]]:
    """Part pictures from the studies whose slices they are, where the model takes such; and from what is refused."""
    if card.preparation.view == "image":
        return pictures, (), ()
    found = stacks(inputs.Listing(tuple(picture(source / path) for path in pictures)))
    alone = [os.path.relpath(one.files[0], source) for one in found.inputs if one.kind == "picture"]
    return alone, [one for one in found.inputs if one.kind == "stack"], found.refused


def _inside(source: Path, label: str) -> str:
    """Return the label of an input, which begins with its path, relative to the folder."""
    rest = label.removeprefix(str(source)).lstrip(" /\\") or "."
    return utf8(rest.replace(os.sep, "/"))


@dataclass(frozen=True, eq=False)
class Session:
    """A run that this process works on.

    Parameters
    ----------
    store
        Its database.
    run, source
        Its folder, and the one that is screened.
    model
        That does it.
    options
        How.
    """

    store: RunStore
    run: Path
    source: Path
    model: Model
    options: Options

    def inspector(self, total: int, moves: Moves | None = None) -> Inspector:
        """Return what does the inputs."""
        return Inspector(
            self.model,
            self.run,
            self.source,
            formats=self.options.files,
            kept=self.options.kept(total),
            choices=self.options.choices,
            moves=moves,
        )

    def recorder(
        self, done: Callable[[int], None], messages: Messages = lambda row: ()
    ) -> Callable[[Sequence[Row | Touched]], None]:
        """Return what records results; `done` is told how many came together."""

        def record(results: Sequence[Row | Touched]) -> None:
            rows = [one for one in results if isinstance(one, Row)]
            if rows:
                self.store.put(*rows, messages=[m for row in rows for m in messages(row)])
            for one in results:
                if isinstance(one, Touched):
                    if one.moved_from is not None:
                        move_files(self.run, one.moved_from, one.name)
                    self.store.touch(one.name, one.fingerprint, one.moved_from)
            done(len(results))

        return record

    def write(self, telling: Telling, truth: Callable[[str], str | None] = lambda path: None) -> tuple[Path, ...]:
        """Write tables and report from the database."""
        formats = {"csv", "parquet", *self.options.formats}
        tables = write_tables(self.run, self.store.rows, formats)
        report = write_run_report(self.run / "report.html", self.store.rows, self.run, telling, truth)
        self.store.note({"finished": now()})
        return (*tables, report)


Record = Callable[[Sequence[Row | Touched]], None]
"""Takes what came out of a few inputs."""

Work = Callable[[Session, Iterator[Task], Record], None]
"""Does tasks elsewhere, such as on a cluster, and records what comes out."""


@contextmanager
def session(source: Path, run: Path, model: Model, options: Options) -> Iterator[Session]:
    """Work on a run, and keep others from it meanwhile.

    Raises
    ------
    UsageError
        If the folder holds a run of something else, or another process works on it.
    """
    card = model.card
    with RunStore(run, options.database) as store, store.locked():
        store.claim(
            {
                "model": f"{card.id} {card.version} {card.weights_sha256}",
                "model card": card_mark(card),
                "folder": utf8(str(source)),
                "set of formats": " ".join(options.files),
            }
        )
        told = store.facts()
        if "card" not in told:
            store.note({"card": card.to_toml(), "started": now()})
        yield Session(store, run, source, model, options)


def telling(card: ModelCard, title: str, command: str = "", **more: Any) -> Telling:
    """Return what a report says of a model besides rows."""
    from inspection_core.render import score_scale

    cut = cuts(card.policy, card.calibration)
    return Telling(title, card, cut, warnings=cut.warnings, command=command, scale=score_scale(card), **more)


def diagram(model: Model) -> Path | None:
    """Return the reliability diagram that lies in a model's folder, if any."""
    path = model.folder / DIAGRAM if isinstance(model, LoadedModel) else None
    return path if path is not None and path.is_file() else None


def card_mark(card: ModelCard) -> str:
    """Return a hash of what verdicts follow from besides the weights: rows of one run must be comparable."""
    decides = (card.preparation, card.policy, card.calibration, sorted(card.parameters.items()))
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def unchanged(item: Input, known: Known | None) -> bool:
    """Tell whether an input is done and its files look as they did."""
    return known is not None and known.settled and known.fingerprint == fingerprint(*files_of(item))


def below(names: Sequence[str], path: str) -> bool:
    """Tell whether a path lies below one of these folders."""
    return any(PurePosixPath(path).is_relative_to(name) for name in names)
