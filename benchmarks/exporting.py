"""What an export costs in accuracy, and what it gains in speed and size, in every form and precision.

    python benchmarks/exporting.py                               solar cells and scans of INSPECTION_DATA
    python benchmarks/exporting.py --set SET --set SET           fits a model on each and exports it
    python benchmarks/exporting.py --model MODEL --set SET       takes that model
    python benchmarks/exporting.py --scans STUDIES --patients 2  the tumour model that comes with the suite

Needs the extra ``[export]``. A set is an MVTec-style folder: `train/good`, `test/good`, `test/DEFECT`; int8 takes its
ranges from `train/good`. Studies are a folder with `images` and `masks`, as for `inspection evaluate`; int8 takes its
ranges from the last of them, and the first ones are measured. A set's model also becomes a bundle for an edge device;
what it asks for is installed from the package index into an environment of its own, and there it runs on all images.
Each export is made, and compared with its original, in a process that is ended after ``--limit`` seconds. Then every
image goes through the original and through all exports in turn, so that each meets the same load; milliseconds are CPU
time, all threads together, of network and search (no decoding, no findings). All of it runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, data, in_process, lacking, left_out, machine, render, table, write_json

from inspection_core.cases import find_cases, read_case
from inspection_core.engine import Engine, LoadedModel
from inspection_core.evaluate import GOOD, cases
from inspection_core.export_model import PRECISIONS, export
from inspection_core.export_model.edge import RUNNER
from inspection_core.export_model.parity import MASK_TOLERANCES, REPORT, TOLERANCES, compare, difference, megabytes
from inspection_core.image import Image
from inspection_core.infer import begin, complete, forward, predict
from inspection_core.io.raster import list_images, read_raster
from inspection_core.learn import fit
from inspection_core.metrics import image_metrics
from inspection_core.segmentation_metrics import dice

FORMS = [(form, precision) for form, known in PRECISIONS.items() for precision in known]
DEFAULT_SET, DEFAULT_SCANS = ("industrial", "pv_el", "pv_cell_mono"), ("medical", "lgg2d", "test")
PAUSE = 0.05
"""Seconds before each call: threads of ONNX Runtime turn for a while after their work, and would count for the next."""
INSTALLERS = ("pip", "setuptools", "wheel", "_distutils_hack", "distutils-precedence.pth")
"""Beginnings of what an environment holds besides what was asked for."""
COLUMNS = ["form", "", "score differs by", "labels differ", "other verdicts", "let through", "CPU ms", "MB"]


def export_here(model: str, form: str, precision: str, out: str, images: str, calibrate: str) -> None:
    """Export a model in this process, and compare both; lists of paths are JSON."""
    compared, ranges = ([Path(p) for p in json.loads(paths)] for paths in (images, calibrate))
    loaded = Engine("cpu").load(model)
    export(loaded, form, Path(out), compared, precision=precision, calibrate=ranges, allow_difference=True)
    print(json.dumps({}))


def exports(
    model: LoadedModel, name: str | Path, options: argparse.Namespace, images: list[Path], calibrate: list[Path],
    folder: Path,
) -> tuple[list[tuple[str, str, LoadedModel]], list[tuple[str, str, str]]]:  # fmt: skip
    """Return form, precision and model of the original and of each export, and of those that failed the reason."""
    made, failed = [("original", "fp32", model)], []
    paths = [json.dumps([str(p) for p in some]) for some in (images, calibrate)]
    for form, precision in options.forms:
        out = folder / f"{form}-{precision}"
        done = in_process(__file__, "--export", name, form, precision, out, *paths, limit=options.limit)
        print(f"  {form} {precision} {done}", file=sys.stderr, flush=True)
        if "error" in done:
            failed.append((form, precision, done["error"]))
        else:
            made.append((form, precision, Engine("cpu").load(out)))
    return made, failed


def run(variants: list[tuple[str, str, LoadedModel]], items: Iterator[tuple[str, Image, Any]], grade: Callable):
    """Send every item through every variant in turn; return a row for each."""
    scores: list[list[Any]] = [[] for _ in variants]
    spent: list[list[float]] = [[] for _ in variants]
    compared: list[list[Any]] = [[] for _ in variants]
    for name, image, truth in items:
        first = None
        for k, (_, precision, model) in enumerate(variants):
            ready = begin(image, model)
            time.sleep(PAUSE)
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
            "cpu_ms": float(np.median(spent[k])),
            "megabytes": megabytes(model.folder),
        }


def parts(root: Path, given: Path | None, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure a set's model on its test images."""
    folder = given or fit(root, scratch / "model", preset=options.preset, device="cpu").folder
    model = Engine("cpu").load(folder)
    todo = cases(root)
    good = [case.path for case in todo if case.kind == GOOD]
    variants, failed = exports(model, folder, options, good[:2], list_images(root / "train" / "good"), scratch)
    items = ((case.path.name, read_raster(case.path), case.kind != GOOD) for case in todo)
    rows = []
    for row in run(variants, items, lambda prediction, bad: (bad, prediction.image_score)):
        bad, score = (np.array(v) for v in zip(*row.pop("graded"), strict=True))
        rows.append({**row, "value": image_metrics(bad, score, score > np.inf).auroc})
    what = folder.name if given else f"preset {options.preset}"
    found = {"data": f"{root.name}, {what}", "images": len(todo), "unit": "images", "accuracy": "image AUROC",
             "rows": rows, "failed": failed}  # fmt: skip
    if not options.no_edge:
        found["edge"] = edge_bundle(model, [case.path.absolute() for case in todo], options.limit, scratch)
    return found


def edge_bundle(model: LoadedModel, images: list[Path], limit: float, scratch: Path) -> dict[str, Any]:
    """Return how a bundle for an edge device compares with its model, in this environment and in one of its own."""
    folder = scratch / "edge"
    done = in_process(__file__, "--export", model.folder, "edge", "fp32", folder,
                      json.dumps([str(p) for p in images]), "[]", limit=limit)  # fmt: skip
    print(f"  edge {done}", file=sys.stderr, flush=True)
    if "error" in done:
        return done
    found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    rows = found["images"]
    result = {
        "images": len(rows),
        "score_difference": max(r["score_difference"] for r in rows),
        "largest_difference": max(r["largest_difference"] for r in rows),
        "mask_share": max(r["mask_share"] for r in rows),
        "other_verdicts": sum(not r["same_verdict"] for r in rows),
        "let_through": not found["beyond_tolerance"],
        "ms": found["network_ms"],
        "megabytes": megabytes(folder),
    }
    try:
        return {**result, "alone": edge_alone(model, folder, images, limit, scratch / "device")}
    except (OSError, subprocess.SubprocessError) as error:
        return {**result, "alone": {"error": f"could not be installed and run ({type(error).__name__})"}}


def edge_alone(model: LoadedModel, folder: Path, images: list[Path], limit: float, place: Path) -> dict[str, Any]:
    """Install what a bundle asks for into a fresh environment at `place`, and run it there on images."""
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    words = ["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([python, *words, "-r", folder / "requirements.txt"], check=True, capture_output=True, timeout=limit)
    size = installed_bytes(place)
    lines = place / "lines.jsonl"
    started = time.perf_counter()
    subprocess.run([python, "-I", folder / RUNNER, "--out", lines, "--", *images], check=True, capture_output=True,
                   timeout=limit)  # fmt: skip
    seconds = time.perf_counter() - started
    found = {row["path"]: row for row in map(json.loads, lines.read_text(encoding="utf-8").splitlines())}
    pairs = [(predict(read_raster(path), model), found[str(path)]) for path in images]
    shutil.rmtree(place)
    return {
        "images": len(pairs),
        "score_difference": max(abs(own.image_score - row["score"]) for own, row in pairs),
        "other_verdicts": sum(own.verdict != row["verdict"] for own, row in pairs),
        "ms": 1e3 * float(np.median([row["seconds"] for _, row in pairs])),
        "process_seconds": seconds,
        "installed_megabytes": size / 1e6,
    }


def installed_bytes(place: Path) -> int:
    """Return the bytes of the packages in an environment, without those that installed them."""
    own = [p for root in place.rglob("site-packages") for p in root.iterdir() if not p.name.startswith(INSTALLERS)]
    files = [f for p in own for f in (p.rglob("*") if p.is_dir() else [p]) if "__pycache__" not in f.parts]
    return sum(f.stat().st_size for f in files if f.is_file())


def edge_table(found: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a set's edge bundle."""
    edge, title = found["edge"], f"{found['data']}, the edge bundle"
    columns = ["environment", "score differs by", "labels differ", "other verdicts", "let through",
               "ms from file to verdict", "bundle, MB", "installed beside it, MB"]  # fmt: skip
    if "error" in edge:
        return table(title, columns, [["the suite's", f"failed: {edge['error'][:80]}", *[""] * 6]])
    rows = [["the suite's", f"{edge['score_difference']:.2g}", f"{edge['mask_share']:.2%}", edge["other_verdicts"],
             "yes" if edge["let_through"] else "**no**", f"{edge['ms']['export']:.1f}", f"{edge['megabytes']:.1f}",
             ""]]  # fmt: skip
    alone = edge["alone"]
    if "error" in alone:
        rows.append(["of its own", alone["error"], *[""] * 6])
    else:
        rows.append(["of its own", f"{alone['score_difference']:.2g}", "", alone["other_verdicts"], "",
                     f"{alone['ms']:.1f}", "", f"{alone['installed_megabytes']:.0f}"])  # fmt: skip
    return table(title, columns, rows)


def scans(root: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure the tumour model on the first patients of a folder."""
    name = "tumour-lgg-mri"
    model = Engine("cpu").load(name)
    todo = find_cases(root, lenient=True)
    chosen, last = todo[: options.patients], todo[-2:]
    folders = {"compare": chosen[:1], "calibrate": last}
    for folder, some in folders.items():
        (scratch / folder).mkdir()
        for path in (p for case in some for p in case.images):
            (scratch / folder / path.name).symlink_to(path.absolute())
    variants, failed = exports(model, name, options, [scratch / "compare"], [scratch / "calibrate"], scratch)
    items = ((case.name, *read_case(case, model.card.channels)) for case in chosen)
    rows = [
        {**row, "value": float(np.mean(row.pop("graded")))}
        for row in run(variants, items, lambda p, truth: dice(p.mask > 0, truth > 0))
    ]
    return {"data": f"{root.parent.name}/{root.name}, {name}", "images": len(chosen), "unit": "studies",
            "accuracy": "mean Dice", "rows": rows, "failed": failed}  # fmt: skip


def result_table(found: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a set or of studies."""
    rows = []
    for r in found["rows"]:
        cells = [f"{r['form']} {r['precision']}", f"{r['value']:.4f}"]
        if r["form"] == "original":
            cells += ["", "", "", ""]
        else:
            cells += [f"{r['score_difference']:.2g}", f"{r['mask_share']:.2%}", r["other_verdicts"],
                      "yes" if r["let_through"] else "**no**"]  # fmt: skip
        rows.append([*cells, f"{r['cpu_ms']:,.1f}", f"{r['megabytes']:.1f}"])
    rows += [[f"{form} {precision}", f"failed: {why[:80]}", *[""] * 6] for form, precision, why in found["failed"]]
    columns = [found["accuracy"] if name == "" else name for name in COLUMNS]
    return table(f"{found['data']}, {found['images']} {found['unit']}", columns, rows)


def main() -> int:
    """Measure what was asked for."""
    if sys.argv[1:2] == ["--export"]:
        export_here(*sys.argv[2:])
        return 0
    parser = arguments("exporting", __doc__)
    parser.add_argument("--set", type=Path, action="append", default=[], dest="sets", metavar="SET")
    parser.add_argument("--model", type=Path, action="append", default=[], help="of each set, in order; fitted without")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--scans", type=Path, metavar="STUDIES")
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--forms", nargs="+", metavar="FORM-PRECISION", default=[f"{f}-{p}" for f, p in FORMS])
    parser.add_argument("--no-edge", action="store_true", help="without the bundle for an edge device")
    parser.add_argument("--limit", type=float, default=300, help="seconds that an export may take")
    options = parser.parse_args()
    options.forms = [tuple(name.split("-")) for name in options.forms]
    if why := lacking("onnx", "onnxruntime", "openvino", extra="export"):
        return left_out(why)
    if not options.sets and not options.scans:
        if data(*DEFAULT_SET) is None or data(*DEFAULT_SCANS) is None:
            return left_out("needs INSPECTION_DATA, the folder of real images, or --set or --scans")
        options.sets, options.scans = [data(*DEFAULT_SET)], data(*DEFAULT_SCANS)
    facts, found = machine(("inspection-suite", "torch", "openvino", "onnxruntime", "numpy")), []
    models = [*options.model, *[None] * len(options.sets)]
    jobs = [(parts, root, model) for root, model in zip(options.sets, models, strict=False)]
    for work, *given in [*jobs, *([(scans, options.scans)] if options.scans else [])]:
        with tempfile.TemporaryDirectory(prefix="exporting-") as scratch:
            found.append(work(*given, options, Path(scratch)))
        made = [result_table(f) for f in found] + [edge_table(f) for f in found if "edge" in f]
        result = write_json(options.out, facts, made, found)
    print(render(result))
    # bfloat16 that does not come to an end is the processor's fault, and said in its row.
    failed = [one for f in found for one in f["failed"] if one[1] != "bf16"]
    failed += [f for f in found if "error" in f.get("edge", ())]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
