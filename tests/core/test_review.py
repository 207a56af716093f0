"""Review: what counts is the replay of the log, and the log only grows."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inspection_core.errors import GeometryError, UsageError
from inspection_core.findings import find_labelled
from inspection_core.geometry import Geometry
from inspection_core.prediction import Prediction
from inspection_core.review import ACTIONS, Correction, Mark, Review

SHAPE = (6, 9)
CLASSES = ("scratch", "dent")


def prediction(shape=SHAPE):
    """A prediction with two findings: number 1 is a dent, number 2 a scratch."""
    mask = np.zeros(shape, np.uint8)
    mask[..., 1:3, 1:4] = 2
    mask[..., 3:5, 6:8] = 1
    score = np.where(mask == 2, 0.9, np.where(mask == 1, 0.7, 0.1)).astype(np.float32)
    geometry = Geometry.pixels(shape)
    mask, findings = find_labelled(mask, score, geometry, CLASSES)
    return Prediction(geometry, score, mask, findings, 0.9, None, "NG", 0.5, "m", "1", "0" * 64, "cpu float32")


@st.composite
def paints(draw, shape=SHAPE):
    """A block of numbers somewhere inside; 3 is new."""
    size = [draw(st.integers(1, n)) for n in shape]
    start = tuple(draw(st.integers(0, n - s)) for n, s in zip(shape, size, strict=True))
    after = draw(hnp.arrays(np.uint16, size, elements=st.integers(0, 3)))
    return draw(st.sampled_from(["ann", "ben"])), start, after


class AgainstASnapshotOfEveryStep(RuleBasedStateMachine):
    """Undo and redo walk along a list of full states, whatever comes in between."""

    def __init__(self):
        super().__init__()
        self.review = Review(prediction(), classes=CLASSES)
        self.states = [self.state()]
        self.now = 0
        self.entries = 0

    def state(self):
        return np.array(self.review.regions), dict(self.review.marks)

    def done(self):
        self.states = [*self.states[: self.now + 1], self.state()]
        self.now += 1
        self.entries += 1

    @rule(block=paints())
    def paint(self, block):
        author, start, after = block
        self.review.add(self.review.change("paint", author, start, after))
        box = tuple(slice(a, a + n) for a, n in zip(start, after.shape, strict=True))
        np.testing.assert_array_equal(self.review.regions[box], after)
        self.done()

    @rule(action=st.sampled_from(["accept", "reject", "reopen"]), number=st.integers(1, 2))
    def judge(self, action, number):
        self.review.add(self.review.judge(action, "ann", [number]))
        self.done()

    @rule(label=st.sampled_from([*CLASSES, "stain"]), number=st.integers(1, 2))
    def relabel(self, label, number):
        self.review.add(self.review.relabel("ann", [number], label))
        self.done()

    @precondition(lambda self: self.now > 0)
    @rule()
    def undo(self):
        self.review.undo("ben")
        self.now -= 1
        self.entries += 1

    @precondition(lambda self: self.now + 1 < len(self.states))
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

    @precondition(lambda self: self.now + 1 == len(self.states))
    @rule()
    def redo_too_often(self):
        with pytest.raises(UsageError, match=r"^There is no correction to redo\.$"):
            self.review.redo("ann")

    @invariant()
    def the_state_is_the_snapshot(self):
        regions, marks = self.states[self.now]
        np.testing.assert_array_equal(self.review.regions, regions)
        assert self.review.marks == marks
        assert len(self.review.active) == self.now

    @invariant()
    def the_log_only_grows_and_replays(self):
        assert len(self.review.corrections) == self.entries
        again = Review(self.review.prediction, self.review.corrections, CLASSES)
        np.testing.assert_array_equal(again.regions, self.review.regions)
        assert again.marks == self.review.marks
        assert again.active == self.review.active


TestAgainstASnapshotOfEveryStep = AgainstASnapshotOfEveryStep.TestCase
TestAgainstASnapshotOfEveryStep.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.fixture
def review():
    return Review(prediction(), classes=CLASSES)


def test_it_begins_with_the_prediction(review):
    np.testing.assert_array_equal(review.mask, review.prediction.mask)
    assert review.marks == {1: Mark("dent"), 2: Mark("scratch")}
    assert review.classes == CLASSES
    assert [f.id for f in review.prediction.findings] == [1, 2]
    assert review.regions[1, 1] == 1
    assert review.regions[3, 6] == 2
    assert review.next_number == 3


def test_what_is_rejected_leaves_the_mask_and_comes_back(review):
    review.add(review.judge("reject", "ann", [1]))
    assert set(np.unique(review.mask)) == {0, 1}
    assert review.regions[1, 1] == 1, "its voxels are kept"
    review.undo("ann")
    np.testing.assert_array_equal(review.mask, review.prediction.mask)


def test_another_class_changes_the_mask_and_no_outline(review):
    review.add(review.relabel("ann", [1], "scratch"))
    assert set(np.unique(review.mask)) == {0, 1}
    assert review.mark(1) == Mark("scratch")
    review.add(review.relabel("ann", [1], "stain"))
    assert review.mask[1, 1] == 3, "a class that the model has not comes after its own"
    assert review.classes == (*CLASSES, "stain")


def test_a_stroke_marks_what_it_touched_as_edited(review):
    after = np.array([[3, 3]])
    touched = review.add(review.change("paint", "ann", (1, 3), after, label="scratch"))
    assert touched == (1, 3)
    assert review.mark(1).edited
    assert not review.mark(2).edited
    assert review.mark(3) == Mark("scratch", edited=True)
    assert review.mask[1, 3] == 1
    assert review.log[-1].voxels == 2


def test_numbers_are_never_given_twice(review):
    review.add(review.change("paint", "ann", (0, 0), np.array([[review.next_number]])))
    review.undo("ann")
    assert review.next_number == 4, "an undone finding keeps its number: the log speaks of it"


def test_a_new_correction_ends_the_redo(review):
    review.add(review.judge("accept", "ann", [1]))
    review.undo("ann")
    assert review.redoable is not None
    review.add(review.judge("accept", "ann", [2]))
    with pytest.raises(UsageError, match="no correction to redo"):
        review.redo("ann")


def test_a_refused_entry_leaves_no_trace(review):
    with pytest.raises(GeometryError):
        review.add(Correction("paint", "ann", (9, 9), np.ones((1, 1), np.uint16)))
    with pytest.raises(UsageError):
        review.undo("ann")
    assert review.corrections == review.active == ()


def test_the_mask_is_a_new_array_and_the_numbers_refuse_writing(review):
    review.mask[:] = 9
    np.testing.assert_array_equal(review.mask, review.prediction.mask)
    with pytest.raises(ValueError, match="read-only"):
        review.regions[0, 0] = 7


def test_the_block_is_a_copy_that_refuses_writing():
    numbers = np.ones((2, 2), np.uint16)
    correction = Correction("paint", "ann", (0, 0), numbers)
    numbers[:] = 7  # as a viewer does
    np.testing.assert_array_equal(correction.after, np.ones((2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        correction.after[0, 0] = 7


@given(paints((3, 4, 5)))
@settings(max_examples=20, deadline=None)
def test_three_dimensions(block):
    author, start, after = block
    review = Review(prediction((3, 6, 9)))
    review.add(review.change("paint", author, start, after))
    box = tuple(slice(a, a + n) for a, n in zip(start, after.shape, strict=True))
    np.testing.assert_array_equal(review.regions[box], after)
    review.undo(author)
    np.testing.assert_array_equal(review.mask, review.prediction.mask)


def test_the_time_is_now_with_its_zone():
    before = datetime.now(UTC)
    correction = Correction("accept", "ann", marks={1: Mark("dent", "accepted")})
    assert before <= correction.time <= datetime.now(UTC)
    assert correction.time.utcoffset() is not None


ONE = np.ones((1, 1), np.uint16)
# name: (function, error, message)
ERRORS = {
    "no author": (
        lambda: Correction("accept", ""),
        UsageError,
        "A correction names its author. Got an empty name.",
    ),
    "an action that nobody knows": (
        lambda: Correction("praise", "ann"),
        UsageError,
        f"An action is one of {', '.join(ACTIONS)}. Got 'praise'.",
    ),
    "numbers without a place": (
        lambda: Correction("paint", "ann", after=ONE),
        UsageError,
        "A correction that changes voxels has both `start` and `after`; any other has neither.",
    ),
    "a place without numbers": (
        lambda: Correction("paint", "ann", start=(0, 0)),
        UsageError,
        "A correction that changes voxels has both `start` and `after`; any other has neither.",
    ),
    "a number above 65535": (
        lambda: Correction("paint", "ann", (0, 0), ONE.astype(np.int32) * 70000),
        UsageError,
        "Finding numbers are whole, from 0 to 65535. Got int32 from 70000 to 70000.",
    ),
    "a number below 0": (
        lambda: Correction("paint", "ann", (0, 0), np.array([[-1, 2]])),
        UsageError,
        "Finding numbers are whole, from 0 to 65535. Got int64 from -1 to 2.",
    ),
    "numbers of floats": (
        lambda: Correction("paint", "ann", (0, 0), ONE * 0.5),
        UsageError,
        "Finding numbers are whole, from 0 to 65535. Got float64 from 0.5 to 0.5.",
    ),
    "no numbers, of floats": (
        lambda: Correction("paint", "ann", (0, 0), np.zeros((0, 1))),
        UsageError,
        "Finding numbers are whole, from 0 to 65535. Got none, of float64.",
    ),
    "a block that reaches outside": (
        lambda: Review(prediction(), [Correction("paint", "ann", (5, 0), np.ones((2, 1), np.uint16))]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 9). Got a block of shape (2, 1) at (5, 0).",
    ),
    "a block of other axes": (
        lambda: Review(prediction(), [Correction("paint", "ann", (0, 0, 0), ONE[None])]),
        GeometryError,
        "A correction lies inside the mask of shape (6, 9). Got a block of shape (1, 1, 1) at (0, 0, 0).",
    ),
    "a finding without a mark": (
        lambda: Review(prediction(), [Correction("paint", "ann", (0, 0), ONE * 7)]),
        UsageError,
        "A correction that makes a finding gives its mark. Got finding 7 without one.",
    ),
    "a verdict on no finding": (
        lambda: Review(prediction()).judge("accept", "ann", [5]),
        UsageError,
        "There is no finding 5 among the 2.",
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
