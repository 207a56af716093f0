"""One image's way through a model: the same score in any company, and findings that explain themselves."""

import dataclasses

import numpy as np
import pytest
import torch

from inspection_core.card import Calibration
from inspection_core.device import Device
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import ReadError
from inspection_core.infer import Clock, measure, predict, top_mean


class Full:
    """A predictor whose device is full: memory runs out wherever it is not on the CPU."""

    def __init__(self, predictor) -> None:
        self.predictor, self.stride, self.offset = predictor, predictor.stride, predictor.offset
        self.device = Device("cpu")

    def __call__(self, batch):
        if self.device.name != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.predictor(batch)

    def to(self, device: Device) -> None:
        self.device = device

    def explain(self, reference: int):
        return self.predictor.explain(reference)


def test_a_good_part_is_ok_and_a_hole_is_ng(model, parts, tmp_path):
    good = predict(parts.read(tmp_path, parts.brushed(50)), model)
    bad = predict(parts.read(tmp_path, parts.hole(parts.brushed(50))), model)
    assert (good.verdict, bad.verdict) == ("OK", "NG")
    assert bad.image_score > bad.threshold > good.image_score
    assert bad.p_value == pytest.approx(1 / 13)
    assert bad.score.shape == bad.mask.shape == (96, 96)


def test_a_finding_covers_the_hole_and_names_a_good_patch(model, parts, good_parts, tmp_path):
    finding = predict(parts.read(tmp_path, parts.hole(parts.brushed(51), at=(30, 60))), model).findings[0]
    assert all(a <= 37 + b <= c for a, b, c in zip(finding.start, (0, 30), finding.stop, strict=True))
    assert (good_parts / finding.neighbour.image).is_file()
    assert all(-8 <= c <= 104 for c in finding.neighbour.centre)
    assert finding.neighbour.distance > 0


def test_the_same_image_gets_the_same_score_in_any_company(model, fitted, parts, tmp_path):
    """Alone, after others, in other order, in a batch, and from a model that was loaded anew."""
    images = []
    for i, picture in enumerate([parts.brushed(60), parts.hole(parts.brushed(61)), parts.brushed(62)]):
        (tmp_path / str(i)).mkdir()
        images.append(parts.read(tmp_path / str(i), picture))
    alone = [predict(image, model) for image in images]
    reverse = [predict(image, model) for image in reversed(images)][::-1]
    anew = [predict(image, Engine("cpu").load(fitted.folder)) for image in images]
    batch_of_4 = LoadedModel(model.card, model.folder, model.predictor, Device("cpu", batch=4))
    batched = [predict(image, batch_of_4) for image in images]
    for others in (reverse, anew, batched):
        for one, other in zip(alone, others, strict=True):
            assert other.image_score == pytest.approx(one.image_score, rel=1e-6)
            assert np.allclose(other.score, one.score, rtol=1e-5)
            assert (other.verdict, len(other.findings)) == (one.verdict, len(one.findings))


def test_scarce_memory_ends_on_the_cpu_and_is_said(model, parts, tmp_path):
    image = parts.read(tmp_path, parts.brushed(50))
    scarce = LoadedModel(model.card, model.folder, Full(model.predictor), Device("meta", batch=4))
    prediction = predict(image, scarce)
    assert prediction.warnings == ("memory ran short: done on cpu with a batch of 1",)
    assert prediction.device == "cpu float32"
    assert prediction.image_score == predict(image, model).image_score


def test_without_calibration_everything_goes_to_review(model, parts, tmp_path):
    card = dataclasses.replace(model.card, calibration=Calibration())
    uncalibrated = LoadedModel(card, model.folder, model.predictor, model.device)
    prediction = predict(parts.read(tmp_path, parts.hole(parts.brushed(50))), uncalibrated)
    assert (prediction.verdict, prediction.p_value, prediction.findings) == ("REVIEW", None, ())
    assert prediction.warnings[0].startswith("The model is uncalibrated")


def test_an_image_of_another_type_is_refused(model, parts, tmp_path):
    with pytest.raises(ReadError, match=r"was made from uint8 images .* Got uint16"):
        predict(parts.read(tmp_path, parts.brushed(50).astype(np.uint16)), model)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 65)])
def test_any_size_goes_through(model, parts, tmp_path, shape):
    measured = measure(parts.read(tmp_path, np.full(shape, 128, np.uint8)), model)
    assert measured.score.shape == shape
    assert np.isfinite(measured.score).all()
    assert set(measured.timings) == {"prepare", "infer", "restore"}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 9.0), (0.1, 9.0), (0.2, 8.5), (1.0, 4.5)], ids=["peak", "one", "two", "all"]
)
def test_top_mean(share, expected):
    assert top_mean(np.arange(10.0).reshape(2, 5), share) == expected


def test_a_clock_adds_laps_of_one_name(monkeypatch):
    times = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.lap("a")
    clock.lap("a")
    assert clock.laps == {"a": 3.0}
