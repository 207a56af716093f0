"""Play the two walks of ``viewer.md`` in a real viewer, and make their pictures: ``make walks``.

Everything shown is made here: a synthetic phantom and synthetic plates of brushed metal. Nobody's scan, nobody's part.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

HERE = Path(__file__).parent
PICTURES = HERE / "images" / "viewer"
SIZE = (1280, 800)
WAIT = 600.0


class Walk:
    """A viewer with the panel, and the means to wait and to take pictures."""

    def __init__(self, theme: str = "dark", out: Path = PICTURES, size: tuple[int, int] = SIZE) -> None:
        import napari

        self.out = out
        self.viewer = napari.Viewer(show=True)
        self.viewer.theme = theme
        self.viewer.window.resize(*size)
        _, self.panel = self.viewer.window.add_plugin_dock_widget("inspection-suite", "Inspection")
        self.settle()

    def settle(self, seconds: float = 0.3) -> None:
        """Let Qt paint."""
        from qtpy.QtWidgets import QApplication

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            QApplication.processEvents()
            time.sleep(0.01)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true."""
        until = time.monotonic() + WAIT
        while not condition():
            self.settle(0.05)
            if time.monotonic() > until:
                raise TimeoutError(f"waited too long; the panel says: {self.panel.messages.label.text()!r}")

    def idle(self) -> None:
        """Wait for the job that runs."""
        self.wait(lambda: self.panel.session.job is not None and self.panel.session.job.finished)

    def bottom(self, tab: str) -> None:
        """Scroll a tab of the panel to its end."""
        self.panel.show_tab(tab)
        self.settle()
        bar = self.panel.tabs.currentWidget().verticalScrollBar()
        bar.setValue(bar.maximum())

    def picture(self, name: str) -> None:
        """Take a picture of the whole window."""
        self.settle()
        self.out.mkdir(parents=True, exist_ok=True)
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)
        PIL.Image.fromarray(pixels[..., :3]).save(self.out / f"{name}.png", optimize=True)
        sys.stdout.write(f"{name}.png\n")


def reader(walk: Walk, work: Path) -> None:
    """Go from an opened folder to a saved SEG."""
    from napari_inspection import tools

    panel = walk.panel
    walk.picture("reader_1_empty")
    walk.viewer.open_sample("inspection-suite", "dicom")
    walk.wait(lambda: panel.session.case is not None)
    walk.picture("reader_2_opened")
    panel.running.run.click()
    walk.wait(lambda: panel.session.desk is not None)
    walk.picture("reader_3_review")
    panel.view.toggle_linked()
    panel.review.go_to(5)
    walk.settle(1)
    walk.picture("reader_4_linked_views")
    panel.view.toggle_linked()
    panel.review.go_to(1)
    panel.review.judge("accept")
    panel.show_tab("Correct")
    panel.review.go_to(4)
    tools.grow(panel.session.desk, 4)
    walk.picture("reader_5_correct")
    panel.show_tab("View")
    panel.view.look("Coronal")
    walk.picture("reader_6_view")
    panel.view.look("Axial")
    panel.show_tab("Review")
    panel.review.go_to(4)
    panel.review.other.setCurrentText("the model")
    panel.review.compare()
    walk.idle()
    walk.picture("reader_7_compared")
    while panel.session.desk.left:
        panel.review.next()
        panel.review.judge("accept")
    panel.review.save(work / "results")
    walk.idle()
    walk.picture("reader_8_saved")
    if not list((work / "results").rglob("seg.dcm")):
        raise RuntimeError(f"no SEG was written; the panel says: {panel.messages.label.text()!r}")


def engineer(walk: Walk, work: Path) -> None:
    """Go from good parts to a screened list with its report, and to a corrected mask."""
    panel = walk.panel
    plates(work / "plates")
    panel.show_tab("Run")
    fit = panel.running.fit
    fit.folder.setText(str(work / "plates"))
    fit.name.setText("plates")
    fit.rate.setValue(10)
    walk.picture("engineer_1_good_parts")
    fit.fit_button.click()
    walk.idle()
    panel.session.list([work / "plates" / "test"])
    walk.idle()
    panel.show_tab("Run")
    panel.running.screening.screen_button.click()
    walk.idle()
    walk.bottom("Run")
    walk.picture("engineer_2_threshold")
    panel.show_tab("Open")
    panel.opening.table.sortByColumn(3, panel.opening.table.horizontalHeader().sortIndicatorOrder().DescendingOrder)
    panel.opening.open_row(0)
    walk.wait(lambda: panel.session.case is not None)
    walk.idle()
    walk.picture("engineer_3_list")
    panel.show_tab("Review")
    panel.review.go_to(1)
    panel.review.save(work / "parts")
    walk.idle()
    walk.picture("engineer_4_review")
    if not panel.running.screening.report.is_file():
        raise RuntimeError("no report was written")


def lists(walk: Walk, work: Path) -> None:
    """Show a folder of studies as a work list, screened."""
    from inspection_core.io.dicom_series import write_series
    from inspection_core.phantom_ct import make_phantom
    from napari_inspection.samples import model_of_phantom

    panel = walk.panel
    image = make_phantom((28, 88, 80), (6.0, 2.5, 2.5)).image
    for name in ("study_1", "study_2", "study_3"):
        write_series(work / "studies" / name, image, description="Made-up head", seed=name)
    model_of_phantom()
    panel.running.picker.refresh()
    panel.running.picker.box.setCurrentText("phantom-lesions 1")
    panel.session.list([work / "studies"])
    walk.idle()
    panel.running.screening.screen_button.click()
    walk.idle()
    panel.show_tab("Open")
    panel.opening.step(1)
    walk.idle()
    panel.show_tab("Open")
    walk.settle(1)
    walk.picture("studies")
    panel.show_tab("Run")
    panel.running.picker.where.setCurrentText("a server")
    panel.running.picker.url.setText("https://inspect.example:8443")
    walk.picture("server")


def plates(folder: Path) -> None:
    """Make plates of brushed metal: 24 good ones to learn from, eight to screen, of which three have a hole."""
    from scipy.ndimage import gaussian_filter

    for part, seeds in (("train/good", range(24)), ("test", range(100, 108))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            noise = gaussian_filter(np.random.default_rng(seed).normal(size=(160, 160)), (0.8, 6), mode="wrap")
            plate = np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)
            if seed in (101, 104, 106):
                y, x = np.ogrid[:160, :160]
                hole = (y - 40 - (seed % 7) * 10) ** 2 + (x - 90) ** 2
                plate[hole < 130], plate[hole < 40] = 235, 15
            PIL.Image.fromarray(plate).save(folder / part / f"plate_{seed}.png")


def main(arguments: list[str] | None = None) -> int:
    """Play the walks."""
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--theme", choices=("dark", "light"), help="of all walks, in place of one each")
    parser.add_argument("--size", default="x".join(map(str, SIZE)), help="of the window, in Qt's pixels")
    given = parser.parse_args(arguments)
    size = tuple(int(n) for n in given.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["INSPECTION_HOME"] = str(work / "home")
        os.environ["NAPARI_CONFIG"] = str(work / "settings.yaml")
        os.environ["LOGNAME"] = "reader"
        for walk, theme in ((reader, "dark"), (engineer, "light"), (lists, "light")):
            played = Walk(given.theme or theme, given.out, size)
            walk(played, work)
            played.panel.session.close()
            played.viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
