"""Fitting and screening from the viewer, and the threshold over stored results."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from inspection_core.card import Calibration, ModelCard
from inspection_core.io.store import Row
from napari_inspection.industrial.verdicts import judge


def brushed(seed, size=64):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), (0.8, 6), mode="wrap")
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


@pytest.fixture
def plant(tmp_path):
    """Good parts to learn from, and parts to screen, one with a hole."""
    for part, seeds in (("train/good", range(8)), ("test", range(20, 24))):
        folder = tmp_path / "plant" / part
        folder.mkdir(parents=True)
        for seed in seeds:
            picture = brushed(seed)
            if seed == 23:
                picture[20:34, 20:34] = 255
            PIL.Image.fromarray(picture).save(folder / f"part{seed}.png")
    return tmp_path / "plant"


def test_fit_screen_and_move_the_threshold(panel, until, plant):
    fit = panel.running.fit
    fit.folder.setText(str(plant))
    fit.name.setText("plates")
    fit.rate.setValue(20)
    fit.fit_button.click()
    until(lambda: panel.session.job.finished, 900_000)
    assert panel.messages.label.text().startswith("Model plates is ready."), panel.messages.label.text()
    assert panel.running.picker.card.id == "plates"

    panel.session.list([plant / "test"])
    until(lambda: panel.opening.model.rowCount() == 4)
    panel.running.screening.screen_button.click()
    until(lambda: panel.session.job.finished, 900_000)
    assert "failed" in panel.messages.label.text()
    results = panel.opening.model.results
    assert len(results) == 4
    worst = max(results, key=lambda k: results[k].score)
    assert panel.opening.model.items[worst].files[0].name == "part23.png"
    assert panel.running.screening.report.is_file()
    assert fit.histogram.isVisibleTo(fit)

    counts = []
    for rate in (0.1, 20, 50):
        fit.rate.setValue(rate)
        counts.append(sum(r.verdict == "NG" for r in results.values()))
    assert counts == sorted(counts)
    assert fit.histogram.grab().width() > 0


CARD = ModelCard(
    "m", "1", "patch-memory", "anomaly", ("grey",), "distance", calibration=Calibration("hand", tuple(range(1, 20)))
)


@pytest.mark.parametrize(("rate", "ng"), [(0.05, 19), (0.10, 18), (0.25, 15)], ids=["1 of 20", "2 of 20", "5 of 20"])
def test_verdicts_at_another_rate_follow_by_hand(rate, ng):
    """With scores 1 to 19 of good parts, k of 20 may be NG above the k-th largest."""
    rows = [Row(f"{s}", "", "done", float(s), 0.5, "OK", 0) for s in (ng, ng + 0.5)] + [Row("bad", "", "failed")]
    judged = judge(CARD, rate, rows)
    assert judged.ng == ng
    assert [judged.rows[f"{s}"].verdict for s in (ng, ng + 0.5)] == ["REVIEW", "NG"]
    assert judged.rows["bad"].verdict is None
    assert dataclasses.is_dataclass(judged)


def test_without_a_folder_it_says_so(panel):
    panel.running.fit.fit_button.click()
    assert panel.messages.label.text() == "Choose a folder of good images first."
    panel.running.screening.screen_button.click()
    assert panel.messages.label.text() == "Open a folder of images or scans, and choose a model first."
