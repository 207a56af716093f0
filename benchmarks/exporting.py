"""What an export costs in accuracy, and what it gains in speed and size, in every form and precision.

    python benchmarks/exporting.py --set SET --set SET           fits a model on each and exports it
    python benchmarks/exporting.py --model MODEL --set SET       takes that model
    python benchmarks/exporting.py --scans STUDIES --patients 2  the tumour model that comes with the suite

A set is an MVTec-style folder: `train/good`, `test/good`, `test/DEFECT`. int8 takes its ranges from `train/good`.
Studies are a folder with `images` and `masks`, as for `inspection evaluate`; int8 takes its ranges from the last of
them, and the first ones are measured. Every image goes through the original and through all exports in turn, so that
each meets the same load; milliseconds are CPU time, all threads together, of network and search (no decoding, no
findings).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from inspection_core.cases import find_cases, read_case
from inspection_core.engine import Engine, LoadedModel
from inspection_core.evaluate import GOOD, cases
from inspection_core.export_model import PRECISIONS, export
from inspection_core.export_model.parity import MASK_TOLERANCES, TOLERANCES, compare, difference, megabytes
from inspection_core.image import Image
from inspection_core.infer import begin, complete, forward
from inspection_core.io.raster import list_images, read_raster
from inspection_core.learn import fit
from inspection_core.metrics import image_metrics
from inspection_core.segmentation_metrics import dice

RESULT = "benchmark-results/exporting.json"
FORMS = [(form, precision) for form, known in PRECISIONS.items() for precision in known]


def exports(model: LoadedModel, forms: list[tuple[str, str]], images: list[Path], calibrate: list[Path], folder: Path):
    """Give each form's name, precision and model; the original first."""
    yield "original", "fp32", model
    for form, precision in forms:
        out = folder / f"{form}-{precision}"
        export(model, form, out, images, precision=precision, calibrate=calibrate, allow_difference=True)
        yield form, precision, Engine("cpu").load(out)


def run(variants: list[tuple[str, str, LoadedModel]], items: Iterator[tuple[str, Image, Any]], grade: Callable):
    """Send every item through every variant in turn; return a row for each."""
    scores: list[list[Any]] = [[] for _ in variants]
    spent: list[list[float]] = [[] for _ in variants]
    compared: list[list[Any]] = [[] for _ in variants]
    for name, image, truth in items:
        first = None
        for k, (_, precision, model) in enumerate(variants):
            ready = begin(image, model)
            start = time.process_time()
            (done,) = forward([ready], model)
            spent[k].append(1e3 * (time.process_time() - start))
            prediction = complete(done, model)
            first = first or prediction
            compared[k].append(compare(name, first, prediction, variants[0][2].card, TOLERANCES[precision]))
            scores[k].append(grade(prediction, truth))
    for k, (form, precision, model) in enumerate(variants):
        rows = compared[k]
        yield {
            "form": form,
            "precision": precision,
            "graded": scores[k],
            "score_difference": max(r.score for r in rows),
            "mask_share": max(r.mask for r in rows),
            "other_verdicts": sum(r.verdicts[0] != r.verdicts[1] for r in rows),
            "let_through": not difference(rows, form, TOLERANCES[precision], MASK_TOLERANCES[precision]),
            "cpu_ms": round(float(np.median(spent[k])), 2),
            "megabytes": megabytes(model.folder),
        }


def parts(root: Path, given: Path | None, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Measure a set's model on its test images."""
    folder = given or fit(root, scratch / "model", preset=options.preset, device="cpu").folder
    model = Engine("cpu").load(folder)
    todo = cases(root)
    good = [case.path for case in todo if case.kind == GOOD]
    variants = list(exports(model, options.forms, good[:2], list_images(root / "train" / "good"), scratch))
    items = ((case.path.name, read_raster(case.path), case.kind != GOOD) for case in todo)
    rows = []
    for row in run(variants, items, lambda prediction, bad: (bad, prediction.image_score)):
        bad, score = (np.array(v) for v in zip(*row.pop("graded"), strict=True))
        auroc = image_metrics(bad, score, score > np.inf).auroc
        rows.append({"data": root.name, "model": folder.parent.name if given else options.preset, "images": len(todo),
                     "accuracy": "image AUROC", "value": auroc, **row})  # fmt: skip
    return rows


def scans(root: Path, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Measure the tumour model on the first patients of a folder."""
    model = Engine("cpu").load("tumour-lgg-mri")
    todo = find_cases(root, lenient=True)
    chosen, last = todo[: options.patients], todo[-2:]
    calibrate = scratch / "calibrate"
    calibrate.mkdir()
    for path in (p for case in last for p in case.images):
        (calibrate / path.name).symlink_to(path.absolute())
    compare_on = scratch / "compare"
    compare_on.mkdir()
    for path in chosen[0].images:
        (compare_on / path.name).symlink_to(path.absolute())
    variants = list(exports(model, options.forms, [compare_on], [calibrate], scratch))
    items = ((case.name, *read_case(case, model.card.channels)) for case in chosen)
    return [
        {"data": root.parent.name + "/" + root.name, "model": model.card.id, "images": len(chosen),
         "accuracy": "mean Dice", "value": float(np.mean(row.pop("graded"))), **row}
        for row in run(variants, items, lambda p, truth: dice(p.mask > 0, truth > 0))
    ]  # fmt: skip


def main() -> None:
    """Measure what was asked for, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, action="append", default=[], dest="sets", metavar="SET")
    parser.add_argument("--model", type=Path, action="append", default=[], help="of each set, in order; fitted without")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--scans", type=Path, metavar="STUDIES")
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--forms", nargs="+", metavar="FORM-PRECISION", default=[f"{f}-{p}" for f, p in FORMS])
    parser.add_argument("--json", type=Path, default=Path(RESULT))
    options = parser.parse_args()
    options.forms = [tuple(name.split("-")) for name in options.forms]
    if not options.sets and not options.scans:
        raise SystemExit("Nothing to measure: give folders with --set, or --scans.")
    import openvino

    core = openvino.Core()
    about = {"date": date.today().isoformat(), "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
             "openvino_can": core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), "cores": os.cpu_count(),
             "load": os.getloadavg()[0], "python": platform.python_version(), "command": " ".join(sys.argv),
             **{name: version(name) for name in ("torch", "openvino", "onnxruntime")}}  # fmt: skip
    rows: list[dict[str, Any]] = []
    models = [*options.model, *[None] * len(options.sets)]
    jobs = [(parts, root, model) for root, model in zip(options.sets, models, strict=False)]
    print(
        "| data | form | accuracy | score differs by | mask | verdicts | let through | CPU ms | MB |",
        "|" + " --- |" * 9,
        sep="\n",
    )
    for job in [*jobs, *([(scans, options.scans, None)] if options.scans else [])]:
        with tempfile.TemporaryDirectory() as scratch:
            work, root, model = job
            found = work(root, model, options, Path(scratch)) if work is parts else work(root, options, Path(scratch))
        for r in found:
            print(f"| {r['data']} | {r['form']} {r['precision']} | {r['value']:.4f} | {r['score_difference']:.2g} "
                  f"| {r['mask_share']:.2%} | {r['other_verdicts']} of {r['images']} | {r['let_through']} "
                  f"| {r['cpu_ms']:.1f} | {r['megabytes']:.1f} |", flush=True)  # fmt: skip
        rows += found
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2), encoding="utf-8")
    print(f"\n{about}\n{options.json}")


if __name__ == "__main__":
    main()
