"""Anomaly models on scans: the same way through, with a score map instead of classes."""

import numpy as np
import pytest
import torch

from inspection_core.card import Calibration, ModelCard, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import measure, predict
from inspection_core.models import Scores


class Bright:
    """How bright a block of 2 x 2 (x 2) is."""

    stride, offset = 2, 0.5

    def __call__(self, batch):
        pool = torch.nn.functional.avg_pool3d if batch.ndim == 5 else torch.nn.functional.avg_pool2d
        return Scores(pool(batch, 2)[:, 0])

    def to(self, device):
        pass


@pytest.mark.parametrize("view", ["slices", "volume"])
def test_a_bright_block_is_an_anomaly_where_it_is(view, tmp_path):
    card = ModelCard(
        "bright", "1", "x", "anomaly", ("CT",), "brightness",
        preparation=Preparation(window=(0.0, 100.0), view=view, short_side=0, multiple=4, tile=8),
        calibration=Calibration("by hand", tuple(np.linspace(0.1, 0.3, 40)), tuple(np.linspace(0.1, 0.3, 40)), 0.2),
    )  # fmt: skip
    array = np.full((1, 9, 14, 15), 10, np.int16)
    array[0, 2:6, 4:8, 6:10] = 90
    geometry = Geometry.from_spacing(array.shape[1:], (2.0, 1.0, 1.0)).flipped(0)
    model = LoadedModel(card, tmp_path, Bright(), Device("cpu"))
    prediction = predict(Image(array, geometry, ("CT",)), model)
    assert prediction.verdict == "NG"
    assert prediction.p_value == pytest.approx(1 / 41)
    (finding,) = prediction.findings
    assert np.abs(np.array(finding.centroid_index) - (3.5, 5.5, 7.5)).max() <= 0.5
    assert measure(Image(array, geometry, ("CT",)), model).score.shape == array.shape[1:]
