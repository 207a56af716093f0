"""The main job on real images: solar cells from the package ``elpv-dataset``.

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery",
EU PVSEC 2018; 2,624 images with a defect probability each, CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inspection_core import learn
from inspection_core.card import CARD_NAME
from inspection_core.engine import Engine
from inspection_core.errors import UsageError
from inspection_core.evaluate import figures
from inspection_core.io.store import RUN_DATABASE, Row
from inspection_core.screen import screen

LICENCE = "CC BY-NC-SA 4.0 (non-commercial, share alike)"
LICENCE_LINE = (
    f"The solar cells are from elpv-dataset, {LICENCE}: cite Buerhop-Lutz et al., EU PVSEC 2018, "
    "https://github.com/zae-bayern/elpv-dataset"
)
SEED = 20
N_TRAIN, N_TEST_GOOD, N_TEST_DEFECT = 100, 60, 60

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Demo:
    """Outcome of the demo.

    Parameters
    ----------
    report
        The HTML report.
    outputs
        What was written.
    figures
        Measured figures.
    lines
        For the terminal.
    warnings
        On the calibration.
    """

    report: Path
    outputs: tuple[Path, ...]
    figures: dict[str, Any]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]

    def open_in_browser(self) -> bool:
        """Open the report where there is a display and a browser; say whether that was done."""
        desktop = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        return bool(desktop) and webbrowser.open(self.report.absolute().as_uri())


def cells() -> tuple[Path, list[str], list[str]]:
    """Return the folder of the sample images, and the monocrystalline cells that are surely good and surely defective.

    Labels are the probability of a defect: 0 is good and 1 is a defect; 1/3 and 2/3, where experts doubted, are left
    out.

    Raises
    ------
    UsageError
        If the sample package is not installed.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise UsageError('The demo needs its sample images: pip install "inspection-suite[samples]"')
    folder = Path(found.origin).parent / "data"
    good: list[str] = []
    defect: list[str] = []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        for line in csv.reader(file, delimiter=" ", skipinitialspace=True):
            name, probability, kind = line[0], float(line[1]), line[-1]
            if kind == "mono" and probability in (0.0, 1.0):
                (good if probability == 0 else defect).append(name)
    return folder, good, defect


def demo(
    out: Path, *, preset: str, device: str, say: Callable[[str], None], progress: Progress = lambda *a: None
) -> Demo:
    """Fit a detector on good solar cells, screen others, and write the report.

    Parameters
    ----------
    out
        Folder; its parts ``model`` and ``run`` from an earlier demo are replaced.
    preset, device
        As for `inspection_core.learn.fit`.
    say
        Shows a line to the user.
    progress
        Called with stage, number done and total.

    Raises
    ------
    UsageError
        If the sample package is not installed, or `out` holds a ``model`` or ``run`` that is something else.
    """
    folder, good, defect = cells()
    say(LICENCE_LINE)
    generator = np.random.default_rng(SEED)
    good, defect = (generator.permutation(sorted(names)).tolist() for names in (good, defect))
    # In the order drawn: test cells are drawn from the same modules, so the folds of the calibration are as well.
    train = good[:N_TRAIN]
    test = {
        **dict.fromkeys(good[N_TRAIN : N_TRAIN + N_TEST_GOOD], "good"),
        **dict.fromkeys(defect[:N_TEST_DEFECT], "defect"),
    }
    model, run = out / "model", out / "run"
    for part in (model, run):
        _clear(part)
    say(f"Fitting on {len(train)} good cells, {preset} preset ...")
    fitted = learn.fit(
        folder,
        model,
        preset=preset,
        images=[folder / name for name in train],
        device=device,
        seed=SEED,
        licence=f"made from images under {LICENCE}",
        progress=progress,
    )
    say(f"Screening {len(test)} other cells ...")
    notes = (
        (
            f"Split: monocrystalline cells of elpv-dataset, seed {SEED}. Training: {len(train)} good cells. "
            "Calibration: the same cells, each scored by a model that did not see it. Test, shown here: "
            f"{N_TEST_GOOD} good and {N_TEST_DEFECT} defective cells that nothing was fitted on. Cells where experts "
            "doubted (probability 1/3 and 2/3) are left out."
        ),
        LICENCE_LINE,
    )
    done = screen(
        folder,
        Engine(device).load(model),
        run,
        paths=[folder / name for name in sorted(test)],
        truth=test.get,
        notes=notes,
        metrics=lambda rows: _figures(rows, test),
        title="Solar cells, electroluminescence",
        command=f"inspection demo --out {out} --preset {preset}",
        progress=lambda n, total: progress("screening", n, total),
    )
    measured = _figures(done.rows, test)
    interval = measured["image_auroc_interval"]
    report = run / "report.html"
    lines = (
        (
            f"image AUROC {measured['image_auroc']:.3f} ({interval['low']:.3f} to {interval['high']:.3f}, "
            f"95 % bootstrap) on {measured['n_good']} good and {measured['n_defect']} defective cells never seen "
            "in fitting"
        ),
        (
            f"at the model's own threshold (5 % false alarms asked): {measured['false_positives']} of "
            f"{measured['n_good']} good cells NG, {measured['true_positives']} of {measured['n_defect']} defective "
            "cells NG"
        ),
        f"fitted in {sum(fitted.seconds.values()):.0f} s, screened {done.new / done.seconds:.1f} images a second",
        f"report: {report}",
    )
    return Demo(report, (model, *done.outputs), measured, lines, (*fitted.warnings, *done.warnings))


def _clear(part: Path) -> None:
    """Remove a folder that an earlier demo left, and no other."""
    if not part.exists():
        return
    if not any((part / mark).is_file() for mark in (CARD_NAME, RUN_DATABASE)) and (
        not part.is_dir() or any(part.iterdir())
    ):
        raise UsageError(f"{part} is there already and not from a demo. Give another folder for --out.")
    shutil.rmtree(part)


def _figures(rows: Sequence[Row], truth: dict[str, str]) -> dict[str, Any]:
    return figures(
        [{"kind": truth[r.path], "score": r.score, "verdict": r.verdict} for r in rows if r.status == "done"]
    )
