"""Images and predictions as bytes, lossless, for the way to a server and back.

Both are safetensors: a short JSON header and raw little-endian arrays. Nothing is compressed, so nothing unpacks to
more than was sent; nothing is executed; and any safetensors library reads it. A third array, ``about``, holds the rest
as UTF-8 JSON.

=========== =======================================================================================
an image    ``image`` ``(C, *spatial)`` in its own type; ``affine`` float64 ``(n + 1, n + 1)``;
            ``about``: version, unit, channels
a prediction ``score`` float16 or float32, and ``mask`` uint8, both on the image's own grid;
            ``about``: version, and the fields of `inspection_core.prediction.Prediction`
=========== =======================================================================================

Neither a file's name nor a reader's notes go along: they stay with whoever has the file. Floats in JSON are the
shortest digits that read back as the same number; those that JSON has no number for are the texts "inf", "-inf", "nan".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import InspectionError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.prediction import Finding, Neighbour, Prediction, Verdict

VERSION = 1
IMAGE_TYPE = "application/vnd.inspection.image"
PREDICTION_TYPE = "application/vnd.inspection.prediction"
"""Media types of the two."""

MAX_HEADER = 1 << 16
"""Bytes of a safetensors header that are taken: ours have three entries."""
MAX_ABOUT = 1 << 20
"""Bytes of an image's JSON that are taken."""


def image_to_bytes(image: Image) -> bytes:
    """Return an image as bytes, without its source and notes.

    Raises
    ------
    ReadError
        If its values are of a type that only this machine has, such as float128.
    """
    if image.array.dtype.itemsize > 8:
        raise ReadError(
            f"{image.name}: values of 1 to 8 bytes can be sent. Got {image.array.dtype}; convert the image."
        )
    about = {"version": VERSION, "unit": image.geometry.unit, "channels": list(image.channels)}
    return _save({"image": image.array, "affine": image.geometry.affine, "about": _text(about)})


def image_from_bytes(data: bytes) -> Image:
    """Read an image.

    Raises
    ------
    ReadError
        If the bytes are none that `image_to_bytes` makes.
    GeometryError
        If array, affine, unit and channels do not fit together.
    """
    arrays = _load(data, ("image", "affine", "about"), "an image")
    about = _about(arrays["about"], "an image")
    array, affine, channels = arrays["image"], arrays["affine"], about.get("channels")
    if not 3 <= array.ndim <= 4 or affine.dtype != np.float64:
        raise ReadError(
            "An image is (C, y, x) or (C, z, y, x) with a float64 affine. "
            f"Got {array.ndim} axes and an affine of {affine.dtype}."
        )
    if not isinstance(channels, list) or not channels or not all(isinstance(c, str) for c in channels):
        raise ReadError("An image has a list of the names of its channels, at least one. Got none, or no texts.")
    geometry = Geometry(array.shape[1:], affine, cast("Any", about.get("unit")))
    return Image(array, geometry, tuple(channels))


def prediction_to_bytes(prediction: Prediction) -> bytes:
    """Return a prediction as bytes, without its geometry, which is the image's, and its source."""
    about = {
        "version": VERSION,
        "findings": [asdict(f) for f in prediction.findings],
        "timings": dict(prediction.timings),
        **{name: getattr(prediction, name) for name in _PLAIN},
    }
    return _save({"score": prediction.score, "mask": prediction.mask, "about": _text(about)})


_PLAIN = (
    *("image_score", "p_value", "verdict", "threshold", "model_id", "model_version", "model_sha256", "device"),
    "warnings",
)


def prediction_from_bytes(data: bytes, image: Image) -> Prediction:
    """Read the prediction of an image.

    Its source is the image's. The image's notes come first among the warnings, as where the model is at hand.

    Raises
    ------
    ReadError
        If the bytes are none that `prediction_to_bytes` makes.
    GeometryError
        If the prediction is of another grid than the image's.
    """
    arrays = _load(data, ("score", "mask", "about"), "a prediction")
    about = _about(arrays["about"], "a prediction", most=len(data))
    try:
        return Prediction(
            geometry=image.geometry,
            score=arrays["score"],
            mask=arrays["mask"],
            findings=tuple(_finding(f, image.geometry.shape) for f in about["findings"]),
            image_score=float(about["image_score"]),
            p_value=_maybe(about["p_value"]),
            verdict=_verdict(about["verdict"]),
            threshold=float(about["threshold"]),
            model_id=str(about["model_id"]),
            model_version=str(about["model_version"]),
            model_sha256=str(about["model_sha256"]),
            device=str(about["device"]),
            timings={str(k): float(v) for k, v in about["timings"].items()},
            warnings=(*image.notes, *map(str, about["warnings"])),
            source=image.source,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReadError(f"A prediction came with entries that are missing or of another kind ({error!r}).") from error


def _finding(data: Mapping[str, Any], shape: tuple[int, ...]) -> Finding:
    near = data["neighbour"]
    box = list(zip(data["start"], data["stop"], shape, strict=True))
    if not all(0 <= start < stop <= n for start, stop, n in box):
        raise ValueError(box)
    return Finding(
        id=int(data["id"]),
        label=str(data["label"]),
        start=tuple(map(int, data["start"])),
        stop=tuple(map(int, data["stop"])),
        centroid_index=_floats(data["centroid_index"]),
        centroid_world=_floats(data["centroid_world"]),
        size=float(data["size"]),
        size_unit=str(data["size_unit"]),
        long_axis=float(data["long_axis"]),
        short_axis=float(data["short_axis"]),
        peak=float(data["peak"]),
        mean=float(data["mean"]),
        confidence=float(data["confidence"]),
        calibrated=bool(data["calibrated"]),
        p_value=_maybe(data["p_value"]),
        neighbour=near
        and Neighbour(str(near["image"]), _floats(near["centre"]), _floats(near["size"]), float(near["distance"])),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values))


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)


def _verdict(value: Any) -> Verdict:
    if value not in ("OK", "REVIEW", "NG"):
        raise ValueError(value)
    return cast("Verdict", value)


def _save(arrays: dict[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("=")) for name, a in arrays.items()})


def _load(data: bytes, names: tuple[str, ...], what: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of exactly these names."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    said = f"The bytes are not {what} in safetensors"
    if len(data) < 8 or struct.unpack_from("<Q", data)[0] > MAX_HEADER:
        raise ReadError(f"{said}: they are cut off, or something else. Write them as docs/server.md says.")
    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ReadError(f"{said} ({type(error).__name__}). Write them as docs/server.md says.") from error
    if set(arrays) != set(names):
        raise ReadError(f"{said}: its arrays are {', '.join(names)}. Got {len(arrays)}, other ones.")
    return arrays


def _about(array: NDArray[Any], what: str, most: int = MAX_ABOUT) -> dict[str, Any]:
    """Return the JSON object in an array."""
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > most:
        raise ReadError(f"`about` of {what} is a row of at most {most} uint8. Got {array.size} of {array.dtype}.")
    try:
        about = json.loads(array.tobytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"`about` of {what} is a JSON object. Got something else ({type(error).__name__}).") from error
    if not isinstance(about, dict) or about.get("version") != VERSION:
        got = about.get("version") if isinstance(about, dict) else None
        raise ReadError(
            f"`about` of {what} is a JSON object of version {VERSION}. Got {got if isinstance(got, int) else 'none'}; "
            "use the same version of inspection-suite on both sides."
        )
    return about


def _text(about: Mapping[str, Any]) -> NDArray[np.uint8]:
    text = json.dumps(_numbers(about), allow_nan=False, separators=(",", ":"))
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _numbers(value: Any) -> Any:
    """Return plain data; numpy's numbers become Python's, and texts stand for those that JSON has not."""
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


ERRORS: Mapping[str, type[InspectionError]] = {e.__name__: e for e in InspectionError.__subclasses__()}
"""Errors that a server may name, by their name."""
