"""Predictions and reviews as they are kept on disk; everything here runs off the main thread, and knows no layer."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inspection_core.card import CARD_NAME
from inspection_core.errors import ReadError
from inspection_core.io.atomic import write_text
from inspection_core.prediction import Prediction
from napari_inspection import engines, store
from napari_inspection.layers import Case, make_case

if TYPE_CHECKING:
    from inspection_core.inputs import Input, Listing
    from inspection_core.io.review_store import ReviewStore
    from inspection_core.review import Review


@dataclass(frozen=True, eq=False)
class Predicted:
    """A case, what a model said of it, and where its review is kept."""

    case: Case
    prediction: Prediction
    classes: tuple[str, ...]
    folder: Path
    seconds: float
    task: str


@dataclass(frozen=True, eq=False)
class Opened:
    """A review that is open: its log so far is in `review`, and what follows goes to `store`."""

    case: Case
    review: Review
    store: ReviewStore
    folder: Path
    reviewer: str


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


def anew(before: Opened) -> Opened:
    """Return a review of the same result with an empty log; the old log of this reviewer is dropped."""
    from inspection_core.io.review_store import open_review

    before.store.forget(before.reviewer)
    given = before.review.prediction, before.review.classes
    kept, review = open_review(before.folder, before.reviewer, given)
    return Opened(before.case, review, kept, before.folder, before.reviewer)


def key_of(case: Case) -> str:
    """Return a name for a case that says nothing of it: a hash of which series or file it is, and of its state."""
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
    return digest.hexdigest()[:24]


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
    item = next((i for i in studies.inputs if case.item is not None and i.given == case.item.given), studies.inputs[0])
    return make_case(open_input(item, channels), item.name, item)
