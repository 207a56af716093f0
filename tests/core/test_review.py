"""Review: the mask is the replay of the log, and the log only grows."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inspection_core.errors import GeometryError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.prediction import Prediction
from inspection_core.review import Correction, Review

SHAPE = (6, 7)


def prediction(shape=SHAPE):
    """A prediction whose mask holds one square."""
    mask = np.zeros(shape, np.uint8)
    mask[..., 1:3, 1:4] = 1
    return Prediction(
        Geometry.pixels(shape),
        mask.astype(np.float32),
        mask,
        (),
        1.0,
        None,
        "NG",
        0.5,
        "m",
        "1",
        "0" * 64,
        "cpu float32",
    )


@st.composite
def paints(draw, shape=SHAPE):
    """A block of labels somewhere inside."""
    size = [draw(st.integers(1, n)) for n in shape]
    start = tuple(draw(st.integers(0, n - s)) for n, s in zip(shape, size, strict=True))
    return Correction("paint", draw(st.sampled_from(["ann", "ben"])), start, draw(hnp.arrays(np.uint8, size)))


class AgainstASnapshotOfEveryStep(RuleBasedStateMachine):
    """Undo and redo walk along a list of full masks, whatever comes in between."""

    def __init__(self):
        super().__init__()
        self.review = Review(prediction())
        self.masks = [np.array(self.review.prediction.mask)]
        self.now = 0
        self.entries = 0

    @rule(correction=paints())
    def paint(self, correction):
        self.review.add(correction)
        mask = self.masks[self.now].copy()
        block = tuple(slice(a, a + n) for a, n in zip(correction.start, correction.after.shape, strict=True))
        mask[block] = correction.after
        self.masks = [*self.masks[: self.now + 1], mask]
        self.now += 1
        self.entries += 1

    @rule(action=st.sampled_from(["accept", "reject", "relabel"]))
    def judge(self, action):
        self.review.add(Correction(action, "ann", finding_id=1, note="sure"))
        self.masks = [*self.masks[: self.now + 1], self.masks[self.now]]
        self.now += 1
        self.entries += 1

    @precondition(lambda self: self.now > 0)
    @rule()
    def undo(self):
        self.review.undo("ben")
        self.now -= 1
        self.entries += 1

    @precondition(lambda self: self.now + 1 < len(self.masks))
    @rule()
    def redo(self):
        self.review.redo("ben")
        self.now += 1
        self.entries += 1

    @precondition(lambda self: self.now == 0)
    @rule()
    def undo_too_often(self):
        with pytest.raises(UsageError, match=r"^There is no correction to undo\.$"):
            self.review.undo("ann")

    @precondition(lambda self: self.now + 1 == len(self.masks))
    @rule()
    def redo_too_often(self):
        with pytest.raises(UsageError, match=r"^There is no correction to redo\.$"):
            self.review.redo("ann")

    @invariant()
    def the_mask_is_the_snapshot(self):
        np.testing.assert_array_equal(self.review.mask, self.masks[self.now])
        assert len(self.review.active) == self.now

    @invariant()
    def the_log_only_grows_and_replays(self):
        assert len(self.review.corrections) == self.entries
        again = Review(self.review.prediction, self.review.corrections)
        np.testing.assert_array_equal(again.mask, self.review.mask)
        assert again.active == self.review.active


TestAgainstASnapshotOfEveryStep = AgainstASnapshotOfEveryStep.TestCase
TestAgainstASnapshotOfEveryStep.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@given(st.lists(paints(), max_size=5))
def test_undoing_all_gives_the_prediction_back(corrections):
    review = Review(prediction(), corrections)
    for _ in corrections:
        review.undo("ann")
    np.testing.assert_array_equal(review.mask, review.prediction.mask)
    for _ in corrections:
        review.redo("ann")
    assert review.active == tuple(corrections)
    assert len(review.corrections) == 3 * len(corrections)


@given(paints((3, 4, 5)))
def test_three_dimensions(correction):
    review = Review(prediction((3, 4, 5)), [correction])
    block = tuple(slice(a, a + n) for a, n in zip(correction.start, correction.after.shape, strict=True))
    np.testing.assert_array_equal(review.mask[block], correction.after)


def test_a_new_correction_ends_the_redo():
    review = Review(prediction())
    review.add(Correction("paint", "ann", (0, 0), np.ones((1, 1))[:0].astype(np.uint8)))
    review.undo("ann")
    review.add(Correction("accept", "ann", finding_id=1))
    with pytest.raises(UsageError, match="no correction to redo"):
        review.redo("ann")


def test_a_refused_entry_leaves_no_trace():
    review = Review(prediction())
    with pytest.raises(GeometryError):
        review.add(Correction("paint", "ann", (9, 9), np.ones((1, 1), np.uint8)))
    with pytest.raises(UsageError):
        review.undo("ann")
    assert review.corrections == ()
    assert review.active == ()


def test_the_mask_is_a_new_array():
    review = Review(prediction())
    review.mask[:] = 9
    np.testing.assert_array_equal(review.mask, review.prediction.mask)


def test_the_block_is_a_copy_that_refuses_writing():
    labels = np.ones((2, 2), np.uint8)
    correction = Correction("paint", "ann", (0, 0), labels)
    labels[:] = 7  # as a viewer does
    np.testing.assert_array_equal(correction.after, np.ones((2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        correction.after[0, 0] = 7


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int32, np.uint16, np.int64])
def test_labels_of_other_types_become_uint8(dtype):
    after = Correction("paint", "ann", (0, 0), np.ones((2, 2), dtype)).after
    assert after.dtype == np.uint8
    assert after.min() == after.max() == 1


def test_the_time_is_now_with_its_zone():
    before = datetime.now(UTC)
    correction = Correction("accept", "ann", finding_id=1)
    assert before <= correction.time <= datetime.now(UTC)
    assert correction.time.utcoffset() is not None


ONE = np.ones((1, 1), np.uint8)
# name: (function, error, message)
ERRORS = {
    "no author": (
        lambda: Correction("accept", ""),
        UsageError,
        "A correction names its author. Got an empty name.",
    ),
    "labels without a place": (
        lambda: Correction("paint", "ann", after=ONE),
        UsageError,
        "A correction that changes voxels has both `start` and `after`; any other has neither.",
    ),
    "a place without labels": (
        lambda: Correction("paint", "ann", start=(0, 0)),
        UsageError,
        "A correction that changes voxels has both `start` and `after`; any other has neither.",
    ),
    "a label above 255": (
        lambda: Correction("paint", "ann", (0, 0), ONE.astype(np.int32) * 300),
        UsageError,
        "Labels are whole numbers from 0 to 255. Got int32 from 300 to 300.",
    ),
    "a label below 0": (
        lambda: Correction("paint", "ann", (0, 0), np.array([[-1, 2]])),
        UsageError,
        "Labels are whole numbers from 0 to 255. Got int64 from -1 to 2.",
    ),
    "labels of floats": (
        lambda: Correction("paint", "ann", (0, 0), ONE * 0.5),
        UsageError,
        "Labels are whole numbers from 0 to 255. Got float64 from 0.5 to 0.5.",
    ),
    "no labels, of floats": (
        lambda: Correction("paint", "ann", (0, 0), np.zeros((0, 1))),
        UsageError,
        "Labels are whole numbers from 0 to 255. Got none, of float64.",
    ),
    "a block that reaches outside": (
        lambda: Review(prediction(), [Correction("paint", "ann", (5, 0), np.ones((2, 1), np.uint8))]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 7). Got a block of shape (2, 1) at (5, 0).",
    ),
    "a block that begins outside": (
        lambda: Review(prediction(), [Correction("paint", "ann", (-1, 0), ONE)]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 7). Got a block of shape (1, 1) at (-1, 0).",
    ),
    "a block of other axes": (
        lambda: Review(prediction(), [Correction("paint", "ann", (0, 0, 0), ONE[None])]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 7). Got a block of shape (1, 1, 1) at (0, 0, 0).",
    ),
    "a start of other axes than its block": (
        lambda: Review(prediction(), [Correction("paint", "ann", (0,), ONE)]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 7). Got a block of shape (1, 1) at (0,).",
    ),
    "nothing to undo": (
        lambda: Review(prediction()).undo("ann"),
        UsageError,
        "There is no correction to undo.",
    ),
    "nothing to redo": (
        lambda: Review(prediction()).redo("ann"),
        UsageError,
        "There is no correction to redo.",
    ),
    "a stored log that begins with an undo": (
        lambda: Review(prediction(), [Correction("undo", "ann")]),
        UsageError,
        "There is no correction to undo.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    make, error, message = ERRORS[name]
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
