"""File > Open Sample: things to try the viewer on, made here or shipped with the extra [samples]."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np

from napari_inspection import store
from napari_inspection.docking import open_panel, panel_of
from napari_inspection.files import list_paths, open_case
from napari_inspection.layers import LayerData, image_layers, make_case

if TYPE_CHECKING:
    from inspection_core.inputs import Listing

SEED = "phantom 1"
CELLS = {"train/good": 40, "test/good": 12, "test/defect": 12}
"""Images of each part of the sample set: enough for a model, few enough for a minute."""


def phantom() -> list[LayerData]:
    """Return a synthetic head with lesions; its model is put beside, ready to run."""
    from inspection_core.inputs import Opened
    from inspection_core.phantom_ct import make_phantom

    model_of_phantom()
    panel = panel_of(napari.current_viewer())
    if panel is not None:
        panel.session.leave()
    return image_layers(make_case(Opened(make_phantom().image), "synthetic phantom"))


def dicom_series() -> list[Any]:
    """Write the phantom as a DICOM series, and open it as any other series."""
    from inspection_core.io.dicom_series import write_series
    from inspection_core.phantom_ct import make_phantom

    model_of_phantom()
    folder = store.samples_folder() / "phantom_dicom"
    if not folder.is_dir():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        write_series(part, make_phantom().image, description="Made-up head, six lesions", seed=SEED)
        part.rename(folder)  # whole or absent
    return _open(folder)


def cells() -> list[Any]:
    """Copy a few solar cells into a folder, fit a model to the good ones, and screen the others.

    Raises
    ------
    UsageError
        If the extra [samples] is not installed; the text says how to get it.
    """
    from inspection_core.demo import cells as all_cells

    all_cells()  # says at once where they are missing
    viewer = napari.current_viewer()
    folder = _copy_cells()
    if viewer is None:
        from napari_inspection.files import read

        return read(str(folder / "test"))
    panel = open_panel(viewer)
    layers = _first(viewer, list_paths([folder / "test"]))

    def done(model: Path) -> None:
        panel.running.picker.refresh(prefer=model.resolve())
        panel.running.screening.screen()

    panel.session.start("Fitting to the good cells", lambda: _model_of_cells(folder), done)
    return layers


def _copy_cells() -> Path:
    from inspection_core.demo import cells as all_cells

    source, good, defect = all_cells()
    folder = store.samples_folder() / "solar_cells"
    generator = np.random.default_rng(0)
    drawn = {"good": generator.permutation(sorted(good)), "defect": generator.permutation(sorted(defect))}
    begin = 0
    for part, count in CELLS.items():
        kind = part.split("/")[1]
        first = begin if kind == "good" else 0
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in drawn[kind][first : first + count].tolist():
            if not (folder / part / Path(name).name).is_file():
                shutil.copyfile(source / name, folder / part / Path(name).name)
        begin += count if kind == "good" else 0
    return folder


def _model_of_cells(folder: Path) -> Path:
    """Return the model of the sample cells, fitted where it is not there yet."""
    from inspection_core.card import CARD_NAME
    from inspection_core.demo import LICENCE
    from inspection_core.learn import fit

    out = store.models_folder() / "solar-cells"
    if not (out / CARD_NAME).is_file():
        fit(folder, out, preset="fast", licence=f"made from images under {LICENCE}")
    return out


def model_of_phantom() -> Path:
    """Return the folder of the phantom's model, made where it is not there yet."""
    from inspection_core.card import CARD_NAME
    from inspection_core.phantom_ct import make_phantom_model

    folder = store.models_folder() / "phantom-lesions"
    if not (folder / CARD_NAME).is_file():
        make_phantom_model(folder)
    return folder


def _open(folder: Path) -> list[Any]:
    viewer = napari.current_viewer()
    if viewer is None:
        from napari_inspection.files import read

        return read(str(folder))
    return _first(viewer, list_paths([folder]))


def _first(viewer: Any, listing: Listing) -> list[LayerData]:
    """List what there is in the panel, and return the first of it as layers: napari takes no sample without one."""
    session = open_panel(viewer).session
    case = open_case(listing.inputs[0])
    session.leave()
    session.show_listing(listing, open_alone=False)
    return image_layers(case)
