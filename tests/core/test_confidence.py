"""Confidence: tempered probabilities, findings' probabilities, and how both are fitted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.card import CARD_NAME, Calibration, FindingCalibration, ModelCard
from inspection_core.confidence import feature_rows, probabilities, temper, with_confidence
from inspection_core.confidence_fit import FEW, LabelledFindings, VoxelSample, fit_findings, fit_temperature
from inspection_core.engine import Engine
from inspection_core.errors import ModelError, UsageError
from inspection_core.findings import find_labelled
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.prediction import Finding


def finding(mean=0.8, peak=0.95, size=40.0, spread=None) -> Finding:
    """Make a finding of which only these figures matter."""
    return Finding(1, "tumour", (0, 0, 0), (1, 1, 1), (0, 0, 0), (0, 0, 0), size, "vox", 1, 1, peak, mean, mean, False,
                   spread=spread)  # fmt: skip


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class TestTemper:
    def test_one_changes_nothing(self):
        p = torch.rand((2, 3, 4, 4))
        assert temper(p, 1.0, 3) is p

    @settings(deadline=None)
    @given(st.floats(0.1, 10), st.integers(0, 2**31))
    def test_order_and_sum_stay(self, temperature, seed):
        logits = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(seed)) * 3
        logits.clamp_(-6, 6)  # no probability below the floor
        p = logits.softmax(dim=1)
        q = temper(p, temperature, 4)
        assert torch.allclose(q, (logits / temperature).softmax(dim=1), atol=1e-4)
        assert torch.equal(q.argmax(dim=1), p.argmax(dim=1))

    def test_certain_voxels_stay_numbers_and_the_spread_is_left_alone(self):
        p = torch.tensor([1.0, 0.0, 0.3]).view(1, 3, 1)
        q = temper(p, 2.0, 2)
        assert torch.isfinite(q).all()
        assert q[0, 2, 0] == p[0, 2, 0]


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
    @pytest.mark.parametrize("kind", ["probabilities", "logits"])
    def test_what_made_them_uncertain_is_found(self, temperature, kind):
        rng = np.random.default_rng(1)
        right = rng.normal(0, 2, (40_000, 3))
        labels = (rng.random((40_000, 1)) > softmax(right).cumsum(axis=1)).sum(axis=1)
        given = right * temperature
        found = fit_temperature(softmax(given) if kind == "probabilities" else given, labels)
        assert found == pytest.approx(temperature, rel=0.04)

    def test_a_sample_of_patients_stands_for_all_their_voxels(self):
        rng = np.random.default_rng(2)
        sample, full = VoxelSample(most=3000), VoxelSample(most=10**9)
        for _ in range(4):
            logit = rng.normal(0, 2, (12, 20, 20))
            reference = (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
            foreground = (1 / (1 + np.exp(-2 * logit)))[None]  # twice too certain
            sample.add(foreground, reference)
            full.add(foreground, reference)
        assert full.fit() == pytest.approx(2, rel=0.05)
        assert sample.fit() == pytest.approx(full.fit(), rel=0.05)

    def test_nothing_to_fit(self):
        sample = VoxelSample()
        sample.add(np.zeros((1, 4, 4)), np.zeros((4, 4), np.uint8))
        with pytest.raises(UsageError, match="fitted on patients with a tumour"):
            sample.fit()
        with pytest.raises(UsageError, match=r"of two classes or more\. Got the shapes \(3, 2\) and \(3,\)"):
            fit_temperature(np.full((3, 2), 0.5), [1, 1, 1])


class TestFindings:
    CALIBRATION = FindingCalibration(("mean", "size"), (2.0, 0.5), -1.0, 40, 20, 9)

    def test_the_formula(self):
        (got,) = with_confidence([finding(0.8, size=40)], self.CALIBRATION, 0.5)
        z = 2.0 * math.log(0.8 / 0.2) + 0.5 * math.log(20) - 1
        assert got.confidence == pytest.approx(1 / (1 + math.exp(-z)))
        assert got.calibrated

    def test_without_a_calibration_they_stay(self):
        some = (finding(),)
        assert with_confidence(some, FindingCalibration(), 1.0) == some

    def test_certain_findings_get_a_finite_confidence(self):
        (got,) = with_confidence([finding(1.0, 1.0, 0.0)], replace(self.CALIBRATION, features=("peak", "size")), 1.0)
        assert 0 <= got.confidence <= 1

    @pytest.mark.parametrize(
        ("features", "message"),
        [(("colour",), r"features are mean, peak, size, spread\. Got 'colour'"), (("spread",), "network gives none")],
    )
    def test_features_that_are_not_there(self, features, message):
        with pytest.raises(ModelError, match=message):
            feature_rows([finding()], features, 1.0)

    def test_a_card_without_a_weight_a_feature(self):
        with pytest.raises(ModelError, match="one finite weight a feature"):
            FindingCalibration(("mean",), ())


def patients(count, rng, spread=True, slope=1.5):
    """Make findings whose chance of being a lesion follows their mean and spread."""
    made = []
    for k in range(count):
        n = int(rng.integers(1, 5))
        some = tuple(
            finding(
                rng.uniform(0.5, 1), rng.uniform(0.6, 1), rng.lognormal(4, 1), rng.uniform(0, 0.3) if spread else None
            )
            for _ in range(n)
        )
        rows = feature_rows(some, ("mean", "spread") if spread else ("mean",), 1.0)
        z = slope * rows[:, 0] - (10 * rows[:, 1] if spread else 0) - 1
        made.append(LabelledFindings(f"p{k}", some, rng.random(n) < 1 / (1 + np.exp(-z))))
    return made


class TestFit:
    def test_confidences_are_right_on_patients_not_fitted_on(self):
        rng = np.random.default_rng(3)
        fitted = fit_findings(patients(150, rng))
        assert set(fitted.calibration.features) >= {"spread"}
        assert fitted.calibration.patients == 150
        new = patients(2000, rng)
        p = np.concatenate([probabilities(feature_rows(q.findings, fitted.calibration.features, 1), fitted.calibration)
                            for q in new])  # fmt: skip
        true = np.concatenate([q.true for q in new])
        assert abs(p.mean() - true.mean()) < 0.05
        assert np.mean((p - true) ** 2) < 0.9 * true.mean() * (1 - true.mean())
        assert fitted.brier < fitted.base_brier
        assert fitted.brier == pytest.approx(np.mean((p - true) ** 2), abs=0.03)

    def test_a_feature_that_says_nothing_is_left_out(self):
        fitted = fit_findings(patients(200, np.random.default_rng(4), spread=False))
        assert "spread" not in fitted.calibration.features
        assert "mean" in fitted.calibration.features

    def test_the_same_seed_gives_the_same(self):
        one, two = (fit_findings(patients(60, np.random.default_rng(5)), seed=7) for _ in range(2))
        assert one.calibration == two.calibration

    def test_all_findings_of_one_kind_can_be_told_apart_fully(self):
        some = patients(40, np.random.default_rng(6), slope=100)  # separable: the penalty keeps weights finite
        assert np.isfinite(fit_findings(some, ("mean",)).calibration.weights).all()

    def test_too_few(self):
        few = [LabelledFindings("a", (finding(),) * 30, np.arange(30) < FEW - 1)]
        fitted = fit_findings(few)
        assert fitted.calibration == FindingCalibration()
        assert fitted.reason.startswith("9 true and 21 false findings are too few")
        with pytest.raises(UsageError, match="Got none"):
            fit_findings([])


class Members:
    """Two members that disagree in one half of the volume."""

    stride, offset, spread = 1, 0.0, True

    def __call__(self, batch):
        inside = (batch[:, :1] > 0.5).float() * 0.8 + 0.1
        return torch.cat([1 - inside, inside, torch.full_like(inside, 0.25) * (batch[:, :1] > 0.75)], dim=1)

    def to(self, device):
        pass


def volume(low=0.6, high=0.9):
    array = np.zeros((1, 8, 16, 16), np.float32)
    array[0, 2:4, 2:6, 2:6] = low
    array[0, 2:4, 10:14, 10:13] = high
    return Image(array, Geometry.from_spacing(array.shape[1:], (2.0, 1.0, 1.0)), ("CT",))


class TestPredict:
    def test_the_spread_reaches_its_findings(self, band):
        model = Engine("cpu").load(band(window=(0.0, 1.0)))
        model.predictor = Members()
        found = predict(volume(), model).findings
        assert sorted(f.spread for f in found) == pytest.approx([0, 0.25], abs=1e-3)
        assert not any(f.calibrated for f in found)
        assert [f.confidence for f in found] == pytest.approx([0.9, 0.9], abs=1e-3)

    def test_a_calibrated_card(self, band):
        folder = band(window=(0.0, 1.0))
        card = ModelCard.load(folder)
        sure = FindingCalibration(("mean", "size"), (1.0, 0.0), -9.0, 40, 20, 9)
        card = replace(card, calibration=Calibration("by hand", temperature=2.0, finding=sure))
        (folder / CARD_NAME).write_text(card.to_toml())
        assert ModelCard.load(folder) == card
        plain = Engine("cpu").load(band("other", window=(0.0, 1.0)))
        before, after = predict(volume(0.52), plain), predict(volume(0.52), Engine("cpu").load(folder))
        assert np.array_equal(before.mask, after.mask)
        # Each voxel's log-odds are halved.
        z = np.log(before.score[2, 3, 3] / (1 - before.score[2, 3, 3]))
        assert after.score[2, 3, 3] == pytest.approx(1 / (1 + np.exp(-z / 2)), abs=1e-3)
        assert all(f.calibrated and f.confidence < 0.3 for f in after.findings)
        assert (before.verdict, after.verdict) == ("NG", "OK")

    def test_size_counts_in_voxels_of_the_network(self, band):
        """The same lesion has the same confidence, however finely the study was stored."""
        calibration = Calibration(finding=FindingCalibration(("size",), (1.0,), -5.0, 40, 20, 9))
        model = Engine("cpu").load(band(window=(0.0, 1.0), spacing=(2.0, 1.0, 1.0)))
        model.card = replace(model.card, calibration=calibration)
        coarse = volume(0.9, 0.0)
        fine = Image(np.repeat(coarse.array, 2, axis=2), Geometry.from_spacing((8, 32, 16), (2.0, 0.5, 1.0)), ("CT",))
        (a,), (b,) = predict(coarse, model).findings, predict(fine, model).findings
        assert a.confidence == pytest.approx(b.confidence, abs=0.05)

    def test_a_spread_beside_the_classes(self):
        labels = np.zeros((3, 6, 6), np.uint8)
        labels[0, :2, :2], labels[2, 3:, 3:] = 1, 2
        spread = np.where(labels == 1, 0.1, np.where(labels == 2, 0.3, 0.9))
        _, found = find_labelled(labels, (labels > 0) * 0.8, Geometry.pixels((3, 6, 6)), ("a", "b"), spread=spread)
        assert {f.label: f.spread for f in found} == pytest.approx({"a": 0.1, "b": 0.3})


def test_an_empty_calibration_is_not_written():
    """So that cards of models without one read as before."""
    card = ModelCard("m", "1", "x", "anomaly", ("grey",), "score")
    assert {"temperature", "finding", "inputs"}.isdisjoint(card.to_dict()["calibration"])
