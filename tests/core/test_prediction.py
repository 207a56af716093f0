"""Prediction and Finding: arrays on one grid, and nothing that changes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.prediction import RESEARCH_USE, Finding, Neighbour, Prediction


def prediction(shape=(4, 5), score=None, mask=None, **fields):
    """A prediction with nothing in it."""
    rest = {
        "findings": (),
        "image_score": 0.0,
        "p_value": None,
        "verdict": "OK",
        "threshold": 1.0,
        "model_id": "m",
        "model_version": "1",
        "model_sha256": "0" * 64,
        "device": "cpu float32",
    }
    return Prediction(
        Geometry.pixels(shape),
        np.zeros(shape, np.float32) if score is None else score,
        np.zeros(shape, np.uint8) if mask is None else mask,
        **{**rest, **fields},
    )


@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.sampled_from([np.float16, np.float32]))
def test_score_and_mask_are_held_without_copies_and_refuse_writing(shape, dtype):
    score, mask = np.ones(shape, dtype), np.ones(shape, np.uint8)
    made = prediction(shape, score, mask)
    for held, given_array in ((made.score, score), (made.mask, mask)):
        assert np.shares_memory(held, given_array)
        assert held.dtype == given_array.dtype
        with pytest.raises(ValueError, match="read-only"):
            held[...] = 0
        assert given_array.flags.writeable


def test_timings_are_a_copy_that_refuses_writing():
    timings = {"infer": 1.5}
    made = prediction(timings=timings)
    timings["infer"] = 2.0
    assert made.timings == {"infer": 1.5}
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.timings["infer"] = 3.0


def test_predictions_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction().verdict = "NG"


def test_findings_are_values():
    neighbour = Neighbour("good/1.png", (3.0, 4.0), (16.0, 16.0), 0.5)
    finding = Finding(1, "crack", (0, 1), (2, 3), (0.5, 1.5), (1.5, 0.5), 4.0, "px", 2.0, 1.0, 3.0, 2.0, 0.9, True)
    assert (finding.p_value, finding.neighbour) == (None, None)
    assert dataclasses.replace(finding, neighbour=neighbour) == dataclasses.replace(finding, neighbour=neighbour)
    assert dataclasses.replace(finding, id=2) != finding
    assert len({finding, dataclasses.replace(finding)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.label = "dent"


def test_the_disclaimer_is_one_line():
    assert RESEARCH_USE == "Research use only, not for diagnosis."


# name: (fields, message)
ERRORS = {
    "score on another grid": (
        {"score": np.zeros((5, 4), np.float32)},
        "The score map lies on the source's grid of shape (4, 5). Got shape (5, 4).",
    ),
    "score with a channel axis": (
        {"score": np.zeros((1, 4, 5), np.float32)},
        "The score map lies on the source's grid of shape (4, 5). Got shape (1, 4, 5).",
    ),
    "mask on another grid": (
        {"mask": np.zeros((4, 6), np.uint8)},
        "The mask lies on the source's grid of shape (4, 5). Got shape (4, 6).",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    fields, message = ERRORS[name]
    with pytest.raises(GeometryError) as caught:
        prediction(**fields)
    assert str(caught.value) == message
