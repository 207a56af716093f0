"""Watching and cancelling: steps reach who watches, a cancelled run stops, and nobody else notices."""

import numpy as np
import pytest

from inspection_core.engine import Engine
from inspection_core.errors import CancelledError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.progress import Watch, tick, watched


@pytest.fixture
def steps():
    return []


def watch(steps, cancelled=lambda: False):
    return Watch(lambda done, total: steps.append((done, total)), cancelled)


def test_nobody_watches():
    tick(1, 2)


def test_steps_are_reported_while_someone_watches(steps):
    with watched(watch(steps)):
        tick(0, 2)
        tick(1, 2)
    tick(2, 2)
    assert steps == [(0, 2), (1, 2)]


def test_larger_steps_hide_the_finer_ones(steps):
    with watched(watch(steps)):
        tick(0, 9)
        tick(1, 3, coarse=True)
        tick(5, 9)
    assert steps == [(0, 9), (1, 3)]


def test_a_volume_reports_its_windows_and_stops_when_asked(band, steps):
    model = Engine("cpu").load(band(tile=16))
    image = Image(np.zeros((1, 20, 20, 20), np.int16), Geometry.from_spacing((20, 20, 20), (1, 1, 1)), ("CT",))
    with watched(watch(steps)):
        predict(image, model)
    assert len(steps) > 2
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    with watched(watch([], lambda: True)), pytest.raises(CancelledError, match=r"^Cancelled. Nothing was changed.$"):
        predict(image, model)
    predict(image, model)  # the model is as good as before


def test_a_picture_reports_its_windows(model, parts, tmp_path, steps):
    with watched(watch(steps)):
        predict(parts.read(tmp_path, parts.brushed(3)), model)
    assert steps
