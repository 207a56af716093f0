"""What the benchmarks share: the machine, runs in processes of their own, spreads, JSON, and tables made from it.

A script measures, calls `write_json` once, and prints what `render` makes of it. `tables.py` puts the same text into
``docs/performance.md``, so a figure there never differs from the JSON that it came from.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("benchmark-results")
PACKAGES = ("inspection-suite", "torch", "numpy", "openvino", "onnxruntime", "monai")


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every script takes: ``--device`` and ``--out``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device",
        type=device_here,
        default="cpu",
        help='"cpu", "cuda", "cuda:N" or "mps"; what has no network ignores it',
    )
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON to write")
    return parser


def device_here(name: str) -> str:
    """Return the name of a device if it is here; nothing is measured on another in its place."""
    if name != "cpu":
        from inspection_core.device import choose
        from inspection_core.errors import DeviceError

        try:
            choose(name)
        except DeviceError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return name


def left_out(why: str) -> int:
    """Say in one line why nothing is measured here; return the exit status of that, which is no failure."""
    print(f"Left out: {why}.")
    return 0


def lacking(*modules: str, extra: str) -> str:
    """Return why a script that imports `modules` cannot run; empty where it can."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"needs {', '.join(absent)}, of the extra [{extra}]" if absent else ""


def data(*parts: str) -> Path | None:
    """Return a place in the folder of real images that ``INSPECTION_DATA`` names; None where it is not there."""
    root = os.environ.get("INSPECTION_DATA")
    place = Path(root or "", *parts)
    return place if root and place.exists() else None


def write_textures(folder: Path, count: int, shape: tuple[int, int] = (256, 256), first: int = 0) -> None:
    """Write `count` grey PNG of brushed metal, no two alike, numbered from `first`."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.8, 6), mode="wrap")
        pixels = np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed:06}.png")


def machine(packages: Sequence[str] = PACKAGES, device: str = "cpu") -> dict[str, Any]:
    """Return what a figure means nothing without: processor, cores, load, memory, versions, date, commit, command."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((t.split(":")[1].strip() for t in info.read_text().splitlines() if t.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None,
        "device": _device_name(device),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "commit": _commit(),
        "date": date.today().isoformat(),
        "command": " ".join(["python", *_words(sys.argv)]),
    }


def no_viewer() -> str:
    """Return why the viewer cannot be measured here; empty where it can."""
    if why := lacking("napari", "qtpy", extra="viewer"):
        return why
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        return "needs a display; run it under xvfb-run"
    return ""


def in_process(
    script: str | Path, *words: Any, environment: dict[str, str] | None = None, limit: float | None = None
) -> dict[str, Any]:
    """Run a script in a process of its own; return the JSON of its last line, or what it died of as ``error``.

    Whole seconds of the process, start and imports included, are added as ``process_seconds``. After `limit` seconds it
    is ended, and that is the error.
    """
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path[1:] if p)])
    inherited = {**os.environ, "PYTHONPATH": paths} | (environment or {})
    start = time.perf_counter()
    command = [sys.executable, str(script), *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=inherited, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"no end within {limit:.0f} s"}
    took = time.perf_counter() - start
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "process_seconds": took}


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what `work` gives, with ``seconds``, ``cpu_seconds`` and ``peak_mib``, the peak beyond the start."""
    counted = _forget_peak()
    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = (peak_bytes() - before) / 2**20 if counted else float("nan")
    return result, {"seconds": wall, "cpu_seconds": cpu, "peak_mib": peak}


def peak_bytes() -> int:
    """Return the highest resident memory of this process since it began, or since `measured` did (Linux)."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    return _status("VmRSS")


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median with the lowest and the highest, as cells of tables hold them."""
    if not values:
        return ""
    middle, low, high = (format(v, form) for v in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def ratios(runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Return ``runs[k][key] / base[k][key]`` of each round k in which both ran: what else ran struck both alike."""
    return [r[key] / b[key] for r, b in zip(runs, base, strict=False) if key in r and key in b and b[key]]


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return a table as the JSON holds it; cells are texts or numbers."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def plot(
    name: str, x: str, y: str, series: dict[str, Sequence[tuple[float, float]]], from_zero: bool = False
) -> dict[str, Any]:
    """Return a plot as the JSON holds it: lines of points ``(x, y)`` by their label.

    Axes are logarithmic; that of y is linear and begins at 0 where `from_zero` says so.
    """
    lines = {label: [list(point) for point in points] for label, points in series.items()}
    return {"name": name, "x": x, "y": y, "from_zero": from_zero, "series": lines}


def write_json(
    path: Path,
    facts: dict[str, Any],
    tables: Sequence[dict[str, Any]],
    runs: Any = None,
    notes: Sequence[str] = (),
    plots: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write a benchmark's result, whole or not at all, and return it.

    Parameters
    ----------
    path
        Its stem names the benchmark.
    facts
        Of `machine`.
    tables, plots
        Of `table` and `plot`.
    runs
        The single measurements, in any form.
    notes
        Sentences that belong below the tables.
    """
    facts = facts | {"load_after": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
    result = {"benchmark": path.stem, "machine": facts, "tables": list(tables), "notes": list(notes),
              "plots": list(plots), "runs": runs}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return result


def render(result: dict[str, Any], images: str = "") -> str:
    """Return a result as Markdown: tables, notes, and the machine that they were measured on.

    Parameters
    ----------
    result
        Of `write_json`.
    images
        Folder of the plots as SVG, as the Markdown names it; without it plots are left out.
    """
    parts = []
    for one in result["tables"]:
        head = [one["columns"], ["---"] * len(one["columns"])]
        lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in [*head, *one["rows"]]]
        parts.append("\n".join(([f"**{one['title']}**", ""] if one["title"] else []) + lines))
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    if images:
        plots = [f"![{p['y']} against {p['x']}]({images}/{p['name']}.svg)" for p in result["plots"]]
        parts += ["\n".join(plots)] if plots else []  # one paragraph: they stand side by side where there is room
    return "\n\n".join([*parts, about(result["machine"])])


def about(facts: dict[str, Any]) -> str:
    """Return `machine` as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    load = "" if facts["load"] is None else f", load {facts['load']:.1f} at the start"
    if facts.get("load_after") is not None:
        load += f" and {facts['load_after']:.1f} at the end"
    memory = "" if facts["memory_gb"] is None else f", {facts['memory_gb']:.0f} GB"
    return (
        f"*{facts['date']}, commit {facts['commit']}; {facts['cpu']}, {facts['cores']} cores{memory}, "
        f"{facts['device']}{load}; Python {facts['python']}, {versions}; `{facts['command']}`.*"
    )


def _words(given: Sequence[str]) -> list[str]:
    """Return arguments as another machine would give them: without ``--out``, and without this machine's places."""
    kept, words = [], iter(given)
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(_short(word) or "''")
    return kept


def _short(word: str) -> str:
    """Return an argument without the places of this checkout and of the data; of any other place, its name alone."""
    word = word.replace(f"{ROOT}{os.sep}", "")
    if real := os.environ.get("INSPECTION_DATA"):
        word = word.replace(real.rstrip(os.sep) + os.sep, "$INSPECTION_DATA/")
    return Path(word).name if word.startswith(os.sep) else word


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return the commit, with a plus where tracked files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if dirty else "")


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.cuda.is_available() else device


def _forget_peak() -> bool:
    """Begin to count the peak of resident memory anew; tell whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
