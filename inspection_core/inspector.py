"""What one input goes through in a screening, from its file to its row, in stages that overlap for different inputs.

Whatever is wrong with one input becomes a row with its reason. What is wrong with the run, such as a full disk or a
folder that is gone, is an error.
"""

from __future__ import annotations

import errno
import glob
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspection_core.engine import LoadedModel, Model, plan
from inspection_core.errors import EngineError, InspectionError, ReadError
from inspection_core.export import Job, display_window, frame_of, write_results
from inspection_core.image import Image
from inspection_core.infer import Begun, Clock, Forwarded, begin, complete, forward
from inspection_core.inputs import Choices, Input, Opened, open_input
from inspection_core.io.identity import content, fingerprint
from inspection_core.io.nifti import write_nifti
from inspection_core.io.raster import write_mask_png
from inspection_core.io.results import coco_json, finding_json, utf8
from inspection_core.io.review_store import write_prediction_archive
from inspection_core.io.store import Known, Row
from inspection_core.pictures import PICTURES, Kept, Pictures
from inspection_core.prediction import Prediction
from inspection_core.stages import Finished, Stages
from inspection_core.threshold import cuts

TRIES = 3
"""Times that a file is read which changes while it is read."""

UNFORESEEN = 20
"""So many inputs in a row with errors that nobody foresaw stop a run: then it is not the inputs."""

SUSPECT = 2
"""Deaths of the process with an input in work after which that input is done by itself."""

FATAL = 3
"""Deaths with an input by itself after which it is given up."""

RESULTS, MASKS, REVIEWS = "results", "masks", "reviews"
"""Folders of a run that hold something of each input under its name; also what the last two are called as formats."""
TABLES = ("jsonl", "coco")
"""Formats of a whole run that need something of each input."""


@dataclass(frozen=True)
class Task:
    """An input to do.

    Parameters
    ----------
    name
        Its path in the results: relative to the screened folder, with forward slashes.
    item
        What to read.
    known
        What the run knows of it from before.
    """

    name: str
    item: Input
    known: Known | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is read from."""
        return files_of(self.item)


@dataclass(frozen=True)
class Touched:
    """An input with the content that was done already: under another time, or another path."""

    name: str
    fingerprint: str
    moved_from: str | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """An input that is ready for the network."""

    task: Task
    mark: str
    content: str
    opened: Opened
    begun: Begun


@dataclass(frozen=True, eq=False)
class Inferred:
    """An input that has been through the network."""

    ready: Ready
    forwarded: Forwarded


class Moves:
    """Rows whose files are gone, by content: where a new file has that content, it is the old one, moved.

    Parameters
    ----------
    gone
        Pairs of content and path.
    """

    def __init__(self, gone: Iterable[tuple[str, str]] = ()) -> None:
        self._by_content: dict[str, list[str]] = {}
        for text, path in gone:
            self._by_content.setdefault(text, []).append(path)
        self._lock = threading.Lock()

    def take(self, text: str) -> str | None:
        """Return the old path of a content, each one once."""
        with self._lock:
            paths = self._by_content.get(text)
            return paths.pop() if paths else None


class Inspector:
    """Does inputs, with one model and for one run.

    Parameters
    ----------
    model
        From the `load` of an `inspection_core.engine.InferenceEngine`.
    run
        Folder of the run.
    source
        Folder that is screened; where it is gone, the run stops.
    formats
        Of what is written beside the tables: ``"masks"``, ``"reviews"`` (all that a review begins with), ``"coco"``,
        and what `inspection_core.export` knows.
    kept
        Of which images pictures for the report are written.
    choices
        About reading scans.
    moves
        What may have been moved.
    """

    def __init__(
        self,
        model: Model,
        run: Path,
        source: Path,
        *,
        formats: Sequence[str] = (),
        kept: Kept = "all",
        choices: Choices | None = None,
        moves: Moves | None = None,
    ) -> None:
        self.model = model
        self.run = run
        self.source = source
        self.masks = MASKS in formats
        self.reviews = REVIEWS in formats
        self.coco = "coco" in formats
        self.exported = tuple(f for f in formats if f not in (*TABLES, MASKS, REVIEWS))
        self.pictures = Pictures(run / PICTURES, model.card, kept)
        self.choices = choices or Choices()
        self.moves = moves or Moves()
        self._common = cuts(model.card.policy, model.card.calibration).warnings
        self._unforeseen = 0

    def stages(self, record: Any) -> Stages[Task, Ready, Row | Touched]:
        """Return the stages for `inspection_core.pipeline.run`; `record` takes what comes out."""
        return Stages(self.read, self.windows, self.infer, self.finish, record)

    def read(self, task: Task) -> Ready | Finished[Row | Touched]:
        """Read an input and prepare it, or say that there is nothing to do, or why it cannot be done."""
        mark, digest = "", ""
        try:
            for _ in range(TRIES):
                mark = fingerprint(*task.files)  # before reading: a file that changes meanwhile is read again
                digest = content(task.files)
                if task.known and task.known.settled and task.known.content == digest:
                    return Finished(Touched(task.name, mark))
                if task.known is None and (old := self.moves.take(digest)) is not None:
                    return Finished(Touched(task.name, mark, old))
                opened = open_input(task.item, self.model.card.channels, self.choices)
                begun = begin(opened.image, self.model)
                if fingerprint(*task.files) == mark:
                    return Ready(task, mark, digest, opened, begun)
            raise ReadError(f"{task.item.files[0]} changes while it is read. Run the same command again when it rests.")
        except OSError as error:
            self._check_source(task)
            why = error.strerror or type(error).__name__
            return Finished(self._failed(task, mark, "", f"{task.item.files[0]} cannot be read: {why}."))
        except InspectionError as error:
            self._check_source(task)
            return Finished(self._failed(task, mark, digest, str(error)))
        except Exception as error:  # noqa: BLE001 - one input never stops a batch
            return Finished(self._any_failed(task, mark, digest, error))

    def windows(self, ready: Ready) -> int:
        """Return how many places an input takes in a batch."""
        if not isinstance(self.model, LoadedModel):
            return 1  # on a server, which puts batches together
        if ready.begun.prepared is None:
            return self.model.device.batch
        preparation, shape = self.model.card.preparation, ready.begun.prepared.shape
        if preparation.view != "image" or self.model.card.task == "segmentation":
            return self.model.device.batch  # goes by itself
        return len(plan(shape, preparation.tile, preparation.overlap, preparation.multiple))

    def infer(self, group: Sequence[Ready]) -> list[Inferred | Row]:
        """Send inputs through the network; where that fails for all together, one by one."""
        try:
            done = forward([one.begun for one in group], self.model)
            return [Inferred(one, result) for one, result in zip(group, done, strict=True)]
        except EngineError:  # says nothing about an input: the run stops, and goes on by the same command
            raise
        except Exception as error:  # noqa: BLE001 - one input never stops a batch
            if len(group) > 1:
                return [result for one in group for result in self.infer([one])]
            return [self._any_failed(group[0].task, group[0].mark, group[0].content, error)]

    def finish(self, one: Inferred | Row) -> Row | Touched:
        """Make the row of an input, and write its files first."""
        if isinstance(one, Row):
            return one
        ready = one.ready
        try:
            clock = Clock()
            prediction = complete(one.forwarded, self.model)
            clock.lap("complete")
            seconds = sum(one.forwarded.timings.values()) + clock.laps["complete"]
            details = self._write(ready, prediction)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise  # the disk is full, or the run's folder gone
            words = f"{ready.task.item.files[0]}: its name is too long for the names of its results. Rename it."
            return self._failed(ready.task, ready.mark, ready.content, words)
        except Exception as error:  # noqa: BLE001 - one input never stops a batch
            return self._any_failed(ready.task, ready.mark, ready.content, error)
        self._unforeseen = 0
        return Row(
            path=ready.task.name,
            fingerprint=ready.mark,
            status="done",
            score=prediction.image_score,
            p_value=prediction.p_value,
            verdict=prediction.verdict,
            n_findings=len(prediction.findings),
            seconds=round(seconds, 4),
            details=details,
            content=ready.content,
        )

    def _write(self, ready: Ready, prediction: Prediction) -> dict[str, Any]:
        name, card = ready.task.name, self.model.card
        job = Job(self.run / RESULTS / name, ready.opened, prediction, card, self.exported)
        notes: tuple[str, ...] = ()
        if self.exported:
            notes = write_results(job).notes
        if self.masks:
            _write_mask(self.run / MASKS / name, job)
        if self.reviews:
            write_prediction_archive(self.run / REVIEWS / name, prediction, card.classes)
        details: dict[str, Any] = {
            "findings": [finding_json(f) for f in prediction.findings],
            "warnings": [w for w in (*prediction.warnings, *notes) if w not in self._common],
            **self.pictures.write(name, ready.opened.image, prediction, display_window(job)),
        }
        if self.coco and prediction.geometry.ndim == 2:
            details["coco"] = coco_json([prediction])
        return details

    def _check_source(self, task: Task) -> None:
        """Raise if it is not the input that is gone, but the folder with all of them."""
        if all(path.exists() for path in task.files):
            return
        try:
            there = next(self.source.iterdir(), None) is not None
        except OSError:
            there = False
        if not there:
            raise ReadError(
                f"{self.source} is gone, or empty all of a sudden; is the network drive there? "
                "Run the same command again when it is back."
            )

    def _any_failed(self, task: Task, mark: str, digest: str, error: Exception) -> Row:
        if isinstance(error, InspectionError):
            return self._failed(task, mark, digest, str(error))
        if isinstance(error, MemoryError):
            words = f"{task.item.files[0]} does not fit in memory. Close other programs, or cut it into parts."
            return self._failed(task, mark, digest, words)
        self._unforeseen += 1
        if self._unforeseen >= UNFORESEEN:
            raise error
        # Not the error's text: it may quote a header.
        return self._failed(task, mark, digest, f"{task.item.files[0]}: {_place(error)}. Please report this.")

    def _failed(self, task: Task, mark: str, digest: str, words: str) -> Row:
        return Row(task.name, mark, "failed", error=utf8(words), content=digest)


def given_up(task: Task, times: int) -> Row:
    """Return the row of an input that the process died with `times` times, the last ones with nothing else in work."""
    words = (
        f"{task.item.files[0]}: the program died {times} times while it was in work, {FATAL} times with nothing else "
        "in work; it may need more memory than there is. It is not tried again until the file changes."
    )
    return Row(task.name, fingerprint(*task.files), "failed", error=utf8(words), again=False)


def files_of(item: Input) -> tuple[Path, ...]:
    """Return all files that an input is read from, in a fixed order."""
    volumes = [item.volume] if item.volume is not None and not item.parts else []
    paths = [] if item.kind == "dicom" or item.parts else list(item.files)
    for part in item.parts:
        volumes += [part.volume] if part.volume is not None else []
        paths += [part.file] if part.file is not None else []
    for volume in volumes:
        paths += [frame.file.blob.path for time in volume.frames for frame in time]
    for path in list(paths):
        if path.name.lower().endswith((".hdr", ".hdr.gz", ".mhd", ".nhdr")):  # the voxels lie beside it
            stem = path.name.partition(".")[0] if path.name.lower().endswith(".gz") else path.stem
            paths += sorted(path.parent.glob(f"{glob.escape(stem)}.*"))
    return tuple(dict.fromkeys(paths))


def move_files(run: Path, old: str, new: str) -> None:
    """Give the files of a moved input its new name."""
    for place in (RESULTS, MASKS, REVIEWS):
        for was, now in ((run / place / old, run / place / new), *_mask_names(run / place, old, new)):
            if was.exists() and not now.exists():
                now.parent.mkdir(parents=True, exist_ok=True)
                was.rename(now)


def _mask_names(folder: Path, old: str, new: str) -> list[tuple[Path, Path]]:
    return [(folder / f"{old}{s}", folder / f"{new}{s}") for s in (".png", ".nii.gz")]


def _write_mask(path: Path, job: Job) -> None:
    prediction = job.prediction
    if prediction.geometry.ndim == 2:
        write_mask_png(path.with_name(f"{path.name}.png"), prediction.mask)
        return
    image = Image(prediction.mask[None], prediction.geometry, ("mask",))
    write_nifti(path.with_name(f"{path.name}.nii.gz"), image, header=frame_of(job.opened.header), dtype="uint8")


def _place(error: Exception) -> str:
    """Say which error it was and where it came up."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" in {Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno}" if at is not None else ""
    return f"an error that nobody foresaw ({type(error).__name__}{where})"
