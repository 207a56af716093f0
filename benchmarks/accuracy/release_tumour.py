"""Release a trained tumour model: measure it on the test patients, and put it with its figures into the package.

Nothing is chosen here. The model comes from `inspection train configurations/tumour-lgg-mri.toml`, with its thresholds
and calibrations from cross-fitting on the training and validation patients; this script reads the test patients,
writes what it finds on the card, and copies card, weights, licence and reliability diagram.

    python benchmarks/accuracy/release_tumour.py MODEL --out inspection_core/models/cards/tumour-lgg-mri
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.device import threads
from inspection_core.engine import Engine
from inspection_core.evaluate_segmentation import evaluate
from inspection_core.io.atomic import write_text
from inspection_core.io.results import dump
from inspection_core.reliability import FILE as DIAGRAM

TIMED = "TCGA_DU_7014"
"""A validation patient with 60 slices of 256 x 256."""
KEPT = (
    "dice_mean", "dice_median", "hd95_mean", "surface_dice", "lesion_recall", "lesion_precision", "lesion_dice",
    "ece_voxel", "ece_image", "ece_finding", "finding_brier", "finding_base_brier", "finding_in_the_large",
    "n_cases", "n_findings", "n_true_findings", "n_judged", "n_true_judged", "n_lesions", "n_unlike",
)  # fmt: skip
INTERVALS = ("dice_mean", "dice_median", "lesion_recall", "lesion_precision", "finding_in_the_large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, help="model folder of the package; without it nothing is released")
    parser.add_argument("--results", type=Path, default=Path("benchmark-results") / "tumour")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.time:
        print(json.dumps(timed(given.model, given.time)))
        return
    data = Path(os.environ.get("INSPECTION_DATA", "../shared/data")) / "medical" / "lgg2d"
    model = Engine("cpu").load(given.model)
    command = f"benchmarks/accuracy/release_tumour.py {given.model.name}"
    found = evaluate(
        model,
        data / "test",
        out=given.results,
        command=command,
        progress=lambda done, total: print(f"{done} of {total}", file=sys.stderr),
    )
    call = [sys.executable, __file__, str(given.model), "--time", str(data / "val")]
    found["timing"] = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    write_text(given.results / "release.json", dump(found))
    for name in (*KEPT, "timing"):
        print(name, found[name], found.get(f"{name}_interval") or "")
    if given.out:
        release(given.model, given.out, found, given.results, command)


def timed(folder: Path, data: Path) -> dict[str, float]:
    """Segment one study of 256 x 256 x 60 in a process of its own."""
    from inspection_core.cases import find_cases, read_case
    from inspection_core.infer import predict

    (case,) = (c for c in find_cases(data) if c.name.startswith(TIMED))
    began = time.perf_counter()
    model = Engine("cpu").load(folder)
    loaded = time.perf_counter()
    image, _ = read_case(case, model.card.channels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = time.perf_counter()
    predict(image, model)
    done = time.perf_counter()
    return {
        "shape": list(image.geometry.shape),
        "load_seconds": round(loaded - began, 2),
        "predict_seconds": round(done - read, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "extra_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "cores": threads(),
    }


def release(source: Path, out: Path, found: dict, results: Path, command: str) -> None:
    card = ModelCard.load(source)
    metrics = {k: _short(v) for k, v in found.items() if k in KEPT and v is not None}
    for name in INTERVALS:
        if span := found.get(f"{name}_interval"):
            metrics[f"{name}_interval"] = (_short(span["low"]), _short(span["high"]))
    timing = found["timing"]
    metrics |= {
        "data": f"{found['n_cases']} test patients of the LGG MRI set, which nothing was fitted on, "
        "measured four times (docs/tumour-model.md); in voxels",
        "command": command,
        "machine": f"{timing['cores']} cores, {platform.machine()}",
        "seconds_256x256x60": timing["predict_seconds"],
        "peak_mib_256x256x60": timing["peak_mib"],
    }
    card = dataclasses.replace(card, metrics={**card.metrics, **metrics})
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / card.weights, out / card.weights)
    shutil.copyfile(results / DIAGRAM, out / DIAGRAM)
    write_text(out / CARD_NAME, card.to_toml())
    print(f"released {card.id} {card.version}: {out}")


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
