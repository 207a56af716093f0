"""The synthetic head: one seed gives one head, its lesion lies where it was drawn, and it says what it is."""

import numpy as np

from inspection_core.phantom import CHANNELS, LABEL, SHAPE, phantom


def test_one_seed_gives_one_head():
    assert np.array_equal(phantom().image.array, phantom().image.array)
    assert not np.array_equal(phantom().image.array, phantom(1).image.array)


def test_the_lesion_is_bright_on_flair_and_on_the_left():
    made = phantom()
    flair = made.image.array[CHANNELS.index("FLAIR")]
    assert flair[made.lesion].mean() > 1.7 * flair[~made.lesion & (flair > 60)].mean()
    centre = made.image.geometry.index_to_world(np.argwhere(made.lesion)).mean(axis=0)
    middle = made.image.geometry.index_to_world((np.array(SHAPE) - 1) / 2)
    assert centre[0] > middle[0] + 20  # x grows to the patient's left
    assert centre[1] < middle[1]  # y grows to the back


def test_it_is_oblique_and_stored_back_to_front():
    affine = phantom().image.geometry.affine
    assert affine[1, 1] < -0.9
    assert abs(affine[1, 0]) > 0.5


def test_it_says_what_it_is():
    assert LABEL in phantom().image.notes
