"""Images and predictions as bytes: nothing is lost, and nothing malformed gets through."""

import contextlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load, save

from inspection_core.errors import GeometryError, InspectionError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.wire import (
    MAX_HEADER,
    image_from_bytes,
    image_to_bytes,
    prediction_from_bytes,
    prediction_to_bytes,
)
from inspection_core.prediction import Finding, Neighbour, Prediction

TYPES = ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8"]


def image(array: np.ndarray, **changes) -> Image:
    n = array.ndim - 1
    affine = np.eye(n + 1) + np.triu(np.full((n + 1, n + 1), 0.1), 1)
    affine[-1] = [0.0] * n + [1.0]
    made = Image(array, Geometry(array.shape[1:], affine, "mm"), tuple(f"c{i}" for i in range(len(array))))
    return replace(made, **changes)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_an_image_comes_back_as_it_was(data):
    shape = data.draw(npst.array_shapes(min_dims=3, max_dims=4, max_side=4))
    array = data.draw(npst.arrays(np.dtype(data.draw(st.sampled_from(TYPES))), shape))
    axes = data.draw(st.permutations(range(array.ndim)))
    sent = image(array.transpose(axes))  # any order in memory
    back = image_from_bytes(image_to_bytes(sent))
    assert back.array.dtype == sent.array.dtype.newbyteorder("=")
    assert back.array.tobytes() == sent.array.astype(back.array.dtype).tobytes()  # NaN too
    assert back.geometry == sent.geometry
    assert back.channels == sent.channels


def test_neither_name_nor_notes_go_along():
    sent = image(np.zeros((1, 2, 2)), source=Path("/private/Doe^John.dcm"), notes=("born in 1970",))
    data = image_to_bytes(sent)
    assert b"Doe" not in data
    assert b"1970" not in data
    assert image_from_bytes(data).source is None


def test_a_type_of_this_machine_alone_is_refused():
    with pytest.raises(ReadError, match="values of 1 to 8 bytes"):
        image_to_bytes(image(np.zeros((1, 2, 2), np.longdouble)))


def parts(**changes) -> bytes:
    """Return an image's bytes with other entries; None leaves one out."""
    about = {"version": 1, "unit": "px", "channels": ["grey"], **changes.pop("about", {})}
    text = changes.pop("text", json.dumps(about).encode())
    made = {"image": np.zeros((1, 2, 2), "u1"), "affine": np.eye(3), "about": np.frombuffer(text, "u1"), **changes}
    return save({k: v for k, v in made.items() if v is not None})


# name: (bytes, error, a part of its text)
MALFORMED = {
    "empty": (b"", ReadError, "cut off"),
    "text": (b"hello, server", ReadError, "cut off"),
    "header without end": (struct.pack("<Q", MAX_HEADER + 1) + b"{" * 100, ReadError, "cut off"),
    "header beyond the end": (struct.pack("<Q", 1000) + b"{}", ReadError, "SafetensorError"),
    "header no json": (struct.pack("<Q", 2) + b"xx", ReadError, "SafetensorError"),
    "cut off": (parts()[:-1], ReadError, "SafetensorError"),
    "too long": (parts() + b"\0", ReadError, "SafetensorError"),
    "no image": (parts(image=None), ReadError, "its arrays are image, affine, about"),
    "one more": (parts(extra=np.zeros(1)), ReadError, "Got 4, other ones"),
    "no spatial axes": (parts(image=np.zeros(3)), ReadError, "Got 1 axes"),
    "five axes": (parts(image=np.zeros((1,) * 5)), ReadError, "Got 5 axes"),
    "no voxels": (parts(image=np.zeros((1, 0, 2))), GeometryError, "at least 1 voxel"),
    "booleans": (parts(image=np.zeros((1, 2, 2), bool)), GeometryError, "integers or floats"),
    "affine of float32": (parts(affine=np.eye(3, dtype="f4")), ReadError, "an affine of float32"),
    "affine of another size": (parts(affine=np.eye(4)), GeometryError, "3 x 3"),
    "affine of NaN": (parts(affine=np.full((3, 3), np.nan)), GeometryError, "finite"),
    "about of float": (save({**load(parts()), "about": np.zeros(3)}), ReadError, "row of at"),
    "about no json": (parts(text=b"{"), ReadError, "JSONDecodeError"),
    "about no utf-8": (parts(text=b"\xff"), ReadError, "UnicodeDecodeError"),
    "about a bomb": (parts(text=b"[" * 200_000), ReadError, "RecursionError"),
    "about a number of many digits": (parts(text=b'{"version":' + b"9" * 5000 + b"}"), ReadError, "ValueError"),
    "about a list": (parts(text=b"[]"), ReadError, "Got none"),
    "of the future": (parts(about={"version": 2}), ReadError, "Got 2; use the same version"),
    "unknown unit": (parts(about={"unit": "inch"}), GeometryError, "unit is"),
    "channels no list": (parts(about={"channels": "grey"}), ReadError, "list of the names"),
    "channels no texts": (parts(about={"channels": [1]}), ReadError, "list of the names"),
    "too many channels": (parts(about={"channels": ["a", "b"]}), GeometryError, "needs a name"),
}


@pytest.mark.parametrize(("data", "error", "text"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(data, error, text):
    with pytest.raises(error, match=text):
        image_from_bytes(data)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 400))
def test_damage_is_an_error_of_one_line_or_an_image(at, change, cut):
    data = bytearray(parts())
    data[at : at + len(change)] = change
    with contextlib.suppress(InspectionError):  # whose text is one line, whatever it holds
        assert image_from_bytes(bytes(data[: len(data) - cut] if cut < 200 else data)).ndim in (2, 3)


def prediction(of: Image, **changes) -> Prediction:
    shape = of.geometry.shape
    finding = Finding(1, "crack", (0, 1), (2, 2), (0.1, 1 / 3), (1e-300, -0.0), 2.5, "mm2", 1.0, 2.0, 0.7,
                      float("nan"), 0.3, True, 1 / 7, Neighbour("good/ä.png", (1.5, 2.5), (8.0, 8.0), 0.1))  # fmt: skip
    made = Prediction(
        geometry=of.geometry,
        score=np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape),
        mask=np.ones(shape, np.uint8),
        findings=(finding, replace(finding, id=2, p_value=None, neighbour=None)),
        image_score=np.float32(0.1),
        p_value=0.25,
        verdict="NG",
        threshold=float("inf"),
        model_id="m",
        model_version="1",
        model_sha256="0" * 64,
        device="cpu float32",
        timings={"infer": 0.125},
        warnings=("look twice",),
    )
    return replace(made, **changes)


@pytest.mark.parametrize("score", [np.float16, np.float32])
def test_a_prediction_comes_back_as_it_was(score):
    of = image(np.zeros((1, 3, 4)), source=Path("a.png"), notes=("turned upright",))
    sent = prediction(of, score=np.random.default_rng(0).random((3, 4)).astype(score), p_value=None)
    back = prediction_from_bytes(prediction_to_bytes(sent), of)
    assert back.score.dtype == score
    assert back.score.tobytes() == sent.score.tobytes()
    assert back.mask.tobytes() == sent.mask.tobytes()
    assert repr(back.findings) == repr(sent.findings)  # NaN is not equal to itself
    for name in ("p_value", "verdict", "threshold", "model_id", "model_version", "model_sha256", "device", "timings"):
        assert getattr(back, name) == getattr(sent, name), name
    assert back.image_score == float(np.float32(0.1))
    assert back.warnings == ("turned upright", "look twice")
    assert back.source == of.source


WRONG = {
    "another grid": ({"mask": np.zeros((2, 2), "u1")}, {}, GeometryError),
    "a mask of float": ({"mask": np.zeros((3, 4))}, {}, GeometryError),
    "no findings": ({}, {"findings": None}, ReadError),
    "a finding of nothing": ({}, {"findings": [{}]}, ReadError),
    "a finding elsewhere": ({}, {"findings": [{"neighbour": None, "start": [0, 0], "stop": [2, 9]}]}, ReadError),
    "a verdict of its own": ({}, {"verdict": "<b>NG</b>"}, ReadError),
    "a score of text": ({}, {"image_score": "high"}, ReadError),
    "a score beyond floats": ({}, {"image_score": 10**400}, ReadError),
}


@pytest.mark.parametrize(("arrays", "about", "error"), WRONG.values(), ids=WRONG)
def test_a_prediction_that_is_none(arrays, about, error):
    of = image(np.zeros((1, 3, 4)))
    good = load(prediction_to_bytes(prediction(of)))
    text = json.dumps({**json.loads(good["about"].tobytes()), **about}).encode()
    with pytest.raises(error):
        prediction_from_bytes(save({**good, **arrays, "about": np.frombuffer(text, "u1")}), of)
