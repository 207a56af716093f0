"""Predictions and reviews as they are kept on disk; everything here runs off the main thread, and knows no layer."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.errors import ModelError, ReadError, UsageError
from inspection_core.io.atomic import atomic_path, write_text
from inspection_core.prediction import Prediction
from napari_inspection import engines, store
from napari_inspection.layers import Case, make_case

if TYPE_CHECKING:
    from filelock import FileLock

    from inspection_core.inputs import Input, Listing
    from inspection_core.io.review_store import ReviewStore
    from inspection_core.review import Review

CORRECTED = "corrected"
"""Lies beside a kept prediction that a person corrected."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """A case, what a model said of it, and where its review is kept."""

    case: Case
    prediction: Prediction
    classes: tuple[str, ...]
    folder: Path
    seconds: float
    task: str


@dataclass(frozen=True)
class Screened:
    """What a screening keeps of one input.

    Parameters
    ----------
    archive
        Folder with the whole prediction.
    fingerprint
        Of the input's files as they were then; see `inspection_core.io.identity`.
    card
        Of the model.
    """

    archive: Path
    fingerprint: str
    card: ModelCard

    @property
    def corrected(self) -> bool:
        """Whether a person corrected it."""
        return (self.archive / CORRECTED).is_file()

    def note(self, corrected: bool) -> None:
        """Keep whether a person corrected it, for the list."""
        if corrected and self.archive.is_dir():
            (self.archive / CORRECTED).touch()
        elif not corrected:
            (self.archive / CORRECTED).unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Opened:
    """A review that is open: its log so far is in `review`, and what follows goes to `store`."""

    case: Case
    review: Review
    store: ReviewStore
    folder: Path
    reviewer: str
    screened: Screened | None = None
    """Of a row in a list that was screened; the user goes through the list then."""


@dataclass(frozen=True)
class Unfinished:
    """A review that can be continued."""

    folder: Path
    reviewer: str
    count: int
    model: str


def predicted(case: Case, listing: Listing | None, model: Path | str, place: engines.Place) -> Predicted:
    """Load a model, predict on a case, and keep the result.

    Where the model takes several sequences, those of the study that the case is part of are put together, and the case
    returned is the study.

    Raises
    ------
    InspectionError
        As for `inspection_core.infer.predict`.
    """
    card = engines.engine(place).card(model)
    if case.image.ndim == 3 and len(card.channels) > 1 and len(case.image.channels) != len(card.channels):
        case = _study_of(case, listing, card.channels)
    began = time.perf_counter()
    prediction = engines.run(case.image, model, place)
    seconds = time.perf_counter() - began
    folder = folder_of(case, prediction)
    from inspection_core.io.review_store import write_prediction_archive

    write_prediction_archive(folder, prediction, card.classes)
    write_text(folder / CARD_NAME, card.to_toml())
    return Predicted(case, prediction, card.classes, folder, seconds, card.task)


def opened(result: Predicted, reviewer: str) -> Opened:
    """Return the review of a fresh result, with the corrections that were made to it before."""
    from inspection_core.io.review_store import open_review

    kept, review = open_review(result.folder, reviewer, (result.prediction, result.classes))
    return Opened(result.case, review, kept, result.folder, reviewer)


def resumed(case: Case, folder: Path, reviewer: str) -> Opened:
    """Return a review that is kept.

    Raises
    ------
    ReadError
        If the kept prediction is damaged, or is not of this case's grid.
    """
    from inspection_core.io.review_store import open_review

    kept, review = open_review(folder, reviewer)
    if not review.prediction.geometry.is_close(case.image.geometry):
        kept.close()
        raise ReadError("The kept review lies on another grid than this image; run the model again.")
    return Opened(case, review, kept, folder, reviewer)


def stored(case: Case, result: Screened, reviewer: str) -> Opened:
    """Return the review of what a screening found, with the corrections that were made to it before.

    Raises
    ------
    ReadError
        If the image changed since then, or what was kept of it is missing or damaged.
    """
    from inspection_core.inspector import files_of
    from inspection_core.io.identity import fingerprint
    from inspection_core.io.review_store import PREDICTION, open_review, read_prediction_archive

    if case.item is None or fingerprint(*files_of(case.item)) != result.fingerprint:
        raise ReadError("The image changed since it was screened. Screen the list again, or run the model on it.")
    prediction, _ = read_prediction_archive(result.archive)
    if not prediction.geometry.is_close(case.image.geometry):
        raise ReadError("What was screened lies on another grid than this image; run the model on it.")
    folder = folder_of(case, prediction)
    if not (folder / PREDICTION).is_file():  # a copy: the run may be made anew, and the review is to stay
        with atomic_path(folder / PREDICTION) as temporary:
            shutil.copyfile(result.archive / PREDICTION, temporary)
    if not (folder / CARD_NAME).is_file():
        write_text(folder / CARD_NAME, result.card.to_toml())
    kept, review = open_review(folder, reviewer)
    return Opened(case, review, kept, folder, reviewer, screened=result)


def claim(folder: Path, reviewer: str) -> FileLock:
    """Keep other windows and processes from one reviewer's log, until the lock is released or the process ends.

    Raises
    ------
    UsageError
        If another one has it open: two that write one log would make a history that nobody made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f"{hashlib.sha256(reviewer.encode()).hexdigest()[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            "Your review of this result is open in another window. Close it there, or review under another name."
        ) from None
    return lock


def anew(before: Opened) -> Opened:
    """Return a review of the same result with an empty log; the old log of this reviewer is dropped."""
    from inspection_core.io.review_store import open_review

    before.store.forget(before.reviewer)
    given = before.review.prediction, before.review.classes
    kept, review = open_review(before.folder, before.reviewer, given)
    if before.screened is not None:
        before.screened.note(corrected=False)
    return Opened(before.case, review, kept, before.folder, before.reviewer, before.screened)


def scale_of(folder: Path) -> tuple[float, float] | None:
    """Return the scores at which a score map begins and ends, the same for every image of a model, by its kept card."""
    from inspection_core.render import score_scale

    try:
        return score_scale(ModelCard.load(folder))
    except ModelError:  # without a card, what the map itself holds will do
        return None


def key_of(case: Case) -> str:
    """Return a name for a case that says nothing of it: a hash of which series or file it is, and of its state.

    Of a file it is the state in which it was first asked for, which is when it was opened: what is done to the file
    later is not done to the image that is shown.
    """
    if "key" in case.extras:
        return str(case.extras["key"])
    digest = hashlib.sha256()
    item: Input | None = case.item
    if item is not None and item.volume is not None:
        digest.update(f"{item.volume.file.series_uid} {item.volume.kind} {item.volume.shape}".encode())
    elif item is not None:
        for file in item.files:
            status = file.stat() if file.exists() else None
            digest.update(f"{file.absolute()} {status and (status.st_size, status.st_mtime_ns)}".encode())
    else:
        array = case.image.array
        step = max(1, round((array.size / 1e5) ** (1 / array.ndim)))
        digest.update(np.ascontiguousarray(array[(slice(None, None, step),) * array.ndim]).tobytes())
    digest.update(repr((case.image.geometry.shape, case.image.geometry.affine.round(4).tolist())).encode())
    key = digest.hexdigest()[:24]
    if item is not None:
        case.extras["key"] = key
    return key


def folder_of(case: Case, prediction: Prediction) -> Path:
    """Return where the reviews of a model's result on a case are kept."""
    model = f"{prediction.model_id}\0{prediction.model_version}\0{prediction.model_sha256}"
    return store.reviews_folder() / key_of(case) / hashlib.sha256(model.encode()).hexdigest()[:16]


def unfinished(case: Case) -> list[Unfinished]:
    """Return the reviews of a case that have any correction, the newest first."""
    home = store.reviews_folder() / key_of(case)
    if not home.is_dir():
        return []
    from inspection_core.io.review_store import PREDICTION, REVIEW_DATABASE, ReviewStore

    found = []
    for folder in home.iterdir():
        if (folder / REVIEW_DATABASE).is_file() and (folder / PREDICTION).is_file():
            try:
                with ReviewStore(folder) as kept:
                    counts = kept.reviewers()
            except ReadError:
                continue
            age = (folder / REVIEW_DATABASE).stat().st_mtime
            found += [(age, Unfinished(folder, who, count, _model(folder))) for who, count in counts.items()]
    return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]


def corrections_in(folder: Path, reviewer: str) -> int:
    """Return how many entries the log of a reviewer has."""
    from inspection_core.io.review_store import REVIEW_DATABASE, ReviewStore

    if not (folder / REVIEW_DATABASE).is_file():
        return 0
    with ReviewStore(folder) as kept:
        return kept.reviewers().get(reviewer, 0)


def _model(folder: Path) -> str:
    """Return which model a kept prediction is of."""
    import json

    from inspection_core.io.review_store import PREDICTION

    with (folder / PREDICTION).open("rb") as file, np.load(file, allow_pickle=False) as kept:
        facts = json.loads(kept["facts"].tobytes().decode())
    return f"{facts['model_id']} {facts['model_version']}"


def _study_of(case: Case, listing: Listing | None, channels: tuple[str, ...]) -> Case:
    from inspection_core.inputs import open_input
    from inspection_core.studies import for_channels

    needs = f"The model takes {', '.join(channels)}. Open the folder of the whole study, then run it again."
    if listing is None:
        raise ReadError(needs)
    studies = for_channels(listing, channels)
    if not studies.inputs:
        raise ReadError(studies.refused[0][1] if studies.refused else needs)
    of_case = (i for i in studies.inputs if case.item is not None and _is_part(case.item, i))
    item = next(of_case, None)  # of no other study: its findings would be taken for this one's
    if item is None:
        raise ReadError(f"{case.name} is part of no whole study in the list. {needs}")
    return make_case(open_input(item, channels), item.name, item)


def _is_part(item: Input, study: Input) -> bool:
    """Say whether an input is of a study, also where the study does without it."""
    from inspection_core.io.candidates import case_of

    if item.volume is not None or study.volume is not None:
        volumes = item.volume, study.volume
        uids = {v.file.study_uid for v in volumes if v is not None}
        return None not in volumes and len(uids) == 1 and item.given == study.given
    file = item.files[0]
    label = str(file.parent / case_of(file)).lower()
    return bool(set(item.files) & set(study.files)) or (bool(study.parts) and label == study.label.lower())
