"""napari's way in: what a path holds, as layers, or as a list to choose from in the panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspection_core.errors import ReadError
from napari_inspection.docking import PLUGIN, open_panel
from napari_inspection.layers import Case, LayerData, image_layers, make_case

if TYPE_CHECKING:
    from inspection_core.inputs import Input, Listing

NO_LAYERS: list[Any] = [(None,)]
"""napari's word for "read, and there is nothing to add"."""
SCANS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
OWN = ("*.dcm", "*.dicom", "*.ima", "*.nii", "*.nii.gz", "*.nrrd", "*.mha", "*.mhd", "*.zip", "*/")
"""What `open_by_default` claims; pictures stay with whoever has them."""
HEAD = 132


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """Return our reader for a path that may be ours, else None; looks at names and a few bytes only."""
    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    return read if paths and all(_may_be_ours(p) for p in paths) else None


def read(path: str | Sequence[str]) -> list[Any]:
    """Open paths: one file as layers at once, a folder or an archive in the panel, where the user chooses.

    Without a viewer, as in scripts, everything that loads becomes layers.

    Raises
    ------
    InspectionError
        If nothing here can be opened; the text says why.
    """
    import napari

    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    viewer = napari.current_viewer()
    alone = len(paths) == 1 and paths[0].is_file() and paths[0].suffix.lower() != ".zip"
    if viewer is not None and not alone:
        open_panel(viewer).session.list(paths)
        return NO_LAYERS
    listing = list_paths(paths)
    if not listing.inputs:
        raise ReadError(refusal(listing, paths))
    if viewer is not None and len(listing.inputs) > 1:
        open_panel(viewer).session.show_listing(listing)
        return NO_LAYERS
    layers: list[LayerData] = []
    for item in listing.inputs:
        layers += image_layers(open_case(item))
    return layers


def list_paths(paths: Sequence[Path]) -> Listing:
    """Find everything that can be opened under paths; headers are read, pixels are not."""
    from inspection_core.inputs import list_inputs

    return list_inputs(paths)


def open_case(item: Input, channels: Sequence[str] = ()) -> Case:
    """Read an input.

    Parameters
    ----------
    item
        What to read.
    channels
        Of the model that a study of several sequences was put together for.

    Raises
    ------
    ReadError, GeometryError
        If it cannot be read right.
    """
    from inspection_core.inputs import open_input

    return make_case(open_input(item, channels if item.parts else ()), title(item), item)


def title(item: Input) -> str:
    """Return what the layer list calls an input: the file, or the series; never what a header says of a patient."""
    if item.parts:
        return item.name
    if item.kind != "dicom" or item.volume is None:
        return item.files[0].name
    number = item.volume.file.number
    return f"{item.volume.file.modality} series {number if number is not None else item.name}"


def label_of(label: str | Path) -> str:
    """Return what results of an input are kept under: its absolute path, with the short id of a series behind it."""
    from inspection_core.io.results import utf8

    return utf8(Path(label).absolute().as_posix())


def where(item: Input) -> str:
    """Return the folder of an input below what the user gave, or an empty text."""
    folder = item.files[0] if item.kind == "dicom" else item.files[0].parent
    place = folder.relative_to(item.given).as_posix() if folder.is_relative_to(item.given) else ""
    return "" if place == "." else place


def verdict(item: Input) -> str:
    """Return what an input is and what is odd about it, in plain words, without reading its pixels."""
    if item.parts:
        return f"study of {len(item.parts)} sequences"
    if item.volume is not None:
        shape = " x ".join(str(n) for n in reversed(item.volume.shape))
        return "; ".join([f"{shape}, {item.volume.verdict}", *item.volume.notes])
    return {"picture": "picture", "scan": "scan file: its grid is checked when it is opened"}.get(item.kind, item.kind)


def refusal(listing: Listing, paths: Sequence[Path]) -> str:
    """Return why nothing was found."""
    if listing.refused:
        return listing.refused[0][1]
    return (
        f"Found no image and no scan in {', '.join(p.name or str(p) for p in paths)}. Give a file or folder of images."
    )


def open_by_default() -> int:
    """Make this plugin the reader of scans, archives and folders; what the user chose otherwise stays.

    Returns
    -------
    int
        How many kinds of file changed their reader.
    """
    from napari.settings import get_settings

    plugins = get_settings().plugins
    chosen = dict(plugins.extension2reader)
    missing = [pattern for pattern in OWN if pattern not in chosen]
    plugins.extension2reader = {**chosen, **dict.fromkeys(missing, PLUGIN)}
    return len(missing)


def _may_be_ours(path: Path) -> bool:
    name = path.name.lower()
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    if name.endswith((*SCANS, *PICTURES, ".zip", ".dcm", ".dicom", ".ima")) or name == "dicomdir":
        return True
    from inspection_core.io.dicom.discover import looks_like_dicom

    try:
        with path.open("rb") as file:
            return looks_like_dicom(file.read(HEAD))
    except OSError:
        return False
