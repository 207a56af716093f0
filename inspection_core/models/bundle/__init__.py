"""MONAI bundles as models: ``bundle:PATH``, a folder or a zip archive.

A bundle brings its own pre- and post-processing, and they are used: `run` puts them to work, `meta` makes a card of
what the bundle says of itself, `labels` finds out what its mask means. Bundles come from strangers, and their format
can run any code. So `config`, `expressions` and `components` build only what is known to be harmless, weights are
loaded as tensors alone, and `files` trusts no archive. See ``docs/decisions/0026-bundles-without-their-code.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError


def open_card(path: Path) -> ModelCard:
    """Return the card of a bundle.

    Raises
    ------
    ModelError
        If it is no bundle that can be run.
    """
    return open_bundle(path, Device("cpu"))[0]


def open_bundle(path: Path, device: Device, *, trust: bool = False) -> tuple[ModelCard, Any]:
    """Load a bundle.

    Parameters
    ----------
    path
        Its folder or zip archive.
    device
        Where it shall run.
    trust
        Run whatever its configuration and its scripts say, as MONAI itself would.

    Returns
    -------
    card, predictor
        The predictor keeps `inspection_core.models.Host`.

    Raises
    ------
    ModelError
        If it is no bundle, cannot be trusted, does not segment, or MONAI is not installed.
    """
    try:
        import monai  # noqa: F401
    except ImportError:
        raise ModelError('MONAI bundles need MONAI: pip install "inspection-suite[bundles]".') from None
    from inspection_core.models.bundle import components, config, labels, meta, run
    from inspection_core.models.bundle.files import open_files

    files = open_files(path)
    data = meta.read(files)
    form = meta.network_format(data, f"The metadata of {files.path}")
    raw, name = config.read(files)
    given = {"bundle_root": str(files.path) if trust else ".", "device": device.torch}
    settings: config.Config
    if trust:
        settings = config.trusted(raw, files, given)
    else:
        settings = config.SafeConfig(raw, f"{name} of {files.path}", given, run.functions(files, device))
    parts, weights = run.build(files, settings, raw, device, trust=trust)
    ndim = 3 if type(parts.inferer).__name__ == "SliceInferer" else form.ndim or 3
    found = labels.find(parts.tail, run.PRED, form, ndim)
    oriented = any(components.plain(type(t).__name__) == "Orientation" for t in parts.preprocessing.transforms)
    card = meta.card(
        files,
        data,
        form,
        found.classes,
        weights,
        settings=name,
        view="image" if ndim == 2 else "volume",
        oriented=oriented,
        trust=trust,
    )
    return card, run.Bundle(parts, card, len(form.outputs), form.background, ndim, found)
