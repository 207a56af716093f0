"""Choose settings of `patch-memory` for each set by the test images of the other sets, and measure the choice on it.

All of a set's ``train/good`` makes a memory, and its test images are scored. For each set the setting with the best
mean image AUROC on the *other* sets is picked; what it reaches on the set itself is then a measurement that the choice
has not seen::

    python benchmarks/accuracy/leave_one_out.py --set SET --set SET --set SET --seeds 0 1 --json F
    python benchmarks/accuracy/leave_one_out.py --read F

Models and the other settings are spelt as for ``synthetic_defects.py``. The figure of a setting is the mean over the
seeds of the memory's random choices.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from synthetic_defects import image_scores, keep, kept, parse, remember, spell

from inspection_core.evaluate import GOOD, cases
from inspection_core.io.raster import read_raster

Row = dict[str, Any]


def measure(folder: Path, seed: int, asked: argparse.Namespace, models: Sequence[Any]) -> list[Row]:
    """Return the image AUROC of each setting on a set's test images."""
    tests = cases(folder)
    whole = remember(folder, None, models, argparse.Namespace(**vars(asked) | {"seed": seed, "one_scale": False}))
    settings = list(itertools.product(whole.memories, models, asked.top))
    bad, scores = [], []
    for case in tests:
        bad.append(case.kind != GOOD)
        scores.append(list(image_scores(whole, read_raster(case.path), settings)))
    by_setting = np.array(scores)
    return [
        {
            "set": folder.name,
            "seed": seed,
            "setting": [spell(views), *key, top],
            "image_auroc": round(float(roc_auc_score(bad, by_setting[:, k])), 5),
        }
        for k, (key, views, top) in enumerate(settings)
    ]


def table(rows: Sequence[Row]) -> str:
    """Return a line for each setting, and one for each set with what the other sets pick for it."""
    sets = list(dict.fromkeys(r["set"] for r in rows))
    settings = list(dict.fromkeys(tuple(r["setting"]) for r in rows))
    figure = {
        (name, setting): float(
            np.mean([r["image_auroc"] for r in rows if r["set"] == name and tuple(r["setting"]) == setting])
        )
        for name, setting in itertools.product(sets, settings)
    }
    lines = [" | ".join(["model", "memory", "share", "neighbours", "top", *sets, "mean"])]
    for setting in settings:
        found = [figure[name, setting] for name in sets]
        lines.append(" | ".join([*map(str, setting), *(f"{f:.4f}" for f in (*found, np.mean(found)))]))
    for name in sets:
        others = [other for other in sets if other != name]
        pick = max(settings, key=lambda s: float(np.mean([figure[other, s] for other in others])))
        lines.append(f"for {name} the others pick {pick}: {figure[name, pick]:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", type=Path, action="append", default=[], help="MVTec-style folder")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["320:10:3+256:0:1", "320:10:3+256:4:4", "320:10:3+256:4:4+256:0:1"],
        help="views joined by +",
    )
    parser.add_argument("--memory", type=int, nargs="+", default=[8192])
    parser.add_argument("--share", type=float, nargs="+", default=[0.1])
    parser.add_argument("--neighbours", type=int, nargs="+", default=[15])
    parser.add_argument("--top", type=float, nargs="+", default=[0.01, 0.03])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="append figures here, a line each")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="take figures from these files")
    asked = parser.parse_args()
    if not asked.sets and not asked.read:
        parser.error("give --set or --read")
    rows = kept(asked.read)
    models = [parse(m) for m in asked.models]
    for seed, folder in itertools.product(asked.seeds, asked.sets):
        start = time.perf_counter()
        new = measure(folder.resolve(), seed, asked, models)
        rows += new
        print(f"{folder.name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        keep(asked.json, new)
    print(table(rows))


if __name__ == "__main__":
    main()
