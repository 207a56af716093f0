"""How long fitting takes, and how much memory, as good images become many. Needs the extra ``[samples]``.

    python benchmarks/fitting.py                                          the sizes of docs/performance.md
    python benchmarks/fitting.py --images 200 --presets fast accurate     a quick look

The images are the functional solar cells of elpv-dataset (300 x 300), and the same mirrored along either axis and along
both where they are too few, in a temporary folder. Each fit is a process of its own, from start to saved model, imports
and cross-fitting included; "after start-up" leaves out what comes before the first image. "All patches" is what the
memory would hold if every patch of every image and of its turned copies were kept.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import tempfile
from pathlib import Path

from common import arguments, in_process, lacking, left_out, machine, measured, peak_bytes, render, table, write_json

COLUMNS = ["preset", "good images", "seconds after start-up", "of the process", "its CPU seconds",
           "peak resident memory, MiB", "all patches, MiB"]  # fmt: skip


def make_set(folder: Path, count: int) -> None:
    """Write `count` functional cells, mirrored ones after the plain ones."""
    import elpv_dataset
    from PIL import Image, ImageOps

    source = Path(elpv_dataset.__file__).parent / "data"
    with (source / "labels.csv").open(encoding="utf-8") as file:
        good = [line[0] for line in csv.reader(file, delimiter=" ", skipinitialspace=True) if float(line[1]) == 0]
    ways = (lambda image: image, ImageOps.mirror, ImageOps.flip, lambda image: ImageOps.mirror(ImageOps.flip(image)))
    if count > len(ways) * len(good):
        raise SystemExit(f"There are {len(ways) * len(good)} functional cells with mirrored ones. Got {count}.")
    for number in range(count):
        way, place = divmod(number, len(good))
        with Image.open(source / good[place]) as image:
            ways[way](image).save(folder / f"cell{number:04}.png")


def fit_here(folder: str, out: str, preset: str, device: str) -> None:
    """Fit a model in this process; print what it took, as JSON."""
    from inspection_core import learn

    fitted, figures = measured(lambda: learn.fit(Path(folder), Path(out), preset=preset, device=device))
    used = resource.getrusage(resource.RUSAGE_SELF)
    chosen, training = learn.PRESETS[preset], fitted.card.training
    dim = chosen.settings["dim"] or 152
    patches = (
        (chosen.size // 8) ** 2 * len(chosen.settings["views"]) * (1 + len(training["turns"])) * training["images"]
    )
    print(
        json.dumps({
            **figures,
            "stages": fitted.seconds,
            "process_cpu_seconds": used.ru_utime + used.ru_stime,
            "resident_mib": peak_bytes() / 2**20,
            "turns": training["turns"],
            "all_patches_mib": patches * dim * 4 / 2**20,
        })
    )  # fmt: skip


def row(run: dict) -> list:
    """Return a run's row of the table."""
    if "error" in run:
        return [run["preset"], f"{run['images']:,}", f"failed: {run['error'][:80]}", "", "", "", ""]
    cells = [run["seconds"], run["process_seconds"], run["process_cpu_seconds"]]
    return [run["preset"], f"{run['images']:,}", *(f"{v:.1f}" for v in cells), f"{run['resident_mib']:,.0f}",
            f"{run['all_patches_mib']:,.0f}"]  # fmt: skip


def grown(runs: list[dict]) -> list[str]:
    """Say by how much memory grows from the fewest images to the most, of each preset."""
    notes = []
    for preset in dict.fromkeys(run["preset"] for run in runs):
        done = sorted(
            (run["images"], run["resident_mib"]) for run in runs if run["preset"] == preset and "error" not in run
        )
        if len(done) > 1:
            (few, least), (many, most) = done[0], done[-1]
            notes.append(f"From {few:,} images to {many:,}, `{preset}` takes {most - least:,.0f} MiB more.")
    return notes


def main() -> int:
    """Fit each preset on each number of images."""
    if sys.argv[1:2] == ["--measure"]:
        fit_here(*sys.argv[2:])
        return 0
    parser = arguments("fitting", __doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 2000, 5000])
    parser.add_argument("--presets", nargs="+", default=["fast"], help="fast, accurate, or both")
    options = parser.parse_args()
    if why := lacking("elpv_dataset", extra="samples"):
        return left_out(why)
    facts, runs = machine(("inspection-suite", "torch", "openvino", "timm"), options.device), []
    for count in options.images:
        with tempfile.TemporaryDirectory(prefix="fitting-") as scratch:
            folder = Path(scratch) / "good"
            folder.mkdir()
            make_set(folder, count)
            for preset in options.presets:
                words = ("--measure", folder, f"{scratch}/{preset}", preset, options.device)
                runs.append({"preset": preset, "images": count, **in_process(__file__, *words)})
                print(f"  {runs[-1]}", file=sys.stderr, flush=True)
        result = write_json(options.out, facts, [table("", COLUMNS, [row(run) for run in runs])], runs, grown(runs))
    print(render(result))
    return 1 if any("error" in run for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
