"""``python -m napari_inspection [PATH ...]``: napari with the panel, and the paths or a sample in it."""

from __future__ import annotations

import sys
from pathlib import Path

import napari

from napari_inspection.docking import open_panel


def main(arguments: list[str]) -> int:
    """Open the viewer and wait until it is closed."""
    viewer = napari.Viewer(title="Inspection Suite")
    panel = open_panel(viewer)
    if arguments:
        panel.session.list([Path(a) for a in arguments])
    else:
        viewer.open_sample("inspection-suite", "phantom")
    napari.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
