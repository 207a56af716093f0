"""How long fitting takes, and how much memory, as good images become many.

    python benchmarks/fitting.py                                    20 and 2,000 images, both presets
    python benchmarks/fitting.py --images 200 --presets fast        a quick look

The images are the functional solar cells of elpv-dataset (300 x 300), mirrored ones in addition where they are too few,
in a temporary folder. Each fit is a process of its own, from start to saved model, imports and cross-fitting included.
"All patches" is what the memory would hold if every patch of every image and of its turned copies were kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

RESULT = "benchmark-results/fitting.json"


def make_set(folder: Path, count: int) -> None:
    """Write `count` functional cells, mirrored ones after the plain ones."""
    import elpv_dataset
    from PIL import Image, ImageOps

    source = Path(elpv_dataset.__file__).parent / "data"
    with (source / "labels.csv").open(encoding="utf-8") as file:
        good = [line[0] for line in csv.reader(file, delimiter=" ", skipinitialspace=True) if float(line[1]) == 0]
    if count > 2 * len(good):
        raise SystemExit(f"There are {len(good)} functional cells, {2 * len(good)} with mirrored ones. Got {count}.")
    for number in range(count):
        turn, place = divmod(number, len(good))
        with Image.open(source / good[place]) as image:
            (ImageOps.mirror(image) if turn else image).save(folder / f"cell{number:04}.png")


def fit(folder: str, out: str, preset: str, device: str) -> None:
    """Fit a model in this process and print what it took, as JSON."""
    import resource

    from inspection_core import learn

    fitted = learn.fit(Path(folder), Path(out), preset=preset, device=device)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    card = fitted.card
    cells = (learn.PRESETS[preset].size // 8) ** 2
    views = len(learn.PRESETS[preset].settings["views"])
    dim = learn.PRESETS[preset].settings["dim"] or 152
    turns = 1 + len(card.training["turns"])
    print(
        json.dumps(
            {
                "seconds": {k: round(v, 1) for k, v in fitted.seconds.items()},
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_mib": round(usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)),
                "turns": card.training["turns"],
                "all_patches_mib": round(cells * views * dim * 4 * turns * card.training["images"] / (1 << 20)),
            }
        )
    )


def main() -> None:
    """Fit each preset on each number of images, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--presets", nargs="+", default=["fast", "accurate"])
    parser.add_argument("--json", type=Path, default=Path(RESULT))
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "OUT", "PRESET", "DEVICE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fit(*options.one)
        return
    rows = []
    print(
        "| preset | images | seconds | CPU seconds | peak memory, MiB | all patches, MiB |",
        "|" + " --- |" * 6,
        sep="\n",
    )
    for count in options.images:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "good"
            folder.mkdir()
            make_set(folder, count)
            for preset in options.presets:
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    str(folder),
                    f"{temporary}/{preset}",
                    preset,
                    options.device,
                ]
                start = time.perf_counter()
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                took = time.perf_counter() - start
                row = {"preset": preset, "images": count, "wall_s": round(took, 1), **json.loads(done.stdout)}
                rows.append(row)
                print(
                    f"| {preset} | {count:,} | {took:.0f} | {row['cpu_s']:.0f} | {row['peak_mib']:,} "
                    f"| {row['all_patches_mib']:,} |",
                    flush=True,
                )
    about = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
             "cores": os.cpu_count(), "python": platform.python_version()}  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2), encoding="utf-8")
    print(f"\n{about}\n{options.json}")


if __name__ == "__main__":
    main()
