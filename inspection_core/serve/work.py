"""Bytes in, prediction, bytes out: what a worker thread does for a request. Nothing of it knows HTTP."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, ReadError
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.raster import SUFFIXES, read_raster
from inspection_core.io.raster_header import at_most
from inspection_core.io.results import dump, findings_json
from inspection_core.io.wire import IMAGE_TYPE, PREDICTION_TYPE, image_from_bytes, prediction_to_bytes
from inspection_core.prediction import Prediction

JSON_TYPE = "application/json"
PICTURES: dict[str, str] = {f"image/{kind.lower()}": suffixes[0] for kind, suffixes in SUFFIXES.items()}
"""Media types of files that are taken as they are, and their suffix."""
TAKEN = (IMAGE_TYPE, *PICTURES)
GIVEN = (JSON_TYPE, PREDICTION_TYPE)
Given = Literal["application/json", "application/vnd.inspection.prediction"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a request gets.

    Parameters
    ----------
    prediction
        For the metrics.
    body
        As bytes of the type asked for.
    """

    prediction: Prediction
    body: bytes


def answer(parts: list[bytes], taken: str, given: str, model: LoadedModel, max_pixels: int) -> Answer:
    """Predict on an upload.

    Parameters
    ----------
    parts
        The upload; emptied, so that it is not held beside the image.
    taken, given
        Media types of upload and answer, one of `TAKEN` and one of `GIVEN`.
    model
        What to predict with.
    max_pixels
        Above which an image is refused, all channels together; of a file, before it is decoded.

    Raises
    ------
    InspectionError
        If the image cannot be read, is too large, or is none for the model.
    """
    body = b"".join(parts)
    parts.clear()
    image = image_from_bytes(body) if taken == IMAGE_TYPE else picture(body, PICTURES[taken], max_pixels)
    del body
    if image.array.size > max_pixels:
        raise ReadError(
            f"image: up to {max_pixels} values are taken. Got {image.array.size}; cut the image into parts."
        )
    prediction = predict(image, model)
    if given == PREDICTION_TYPE:
        return Answer(prediction, prediction_to_bytes(prediction))
    return Answer(prediction, dump(findings_json(prediction)).encode("utf-8"))


def picture(body: bytes, suffix: str, max_pixels: int) -> Image:
    """Decode a file that was sent as it is; the name that it gets for that is nobody's but ours.

    Raises
    ------
    ReadError
        If it is of another kind than was said, damaged, or too large.
    """
    with tempfile.TemporaryDirectory(prefix="inspection-") as folder:
        path = Path(folder) / f"image{suffix}"
        path.write_bytes(body)
        try:
            with at_most(max_pixels):
                image = read_raster(path)
        except InspectionError as error:
            raise type(error)(str(error).replace(str(path), "image")) from None
    return Image(image.array, image.geometry, image.channels, None, image.notes)
