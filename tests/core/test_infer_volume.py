"""Anomaly models on scans: the same way through, with a score map instead of classes."""

import math
import subprocess
import sys
from pathlib import Path

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


BYTES = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict

torch.set_num_threads(1)
CLASSES, SIDE = 8, 32

class Levels:
    stride, offset, logits = 1, 0.0, True
    def __call__(self, batch):
        steps = torch.arange(CLASSES).view(1, -1, 1, 1, 1)
        return (batch * (CLASSES - 1)).sub(steps).square_().mul_(-8.0)
    def to(self, device):
        pass

card = ModelCard(
    "levels", "1", "x", "segmentation", ("CT",), "s", classes=tuple("abcdefg"), policy=Policy(kind="band"),
    preparation=Preparation(window=(0.0, 1000.0), view="volume", short_side=0, multiple=8, window_size=(SIDE,) * 3,
                            overlap=0.5, blend="gaussian", steps="fixed", average="logits"),
)
model = LoadedModel(card, Path("."), Levels(), Device("cpu"))

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def study(*shape):
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    array = np.zeros((1, *shape), np.int16)
    for plane, height in zip(array[0], z, strict=True):  # nested shells, one a class
        plane[:] = np.floor(7 * np.minimum(1, np.sqrt(height**2 + y[0] ** 2 + x[0] ** 2)) + 0.5) * 1000 / 7
    return Image(array, Geometry.from_spacing(shape, (1.0, 1.0, 1.0)), card.channels)

predict(study(40, 40, 40), model)  # imports, and the heap of small things
image = study(*map(int, sys.argv[1:]))
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
found = predict(image, model)
print(len(found.findings), status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs a system that counts memory anew")
def test_a_scan_takes_its_score_its_mask_and_what_windows_still_change():
    """No copy of the scan, of its score or of its mask beside them, neither in the network nor for findings."""
    shape, classes, side = (256, 192, 160), 8, 32
    command = [sys.executable, "-c", BYTES, *map(str, shape)]
    findings, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(findings) == classes - 1
    voxels, around = math.prod(shape), shape[1] * shape[2]
    sums = 2 * (classes - 1) * side // 2 * around  # a layer of windows, as float16
    layer = 4 * side * around  # of the scan, as the network takes it
    assert int(peak) < 5 * voxels + sums + layer + 32e6  # float32 score and uint8 mask
