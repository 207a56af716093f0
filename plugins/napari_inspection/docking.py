"""Which panel belongs to which viewer; knows no panel's inside, so that everyone may ask for one."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

PLUGIN, PANEL = "inspection-suite", "Inspection"
_panels: WeakValueDictionary[int, Any] = WeakValueDictionary()


def real(viewer: Any) -> Any:
    """Return the viewer itself where napari handed out its proxy: one viewer has many proxies, and they are slow."""
    return getattr(viewer, "__wrapped__", viewer)


def register(viewer: Any, panel: Any) -> None:
    """Say that a panel was made for a viewer."""
    _panels[id(real(viewer))] = panel


def panel_of(viewer: Any) -> Any:
    """Return the panel that is docked in a viewer, or None."""
    panel = _panels.get(id(real(viewer)))
    there = panel is not None and panel.viewer is real(viewer) and not panel.released
    return panel if there else None


def open_panel(viewer: Any) -> Any:
    """Return the viewer's panel, docked where it is not there yet."""
    there = panel_of(viewer)
    if there is None:
        _, there = viewer.window.add_plugin_dock_widget(PLUGIN, PANEL)
    return there
